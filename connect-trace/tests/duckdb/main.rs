//! Recordings of a fleet in one folder, read by DuckDB as one table. Skipped, with the reason, where there is none.

#[path = "../command/mod.rs"]
mod command;
#[path = "../fixtures/recording.rs"]
mod fixtures;
#[path = "../fixtures/folder.rs"]
mod folder;

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use connect_trace::{
    connect::{Connect, ConnectionEvent, Fate, SourcePort},
    recording::{HEADER, Row},
};
use libtest_mimic::{Arguments, Completion, Trial};
use serde_json::{Value, json};

use self::{
    command::{connect_trace, text},
    fixtures::{BEGAN_UNIX, connect, write_recording, write_recording_of},
    folder::Folder,
};

/// The folder into which `cargo xtask` puts the package of DuckDB.
const FETCHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/duckdb");

/// Prints the rows of a query as JSON.
const SCRIPT: &str = "\
import duckdb, json, sys
print(json.dumps(duckdb.sql(sys.argv[1]).fetchall(), default=str))
";

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;

/// A test and its name.
type Test = (&'static str, fn() -> Result<()>);

const TESTS: &[Test] = &[
    (
        "a_fleets_recordings_are_one_table_that_agrees_with_their_reports",
        a_fleets_recordings_are_one_table_that_agrees_with_their_reports,
    ),
    (
        "recordings_without_partitions_are_the_same_table",
        recordings_without_partitions_are_the_same_table,
    ),
    (
        "times_are_times_of_day_and_partitions_are_their_dates",
        times_are_times_of_day_and_partitions_are_their_dates,
    ),
    (
        "columns_that_are_empty_in_most_files_have_their_types",
        columns_that_are_empty_in_most_files_have_their_types,
    ),
    (
        "the_query_of_the_documentation_has_the_table_below_it",
        the_query_of_the_documentation_has_the_table_below_it,
    ),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = TESTS.iter().map(|&(name, run)| {
        Trial::ignorable_test(name, move || match query("SELECT 1") {
            Err(reason) => Ok(Completion::ignored_with(format!(
                "no DuckDB: `cargo xtask setup --all` gets it with python3 and pip: {reason:#}"
            ))),
            Ok(_) => match run() {
                Ok(()) => Ok(Completion::Completed),
                Err(error) => Err(format!("{error:#}").into()),
            },
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Returns the rows of a query.
fn query(sql: &str) -> Result<Value> {
    let mut python = Command::new("python3");
    python
        .args(["-c", SCRIPT, sql])
        .env("PYTHONPATH", FETCHED)
        .env("TZ", "UTC");
    let output = python.output().context("cannot run python3")?;
    let messages = text(&output.stderr);
    let last = messages.trim_end().lines().last().unwrap_or_default();
    ensure!(output.status.success(), "{last}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Writes the recordings of two hosts on two days, of a thousand calls each, and returns their paths.
fn fleet(folder: &Folder) -> Result<Vec<String>> {
    folder.file("README", b"no recording");
    let mut paths = Vec::new();
    for (number, (host, day)) in [("web1", 14), ("web1", 15), ("web2", 14), ("web2", 15)]
        .into_iter()
        .enumerate()
    {
        let inner = format!("host={host}/date=2023-11-{day}");
        fs::create_dir_all(folder.path(&inner))?;
        let path = folder.path(&format!("{inner}/221320-000000.csv.zst"));
        let number = number as u64;
        let connects = (0..1_000).map(|nth| Connect {
            port: match nth % 50 {
                0 => SourcePort::None,
                _ => SourcePort::Searched(20_000 + (nth % 2) as u16),
            },
            errno: if nth % 50 == 0 {
                libc::EADDRNOTAVAIL
            } else {
                0
            },
            ..connect(
                nth * SECOND,
                5_000 + (nth * nth * 7_919 + number * 104_729) % 1_000_003,
                0,
            )
        });
        write_recording_of(
            host,
            BEGAN_UNIX + (day - 14) * DAY,
            Path::new(&path),
            "",
            SECOND,
            connects.map(Row::Connect),
        )?;
        paths.push(path);
    }
    Ok(paths)
}

/// Returns the reports of these files or folders.
fn reports(files: &[&str]) -> Result<Vec<Value>> {
    let arguments = [&["report", "--format", "json"], files].concat();
    let output = connect_trace(&arguments);
    ensure!(output.status.success(), "{}", text(&output.stderr));
    let lines = text(&output.stdout);
    let lines: Result<Vec<Value>, _> = lines.lines().map(serde_json::from_str).collect();
    let reports = lines?.into_iter().filter(|line| line["type"] == "report");
    Ok(reports.collect())
}

fn a_fleets_recordings_are_one_table_that_agrees_with_their_reports() -> Result<()> {
    let folder = Folder::new("duckdb-fleet");
    fleet(&folder)?;
    let all = folder.path("");
    let reports = reports(&[&all])?;
    ensure!(reports.len() == 4, "{} reports", reports.len());
    let rows = query(&format!(
        "SELECT parity, count(*), sum(connect_ns), sum(search_ns), quantile_disc(connect_ns, 0.5), \
         quantile_disc(connect_ns, 0.99)
         FROM (SELECT *, CASE WHEN errno <> 0 THEN 'failed' WHEN source_port % 2 = 0 THEN 'even' \
         ELSE 'odd' END AS parity FROM read_csv('{all}/**/*.csv.zst') WHERE event = 'connect')
         GROUP BY host, date, parity ORDER BY host, date, parity"
    ))?;
    let rows = rows.as_array().context("rows")?;
    ensure!(rows.len() == 4 * 3, "{rows:?}");
    let mut expected = Vec::new();
    for report in &reports {
        let mut groups = report["groups"].as_array().context("groups")?.clone();
        groups.sort_by_key(|group| group["key"].to_string());
        expected.extend(groups);
    }
    for (row, group) in rows.iter().zip(&expected) {
        let (connect, search) = (&group["connect"], &group["search"]);
        let exact = [
            &group["key"],
            &connect["count"],
            &connect["total_ns"],
            &search["total_ns"],
        ];
        assert_eq!([0, 1, 2, 3].map(|at| &row[at]), exact, "{group}");
        for (at, percentile) in [(4, "p50_ns"), (5, "p99_ns")] {
            let of = |value: &Value| value.as_f64().with_context(|| value.to_string());
            let (table, report) = (of(&row[at])?, of(&connect[percentile])?);
            ensure!(
                (table..=table * 1.001 + 1.0).contains(&report),
                "{percentile}: {table} in the table, {report} in {group}"
            );
        }
    }
    let sums = query(&format!(
        "SELECT count(*), sum(connect_ns) FROM read_csv('{all}/**/*.csv.zst')"
    ))?;
    let sum = |field: fn(&Value) -> &Value| {
        let values = expected.iter().map(|group| field(group).as_u64());
        values.sum::<Option<u64>>()
    };
    let expected = json!([[
        sum(|group| &group["connect"]["count"]),
        sum(|group| &group["connect"]["total_ns"])
    ]]);
    assert_eq!(sums, expected);
    Ok(())
}

fn recordings_without_partitions_are_the_same_table() -> Result<()> {
    let folder = Folder::new("duckdb-flat");
    let flat = folder.path("flat");
    fs::create_dir(&flat)?;
    for (number, path) in fleet(&folder)?.iter().enumerate() {
        fs::copy(path, format!("{flat}/{number}.csv.zst"))?;
    }
    let all = folder.path("");
    let columns = HEADER.trim_end();
    let rows = |files: &str| {
        query(&format!(
            "SELECT host, count(*), sum(hash(r)) FROM (SELECT {columns} FROM read_csv('{files}')) r \
             GROUP BY host ORDER BY host"
        ))
    };
    let rows = (
        rows(&format!("{all}/host=*/**/*.csv.zst"))?,
        rows(&format!("{flat}/*.csv.zst"))?,
    );
    assert_eq!(rows.0, rows.1);
    assert_eq!(
        (&rows.0[0][0], &rows.0[1][0], &rows.0[1][1]),
        (&json!("web1"), &json!("web2"), &json!(2_000))
    );
    Ok(())
}

fn times_are_times_of_day_and_partitions_are_their_dates() -> Result<()> {
    let folder = Folder::new("duckdb-times");
    fleet(&folder)?;
    let all = folder.path("");
    let rows = query(&format!(
        "SELECT date, min(make_timestamp_ns(start_unix_ns)), count(*) FILTER (WHERE \
         make_timestamp_ns(start_unix_ns)::DATE = date), typeof(any_value(start_unix_ns))
         FROM read_csv('{all}/**/*.csv.zst') GROUP BY ALL ORDER BY date"
    ))?;
    let expected = json!([
        ["2023-11-14", "2023-11-14 22:13:20", 2_000, "BIGINT"],
        ["2023-11-15", "2023-11-15 22:13:20", 2_000, "BIGINT"]
    ]);
    assert_eq!(rows, expected);
    Ok(())
}

fn columns_that_are_empty_in_most_files_have_their_types() -> Result<()> {
    const FILES: u64 = 25;
    let folder = Folder::new("duckdb-types");
    let connect = Connect {
        search_ns: None,
        ..connect(0, 1_000, 20_000)
    };
    for number in 1..FILES {
        let path = folder.path(&format!("{number:02}.csv.zst"));
        write_recording(Path::new(&path), "", 0, [connect])?;
    }
    // The last file has what the others do not, and a host of digits alone.
    let event = ConnectionEvent {
        connect,
        handshake_ns: Some(2_000),
        syn_retransmits: Some(1),
        fate: Fate::ClosedHere,
        end_ns: Some(connect.start_ns + 77),
        errno: 0,
    };
    let rows = [Row::Connect(connect), Row::Event(event)];
    let path = folder.path(&format!("{FILES:02}.csv.zst"));
    write_recording_of("4711", BEGAN_UNIX, Path::new(&path), "", 0, rows)?;
    let all = folder.path("");
    let rows = query(&format!(
        "SELECT sum(handshake_ns), sum(syn_retransmits), max(end_unix_ns - start_unix_ns), min(host), count(*)
         FROM read_csv('{all}/*.csv.zst', files_to_sniff = -1)"
    ))?;
    assert_eq!(rows, json!([[2_000, 1, 77, "4711", FILES + 1]]));
    Ok(())
}

/// Answers the query in docs/recording.md, and compares with the table there.
fn the_query_of_the_documentation_has_the_table_below_it() -> Result<()> {
    let document = include_str!("../../../docs/recording.md");
    let (_, query_on) = document
        .split_once("```sql\n")
        .context("there is a query in docs/recording.md")?;
    let (sql, after) = query_on.split_once("\n```").context("it ends")?;
    ensure!(sql.contains("'records/**/*.csv.zst'"), "{sql}");
    let folder = Folder::new("duckdb-docs");
    fleet(&folder)?;
    let rows = query(&sql.replace("records/**", &format!("{}/**", folder.path(""))))?;
    let cell = |value: &Value| match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    };
    let line = |row: &Value| {
        let cells = row.as_array().into_iter().flatten().map(cell);
        format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
    };
    let table: Vec<String> = rows.as_array().context("rows")?.iter().map(line).collect();
    let (_, table_on) = after.split_once("|---|").context("a table follows")?;
    let below = table_on.lines().skip(1);
    let below: Vec<&str> = below.take_while(|line| line.starts_with('|')).collect();
    assert_eq!(table, below, "{}", table.join("\n"));
    Ok(())
}

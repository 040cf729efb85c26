//! The cost of the trace, and its use of `--max-overhead`.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use crate::overhead::{Overhead, core_percent, history::LimitUse, limiter::Level, ns_per};
use crate::stats::report::Report;
use crate::term::{
    numbers::{counted, wrapped},
    paint::Paint,
};

/// Width of the column of programs: the longest name is `fentry_check_established6_count`.
const NAME: usize = 32;

/// Writes, at the head of a report, which connections its figures do not cover because of the limit.
pub(super) fn head(text: &mut String, budget: &LimitUse) -> fmt::Result {
    if !budget.sampled.is_zero() {
        let words = format!(
            "for {:.2} s of this time there are records of {}; counts, times and buckets cover only these; the \
             counts of calls are exact: {} entered, {} without a record",
            budget.sampled.as_secs_f64(),
            samples(budget),
            counted(budget.entered, "call", "calls"),
            budget.unsampled,
        );
        wrapped(text, "sampled:", "  ", &words)?;
    }
    if !budget.blind.is_zero() {
        let words = format!(
            "for {:.2} s of this time the probes were detached, and no connect() was seen or counted",
            budget.blind.as_secs_f64()
        );
        wrapped(text, "blind:", "  ", &words)?;
    }
    Ok(())
}

/// Describes the share of connections that have a record.
fn samples(budget: &LimitUse) -> String {
    let every = budget
        .periods
        .iter()
        .filter_map(|period| match period.level {
            Level::Sampled(every) => Some(every),
            _ => None,
        });
    match (every.clone().min(), every.max()) {
        (Some(least), Some(most)) if least == most => format!("1 connect() in {least}"),
        (Some(least), Some(most)) => format!("1 connect() in {least} to {most}"),
        _ => "some connect() calls only".to_owned(),
    }
}

/// Writes the sections at the end, if they were requested.
pub(super) fn write(text: &mut String, paint: Paint, report: &Report) -> fmt::Result {
    if let Some(overhead) = &report.overhead {
        cost(text, paint, overhead, report.elapsed)?;
    }
    if let Some(budget) = &report.budget {
        steps(text, paint, budget)?;
    }
    Ok(())
}

fn cost(text: &mut String, paint: Paint, overhead: &Overhead, elapsed: Duration) -> fmt::Result {
    let title = paint.title(&format!("{:<1$}", "cost of the trace", NAME + 2));
    writeln!(
        text,
        "\n{title}{:>10} {:>9} {:>11} {:>11}",
        "runs", "ns/run", "ns/connect", "% of a core"
    )?;
    let per = |time: Duration, count: u64| {
        ns_per(time, count).map_or_else(|| "-".to_owned(), |ns| format!("{ns:.1}"))
    };
    let percent = |time| format!("{:.3}", core_percent(time, elapsed));
    for program in overhead.programs.iter().filter(|program| program.runs > 0) {
        writeln!(
            text,
            "  {:<NAME$}{:>10} {:>9} {:>11} {:>11}",
            program.name,
            program.runs,
            per(program.time, program.runs),
            per(program.time, overhead.calls),
            percent(program.time),
        )?;
    }
    let programs = overhead.run_time();
    for (name, per_connect, time) in [
        ("all programs", per(programs, overhead.calls), programs),
        ("connect-trace itself", String::new(), overhead.own.cpu),
        ("together", String::new(), overhead.cpu_time()),
    ] {
        let (width, time) = (NAME + 20, percent(time));
        writeln!(text, "  {name:<width$} {per_connect:>11} {time:>11}")?;
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    writeln!(
        text,
        "memory of connect-trace: {:.1} MiB resident, {:.1} MiB at most",
        mib(overhead.own.resident_bytes),
        mib(overhead.own.most_resident_bytes),
    )?;
    wrapped(
        text,
        "run",
        "  ",
        "time is that of the programs, from the kernel's statistics, without the trampolines or kprobes around \
         them; to measure it, the kernel reads the clock twice for each run",
    )
}

fn steps(text: &mut String, paint: Paint, budget: &LimitUse) -> fmt::Result {
    let title = format!("budget: {} % of a core", budget.limit);
    writeln!(
        text,
        "\n{}\n{:>10} {:>10}  {:<34} {:>20}",
        paint.title(&title),
        "from, s",
        "for, s",
        "what was traced",
        "after overhead of, %",
    )?;
    if budget.left_out > 0 {
        let earlier = counted(budget.left_out, "earlier step", "earlier steps");
        writeln!(text, "{:>21}  {earlier} left out", "")?;
    }
    for period in &budget.periods {
        let cost = period.cost.map(|cost| format!("{:.3}", cost.sum()));
        let line = format!(
            "{:>10.2} {:>10.2}  {:<34} {:>20}",
            period.begins.as_secs_f64(),
            period.lasted.as_secs_f64(),
            period.level.to_string(),
            cost.unwrap_or_default(),
        );
        writeln!(text, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        overhead::{history::LevelPeriod, limiter::Cost, process_usage::ProcessUsage, tests::runs},
        report::example::parity,
    };

    /// A report of 1.5 s with a period of every level.
    pub(crate) fn example() -> Report {
        let mut report = parity();
        report.overhead = Some(Overhead {
            calls: 100,
            programs: vec![
                runs("fentry_check_established6_count", 0, 0),
                runs("fentry_tcp_v4_connect", 100, 30),
                runs("fexit_tcp_v4_connect", 100, 45),
            ],
            own: ProcessUsage {
                cpu: Duration::from_millis(6),
                resident_bytes: 9 << 20,
                most_resident_bytes: 10 << 20,
            },
        });
        let ms = Duration::from_millis;
        let periods = [
            (Level::Full, 0, 500, None),
            (Level::Unwatched, 500, 100, Some(7.5)),
            (Level::Sampled(8), 600, 200, Some(3.25)),
            (Level::Sampled(64), 800, 100, Some(2.0)),
            (Level::Detached, 900, 600, Some(1.0)),
        ];
        report.budget = Some(LimitUse {
            limit: 0.5,
            periods: periods
                .into_iter()
                .map(|(level, begins, lasted, programs)| LevelPeriod {
                    level,
                    begins: ms(begins),
                    lasted: ms(lasted),
                    cost: programs.map(|programs| Cost { programs, own: 0.0 }),
                })
                .collect(),
            left_out: 1,
            unwatched: ms(1_000),
            sampled: ms(300),
            blind: ms(600),
            entered: 100,
            unsampled: 93,
        });
        report.accounting.kernel.entered += 93;
        report.accounting.kernel.unsampled = 93;
        report.accounting.blind = ms(600);
        report
    }

    const EXPECTED: &str = "
cost of the trace                       runs    ns/run  ns/connect % of a core
  fentry_tcp_v4_connect                  100     300.0       300.0       0.002
  fexit_tcp_v4_connect                   100     450.0       450.0       0.003
  all programs                                               750.0       0.005
  connect-trace itself                                                   0.400
  together                                                               0.405
memory of connect-trace: 9.0 MiB resident, 10.0 MiB at most
run time is that of the programs, from the kernel's statistics, without the
  trampolines or kprobes around them; to measure it, the kernel reads the clock
  twice for each run

budget: 0.5 % of a core
   from, s     for, s  what was traced                    after overhead of, %
                       1 earlier step left out
      0.00       0.50  everything as requested
      0.50       0.10  port checks not watched                           7.500
      0.60       0.20  records of 1 connect() in 8                       3.250
      0.80       0.10  records of 1 connect() in 64                      2.000
      0.90       0.60  probes detached, no call is seen                  1.000
";

    #[test]
    fn the_sections_are_this_text() {
        let mut text = String::new();
        write(&mut text, Paint(false), &example()).unwrap();
        assert_eq!(text, EXPECTED, "{text}");
        text.clear();
        write(&mut text, Paint(false), &parity()).unwrap();
        assert_eq!(text, "", "not asked for");
    }

    #[test]
    fn the_head_says_what_the_figures_are_of() {
        let mut text = String::new();
        head(&mut text, example().budget.as_ref().unwrap()).unwrap();
        let expected = "\
sampled: for 0.30 s of this time there are records of 1 connect() in 8 to 64;
  counts, times and buckets cover only these; the counts of calls are exact: 100
  calls entered, 93 without a record
blind: for 0.60 s of this time the probes were detached, and no connect() was
  seen or counted
";
        assert_eq!(text, expected);
    }
}

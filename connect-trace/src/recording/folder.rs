//! Recordings in a folder, one after another in bounded space: `host=NAME/date=YYYY-MM-DD/HHMMSS-UUUUUU.csv.zst`. Other
//! tools take the parts of such a path for columns (Hive partitions), and read only the files that a query needs.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use super::{args::Limits, frames, notes, writer::OWNER_ONLY};
use crate::{
    clock::{Clock, Time},
    term::printable::printable,
};

/// Ending of the name of a recording, by which other tools know its format.
const ENDING: &str = ".csv.zst";
/// Name of a partition without a value.
const NO_NAME: &str = "__HIVE_DEFAULT_PARTITION__";
/// Smallest change of the clock that begins another file.
const STEP: Duration = Duration::from_secs(1);
/// Maximum number of bytes of the notes of a file and the frame of its columns.
const NOTES: u64 = 64 << 10;

/// The files of this host in a folder.
pub(super) struct Folder {
    /// The folder of this host.
    host: PathBuf,
    limits: Limits,
    /// Clock of the file that is being written.
    clock: Clock,
    /// Start of that file.
    began: Instant,
    /// Date on which it began.
    date: String,
    /// The file that was created last, which other traces must not remove.
    locked: Option<File>,
}

impl Folder {
    /// Creates the folder of this host.
    ///
    /// # Errors
    /// If the folder cannot be created.
    pub(super) fn create(path: &Path, host: &str, limits: Limits) -> Result<Self> {
        let host = path.join(partition(host));
        create_folder(&host).map_err(|error| {
            anyhow!("--record {}: cannot be created: {error}", printable(&host))
        })?;
        Ok(Self {
            host,
            limits,
            clock: Clock::now(),
            began: Instant::now(),
            date: String::new(),
            locked: None,
        })
    }

    /// Returns the clock of the current file.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Returns the number of bytes at which a file is full.
    pub(super) fn size(&self) -> u64 {
        self.limits.size
    }

    /// Returns the maximum number of bytes of the batches of a file: the last one is written whole, and is no larger than
    /// a file.
    pub(super) fn most_bytes(&self) -> u64 {
        let size = self.limits.size;
        size + size.min(frames::MOST_FRAME as u64)
    }

    /// Returns true if another file is to begin: the time of the current one is over, its date has passed, or the clock
    /// was set.
    pub(super) fn is_over(&self) -> bool {
        self.began.elapsed() >= self.limits.time
            || Clock::now().is_step_of(STEP, &self.clock)
            // By the clock that names the next file.
            || date_and_time(self.clock.time()).0 != self.date
    }

    /// Follows the clock if it was set.
    pub(super) fn follow_clock(&mut self) {
        let clock = Clock::now();
        if clock.is_step_of(STEP, &self.clock) {
            self.clock = clock;
        }
    }

    /// Removes the oldest files until another one fits whose batches have this number of bytes, and creates it.
    ///
    /// # Errors
    /// If a file cannot be removed or created.
    pub(super) fn next_file(&mut self, bytes: u64) -> io::Result<(PathBuf, File)> {
        // A process that was forked meanwhile has the descriptor too: closing it would not end the lock.
        if let Some(before) = self.locked.take() {
            let _ = before.unlock();
        }
        self.make_room(bytes + NOTES)?;
        loop {
            let (date, time) = date_and_time(self.clock.time());
            let folder = self.host.join(format!("date={date}"));
            let path = folder.join(format!("{time}{ENDING}"));
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(OWNER_ONLY);
            let created = create_folder(&folder).and_then(|()| options.open(&path));
            match created {
                // In the same microsecond as the one before, or as that of another trace.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                created => {
                    let file =
                        created.map_err(|error| named(&path, "cannot be created", &error))?;
                    // Keeps other traces from removing it. A file system without locks has no such traces.
                    let _ = file.try_lock();
                    self.locked = file.try_clone().ok();
                    self.began = Instant::now();
                    self.date = date;
                    return Ok((path, file));
                }
            }
        }
    }

    /// Removes the oldest files of this host until there is room for another one of this number of bytes.
    fn make_room(&self, most: u64) -> io::Result<()> {
        let keep = self.limits.keep;
        let files = self.files()?;
        let mut sum: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        for (path, bytes) in files {
            if sum + most <= keep {
                return Ok(());
            }
            let removed = remove(&path);
            if removed.map_err(|error| named(&path, "cannot be removed", &error))? {
                sum -= bytes;
            }
        }
        if sum + most <= keep {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{}: files that another trace writes, or that are no recordings, take the room of --record-keep",
            printable(&self.host)
        )))
    }

    /// Returns the files whose names are those of recordings here, and their sizes on the disk, oldest first.
    fn files(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        /// A usual size of blocks.
        const BLOCK: u64 = 4096;
        let mut files = Vec::new();
        for date in entries(&self.host)? {
            if !has_shape(date.file_name(), "date=0000-00-00") {
                continue;
            }
            for path in entries(&date)? {
                let metadata = match fs::symlink_metadata(&path) {
                    Ok(metadata) => metadata,
                    // Moved away meanwhile.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(named(&path, "cannot be read", &error)),
                };
                let is_named = has_shape(path.file_name(), &format!("000000-000000{ENDING}"));
                if is_named && metadata.is_file() {
                    files.push((path, metadata.len().next_multiple_of(BLOCK)));
                }
            }
        }
        files.sort();
        Ok(files)
    }
}

/// Returns the files that these arguments name: a folder stands for all recordings below it.
pub(crate) fn named_files(paths: &[PathBuf]) -> Vec<Result<PathBuf>> {
    let files = paths.iter().flat_map(|path| {
        if !path.is_dir() {
            return vec![Ok(path.clone())];
        }
        match recordings_below(path) {
            Ok(files) => files.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    });
    files.collect()
}

/// Returns all recordings below a folder, in the order of their paths.
fn recordings_below(folder: &Path) -> Result<Vec<PathBuf>> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
        for path in entries(folder)? {
            let is_named = path
                .as_os_str()
                .as_encoded_bytes()
                .ends_with(ENDING.as_bytes());
            let kind = fs::symlink_metadata(&path)
                .map_err(|error| named(&path, "cannot be read", &error))?;
            if kind.is_dir() {
                collect(&path, files)?;
            } else if is_named {
                files.push(path);
            }
        }
        Ok(())
    }
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    if files.is_empty() {
        return Err(anyhow!(
            "{}: is a directory without recordings: no file below it ends in {ENDING}",
            printable(folder)
        ));
    }
    files.sort();
    Ok(files)
}

/// Removes a recording that nobody writes, and its folder if it was the last there. Returns whether it was removed.
fn remove(path: &Path) -> io::Result<bool> {
    let mut beginning = Vec::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    (&file).take(NOTES).read_to_end(&mut beginning)?;
    let title = notes::START.as_bytes();
    if !beginning.windows(title.len()).any(|bytes| bytes == title) {
        return Ok(false);
    }
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        return Ok(false);
    }
    fs::remove_file(path)?;
    if let Some(folder) = path.parent() {
        // Refused if there are others.
        let _ = fs::remove_dir(folder);
    }
    Ok(true)
}

fn create_folder(path: &Path) -> io::Result<()> {
    const FOLDER_MODE: u32 = 0o700;
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(path)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<PathBuf>> {
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    };
    read().map_err(|error| named(folder, "cannot be read", &error))
}

fn named(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{} {what}: {error}", printable(path)))
}

/// Returns true if a name has the characters of this shape, in which 0 stands for any digit.
fn has_shape(name: Option<&OsStr>, shape: &str) -> bool {
    let name = name.unwrap_or_default().as_encoded_bytes();
    let mut pairs = name.iter().zip(shape.bytes());
    name.len() == shape.len()
        && pairs.all(|(&byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            _ => byte == shape,
        })
}

/// Returns the name of the folder of a host: characters with a meaning in paths are written as `%NN`, which readers of
/// partitions decode.
fn partition(host: &str) -> String {
    let mut name = "host=".to_owned();
    for byte in host.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                name.push(char::from(byte));
            }
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(name, "%{byte:02X}");
            }
        }
    }
    if host.is_empty() {
        name.push_str(NO_NAME);
    }
    name
}

/// Returns date and time of day in UTC, as they stand in the path of a file.
fn date_and_time(time: Time) -> (String, String) {
    let text = time.rfc3339();
    let (date, time) = text.split_once('T').unwrap_or_default();
    let digits: String = time.chars().filter(char::is_ascii_digit).collect();
    let (time, rest) = digits.split_at_checked(6).unwrap_or_default();
    (
        date.to_owned(),
        format!("{time}-{}", &rest[..rest.len().min(6)]),
    )
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::recording::{Writer, notes::tests::start, tests::Scratch};

    const LIMITS: Limits = Limits {
        size: 64 << 10,
        time: Duration::from_hours(1),
        keep: 256 << 10,
    };

    /// Writes a file of this size that begins as a recording does, and returns its path.
    fn recording(folder: &Path, name: &str, bytes: u64) -> PathBuf {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut writer = Writer::create(&path).unwrap();
        writer.begin(&start()).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        path
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = recordings_below(folder).unwrap();
        let name = |path: &PathBuf| printable(path.strip_prefix(folder).unwrap()).to_string();
        names.iter().map(name).collect()
    }

    fn next_file(folder: &mut Folder) -> io::Result<(PathBuf, File)> {
        folder.next_file(folder.most_bytes())
    }

    #[test]
    fn a_file_lies_in_partitions_of_host_and_date() {
        let scratch = Scratch::new();
        let mut folder = Folder::create(&scratch.0, "web1", LIMITS).unwrap();
        folder.clock = Clock::fixed(0);
        let (path, _) = next_file(&mut folder).unwrap();
        let inner = printable(path.strip_prefix(&scratch.0).unwrap()).to_string();
        // The host has been up for less than a year.
        assert!(inner.starts_with("host=web1/date=197"), "{inner}");
        assert!(
            has_shape(path.file_name(), "000000-000000.csv.zst"),
            "{inner}"
        );
        let (other, _) = next_file(&mut folder).unwrap();
        assert!(path < other, "{inner}");
        let mode = |path: &Path| {
            use std::os::unix::fs::PermissionsExt as _;
            fs::metadata(path).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn date_and_time_are_digits_of_utc() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_735_689_599_000_007);
        let expected = ("2024-12-31".to_owned(), "235959-000007".to_owned());
        assert_eq!(date_and_time(Time::from(at)), expected);
    }

    #[test]
    fn any_name_of_a_host_is_one_folder() {
        for (host, expected) in [
            ("web1.example.com", "host=web1.example.com"),
            ("../a b=c", "host=..%2Fa%20b%3Dc"),
            ("", "host=__HIVE_DEFAULT_PARTITION__"),
        ] {
            assert_eq!(partition(host), expected);
        }
    }

    #[test]
    fn another_file_begins_by_time_by_date_and_after_a_step_of_the_clock() {
        let scratch = Scratch::new();
        let mut folder = Folder::create(&scratch.0, "web1", LIMITS).unwrap();
        next_file(&mut folder).unwrap();
        assert!(!folder.is_over() || folder.date != date_and_time(Clock::now().time()).0);
        folder.limits.time = Duration::ZERO;
        assert!(folder.is_over());
        folder.limits.time = LIMITS.time;
        let before = folder.clock;
        folder.clock = Clock::fixed(before.offset_ns() - 1_500_000_000);
        assert!(folder.is_over());
        folder.follow_clock();
        assert!(!folder.clock.is_step_of(STEP, &before));
        "1999-12-31".clone_into(&mut folder.date);
        assert!(folder.is_over());
    }

    #[test]
    fn the_oldest_recordings_are_removed_and_nothing_else() {
        let scratch = Scratch::new();
        let mut folder = Folder::create(&scratch.0, "web1", LIMITS).unwrap();
        let here = |name: &str, bytes| recording(&scratch.0, name, bytes);
        let oldest = here("host=web1/date=2000-01-01/000000-000000.csv.zst", 100_000);
        let locked = here("host=web1/date=2000-01-02/000000-000000.csv.zst", 40_000);
        let newest = here("host=web1/date=2000-01-03/000000-000000.csv.zst", 10_000);
        let others = [
            here("host=web2/date=2000-01-01/000000-000000.csv.zst", 1 << 20),
            here("host=web1/date=2000-01-01/notes.csv.zst", 1 << 20),
            here("host=web1/mine/000000-000000.csv.zst", 1 << 20),
        ];
        let foreign = scratch
            .0
            .join("host=web1/date=2000-01-01/000000-000001.csv.zst");
        fs::write(&foreign, "of somebody else").unwrap();
        let writing = File::open(&locked).unwrap();
        writing.lock().unwrap();
        let (current, file) = next_file(&mut folder).unwrap();
        assert!(!oldest.exists());
        for kept in others.iter().chain([&foreign, &locked, &newest, &current]) {
            assert!(kept.exists(), "{}", printable(kept));
        }
        // A file that another trace writes is not removed, and takes room.
        let too_much = here("host=web1/date=2000-01-04/000000-000000.csv.zst", 90_000);
        File::options()
            .write(true)
            .open(&locked)
            .unwrap()
            .set_len(200_000)
            .unwrap();
        let error = next_file(&mut folder).unwrap_err().to_string();
        assert!(error.contains("take the room of --record-keep"), "{error}");
        assert!(locked.exists() && current.exists() && !newest.exists() && !too_much.exists());
        drop((writing, file));
        next_file(&mut folder).unwrap();
        assert!(!locked.exists() && !locked.parent().unwrap().exists());
    }

    #[test]
    fn a_folder_stands_for_all_recordings_below_it() {
        let scratch = Scratch::new();
        for name in [
            "host=b/date=2000-01-01/1.csv.zst",
            "a.csv.zst",
            "host=a/2.csv.zst",
        ] {
            recording(&scratch.0, name, 2_000);
        }
        fs::write(scratch.0.join("README"), "").unwrap();
        let expected = [
            "a.csv.zst",
            "host=a/2.csv.zst",
            "host=b/date=2000-01-01/1.csv.zst",
        ];
        assert_eq!(names(&scratch.0), expected);
        let empty = Scratch::new();
        fs::create_dir_all(&empty.0).unwrap();
        let paths = [scratch.0.clone(), empty.0.clone(), "any".into()];
        let files = named_files(&paths);
        assert_eq!(files.len(), 3 + 1 + 1);
        let message = files[3].as_ref().unwrap_err().to_string();
        assert!(
            message.contains("is a directory without recordings"),
            "{message}"
        );
        assert_eq!(files[4].as_ref().unwrap(), Path::new("any"));
    }
}

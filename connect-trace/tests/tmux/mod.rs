//! A program on a terminal of tmux, which a test looks at and types into.

use std::{
    path::PathBuf,
    process::{self, Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Time limit for each wait; never reached, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

/// A server of tmux with one window, ended on drop.
pub struct Tmux {
    program: PathBuf,
    /// Name of its socket.
    socket: String,
}

impl Tmux {
    /// Runs a program with its arguments on a terminal of this size, and shows its status after its end.
    pub fn with_status(program: PathBuf, size: (u16, u16), run: &[&str]) -> Self {
        // tmux itself misses the status of some programs, which stay zombies.
        let shell = [
            "sh",
            "-c",
            "\"$@\"; echo \"status $?\"; exec sleep 1000",
            "sh",
        ];
        Self::start(program, size, &[&shell, run].concat())
    }

    /// Runs a program with its arguments on a terminal of this size.
    pub fn start(program: PathBuf, (columns, rows): (u16, u16), run: &[&str]) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let tmux = Self {
            program,
            socket: format!("connect-trace-{}-{number}", process::id()),
        };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let start = [&["new-session", "-d", "-x", &columns, "-y", &rows][..], run];
        tmux.says(&start.concat());
        tmux
    }

    /// Returns the lines of the terminal, without the spaces at their ends.
    pub fn shown(&self) -> String {
        self.says(&["capture-pane", "-p"])
    }

    /// Waits until the terminal shows this text, and returns its lines.
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(&format!("{text:?} is shown"), |shown| shown.contains(text))
    }

    /// Waits until the terminal shows what is wanted, and returns its lines.
    pub fn wait_until(&self, what: &str, is_wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let shown = self.shown();
            if is_wanted(&shown) {
                return shown;
            }
            assert!(Instant::now() < end, "waited in vain until {what}: {shown}");
            thread::sleep(PAUSE);
        }
    }

    /// Types keys, by the names that tmux has for them.
    pub fn keys(&self, keys: &[&str]) {
        self.says(&[&["send-keys"], keys].concat());
    }

    /// Changes the size of the terminal.
    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.says(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    /// Returns the value of a format of tmux, such as `alternate_on`.
    pub fn value(&self, of: &str) -> String {
        let format = format!("#{{{of}}}");
        self.says(&["display-message", "-p", &format])
            .trim()
            .to_owned()
    }

    /// Waits until the program has ended, and returns its status.
    pub fn ended(&self) -> String {
        let shown = self.wait_for("status ");
        let status = shown.lines().find_map(|line| line.strip_prefix("status "));
        status.unwrap_or_default().to_owned()
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let error = text(&output.stderr);
        assert!(output.status.success(), "tmux {arguments:?}: {error}");
        text(&output.stdout)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(&self.program)
            // Without the settings of whoever runs the test.
            .args(["-u", "-f", "/dev/null", "-L", &self.socket])
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .output()
            .expect("tmux can be run")
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

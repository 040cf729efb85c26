//! Starts the process that makes a run, and reads its messages.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{
    attempt::{self, Attempt},
    features::Features,
    plan::Plan,
    runner::{Job, Message, Outcome},
};

/// The hidden command that runs [`super::runner::run`].
pub(crate) const COMMAND: &str = "load-runner";

/// The running program, even if its file was replaced or removed.
const OURSELVES: &str = "/proc/self/exe";

/// Finds out which features the kernel has.
///
/// # Errors
/// If no private namespace can be created.
pub(crate) fn features() -> Result<Features> {
    let mut runner = Runner::start(&Job::Probe)?;
    match runner.next()? {
        Message::Features(features) => Ok(features),
        other => bail!("the process that tests the kernel answered {other:?}"),
    }
}

/// Makes a run. `progress` receives the number of attempts that were made and the number that failed; `take`
/// receives the attempts themselves, in the order in which they ended.
///
/// # Errors
/// If there was no run; attempts that fail are no error.
pub(crate) fn make(
    plan: &Plan,
    progress: &mut dyn FnMut(u32, u32),
    take: &mut dyn FnMut(Vec<Attempt>) -> Result<()>,
) -> Result<Outcome> {
    let mut runner = Runner::start(&Job::Run(plan.clone()))?;
    loop {
        match runner.next()? {
            Message::Progress { done, errors } => progress(done, errors),
            Message::Attempts(lines) => take(attempt::of_lines(&lines)?)?,
            Message::Done(outcome) => return Ok(outcome),
            other => bail!("the process of the run answered {other:?}"),
        }
    }
}

/// The process of a run; it ends when nobody reads its output.
struct Runner {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Runner {
    fn start(job: &Job) -> Result<Self> {
        let mut child = Command::new(OURSELVES)
            .arg(COMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {OURSELVES} for a run"))?;
        let mut input = child.stdin.take().context("its stdin is a pipe")?;
        let out = child.stdout.take().context("its stdout is a pipe")?;
        input.write_all(&serde_json::to_vec(job)?)?;
        Ok(Self {
            child,
            out: BufReader::new(out),
        })
    }

    fn next(&mut self) -> Result<Message> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        if line.is_empty() {
            let status = self.child.wait()?;
            bail!("the process of the run ended without a result ({status})");
        }
        match serde_json::from_str(&line)
            .context("the answer of the run's process is not understood")?
        {
            Message::Failed(why) => bail!(why),
            message => Ok(message),
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // The process has ended already, or is no longer needed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

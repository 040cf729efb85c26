//! `connect-trace top`: the model of the live page on a terminal.

pub mod args;
mod draw;
pub mod rehearsal;
mod screen;
mod source;
mod state;

use std::{io, io::IsTerminal as _, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use tokio::time::{Interval, MissedTickBehavior, interval};

use self::{
    args::TopArgs,
    screen::{Input, Screen},
    source::{Source, Trace},
    state::{Next, State},
};
use crate::{
    kernel::{self, access},
    term::{message, terminal},
    trace::{priority::without_huge_pages, signals::Signals},
};

/// Shows the trace until a key or a signal ends it.
///
/// # Errors
/// If stdin and stdout are no terminal, or tracing cannot start.
pub fn run(args: &TopArgs) -> Result<ExitCode> {
    check_terminal()?;
    access::check()?;
    if !args.filters.pids.is_empty() {
        access::check_pid_namespace()?;
    }
    let runtime = runtime()?;
    without_huge_pages();
    let mut trace = {
        let _context = runtime.enter();
        Trace::start(args)?
    };
    let shown = runtime.block_on(show(&mut trace, args.interval));
    // The terminal is as it was: detaching takes a second or more, and may have something to say.
    let stopped = trace.stop();
    shown.and(stopped)?;
    Ok(ExitCode::SUCCESS)
}

fn check_terminal() -> Result<()> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        bail!(
            "top draws on a terminal, and stdin or stdout is none; without one, `connect-trace -i 1` prints a report each \
             second, and `connect-trace -i 1 --oneline` a line"
        );
    }
    Ok(())
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Draws after each interval and each key, until a key or a signal ends it.
async fn show(source: &mut impl Source, first_interval: Duration) -> Result<()> {
    let mut signals = Signals::catch()?;
    let messages = message::hold();
    let mut screen = Screen::open()?;
    let mut state = State::new(kernel::hostname(), first_interval, terminal::paint());
    let mut ends = ticks(state.interval);
    loop {
        state.messages = messages.held();
        screen.draw(|frame| draw::draw(frame, &state, source.history()))?;
        // Readings of the ring buffer change nothing that is drawn.
        let next = loop {
            tokio::select! {
                biased;
                _ = signals.interrupt.recv() => return Ok(()),
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.hangup.recv() => return Ok(()),
                input = screen.input() => match input? {
                    Input::Key(key) => break state.key(key, source.history()),
                    Input::Other => break Next::Draw,
                },
                due = source.next() => due?,
                _ = ends.tick() => {
                    source.end_interval(state.interval)?;
                    break Next::Draw;
                }
            }
        };
        match next {
            Next::Draw => {}
            Next::Interval => ends = ticks(state.interval),
            Next::Suspend => screen.suspend()?,
            Next::End => return Ok(()),
        }
    }
}

/// Returns the ends of intervals, the first of which begins now.
fn ticks(length: Duration) -> Interval {
    let mut ticks = interval(length);
    ticks.reset();
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

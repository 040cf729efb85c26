//! The terminal: its own screen while `top` runs, its keys, and its state of before at the end, however that comes.

use std::{
    io::{self, Stdout, stdout},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail};
use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        event::{self, Event, KeyEvent},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
    layout::{Position, Rect},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{Receiver, channel},
};

use crate::term::message::print_held;

/// Keys that wait to be answered. A paste has more: they wait in the terminal.
const WAITING: usize = 64;

/// Something that makes another drawing necessary.
pub(super) enum Input {
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has another size, or another program had it meanwhile.
    Other,
}

/// The terminal, which is given back when this is dropped, and by a panic.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    events: Receiver<io::Result<Event>>,
    stops: Signal,
    continued: Signal,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// If the terminal cannot be set up.
    pub(super) fn open() -> Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                // The message is not to be lost with the screen. A failure could not be reported.
                let _ = leave();
                print_held();
                before(info);
            }));
        });
        let stops = signal(SignalKind::from_raw(libc::SIGTSTP)).context("wait for SIGTSTP")?;
        let continued = signal(SignalKind::from_raw(libc::SIGCONT)).context("wait for SIGCONT")?;
        enter().context("set up the terminal")?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout())).inspect_err(|_| {
            // The first error is the one to report.
            let _ = leave();
        })?;
        let (sender, events) = channel(WAITING);
        // Ends with the process: a read of the terminal cannot be interrupted.
        thread::spawn(move || {
            loop {
                let event = event::read();
                let is_last = event.is_err();
                if sender.blocking_send(event).is_err() || is_last {
                    break;
                }
            }
        });
        Ok(Self {
            terminal,
            events,
            stops,
            continued,
        })
    }

    /// Draws, and sends what has changed since the last drawing.
    ///
    /// # Errors
    /// If the terminal cannot be written.
    pub(super) fn draw(&mut self, with: impl FnOnce(&mut Frame<'_>)) -> Result<()> {
        self.terminal.draw(with).context("draw on the terminal")?;
        Ok(())
    }

    /// Waits for a key, another size, or a signal of job control. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub(super) async fn input(&mut self) -> Result<Input> {
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    None => bail!("read the terminal: its reader has ended"),
                    Some(event) => match event.context("read the terminal")? {
                        Event::Key(key) if key.is_press() => return Ok(Input::Key(key)),
                        Event::Resize(..) => return Ok(Input::Other),
                        _ => {}
                    },
                },
                _ = self.stops.recv() => {
                    // SAFETY: the call takes and returns numbers only.
                    self.stop(unsafe { libc::getpid() })?;
                    return Ok(Input::Other);
                }
                // Sent after SIGSTOP, which cannot be caught.
                _ = self.continued.recv() => {
                    self.take_back()?;
                    return Ok(Input::Other);
                }
            }
        }
    }

    /// Gives the terminal back and stops the job, as Ctrl-Z does, until it is continued.
    ///
    /// # Errors
    /// If the terminal cannot be set up again.
    pub(super) fn suspend(&mut self) -> Result<()> {
        // The process group.
        self.stop(0)
    }

    fn stop(&mut self, process: libc::pid_t) -> Result<()> {
        leave().context("give the terminal back")?;
        // SAFETY: the call takes numbers only.
        unsafe { libc::kill(process, libc::SIGSTOP) };
        self.take_back()
    }

    fn take_back(&mut self) -> Result<()> {
        enter().context("set up the terminal")?;
        // Draws everything anew. Terminal::clear would ask for the place of the cursor, and the thread take the answer.
        let size = self.terminal.size().context("read the terminal's size")?;
        let area = Rect::from((Position::ORIGIN, size));
        self.terminal.resize(area).context("clear the terminal")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A failure could not be reported: the terminal is gone.
        let _ = leave();
    }
}

/// True while the terminal is taken: giving it back twice would move the cursor.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

fn enter() -> io::Result<()> {
    IS_TAKEN.store(true, Ordering::Relaxed);
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen)
}

fn leave() -> io::Result<()> {
    if !IS_TAKEN.swap(false, Ordering::Relaxed) {
        return Ok(());
    }
    let left = execute!(stdout(), LeaveAlternateScreen, Show);
    disable_raw_mode().and(left)
}

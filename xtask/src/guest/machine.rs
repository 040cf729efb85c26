//! The machine that QEMU emulates for a guest: starts it, reads its frames, and ends it in time.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use connect_trace_guest::link::Frame;

use super::run_folder::RunFolder;
use crate::arch::Arch;
use crate::stdout::Refused;
use crate::tools::kernels::Kernel;
use crate::tools::qemu;
use crate::workspace;

/// Time limit for booting. A stock kernel boots within seconds; a busy machine may need a hundred times as long.
const BOOT_TIME: Duration = Duration::from_secs(600);

/// Number of console lines in an error message: after a complaint of the kernel, and without one.
const COMPLAINT_LINES: usize = 25;
const LAST_LINES: usize = 8;

/// Messages of a kernel that is about to die.
const COMPLAINTS: [&str; 5] = [
    "BUG: ",
    "Oops",
    "Kernel panic",
    "general protection fault",
    "stack-protector",
];

/// Hardware of the machine.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Use one CPU whose clock counts instructions, so that times are the same in every run.
    pub deterministic: bool,
    /// Use the host's CPU instead of an emulated one.
    pub kvm: bool,
    /// Hide from the kernel that the machine is a virtual one, so that it takes locks as it does on a bare host: those
    /// of a virtual machine report no contention.
    pub bare: bool,
    /// More arguments for the kernel.
    pub kernel_arguments: Vec<String>,
    /// More arguments for QEMU.
    pub qemu_arguments: Vec<OsString>,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            cpus: 2,
            memory_mib: 2048,
            deterministic: false,
            kvm: false,
            bare: false,
            kernel_arguments: Vec::new(),
            qemu_arguments: Vec::new(),
        }
    }
}

/// The stream that the command wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Result of a guest that did its job.
#[derive(Debug)]
pub struct Outcome {
    /// The command's exit status.
    pub status: u8,
    /// Requested files, or the reason why each cannot be read.
    pub outputs: Vec<Result<Vec<u8>, String>>,
    /// CPU time of the process that emulated the machine.
    pub cpu_time: Duration,
}

/// Time limits of a guest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// Time limit of its command.
    pub(super) whole: Option<Duration>,
    /// Longest time without output from its command.
    pub(super) silence: Option<Duration>,
}

/// Boots the machine and passes on the command's output until the guest has done its job.
pub(crate) fn run(
    kernel: &Kernel,
    image: &[u8],
    hardware: &Hardware,
    limits: Limits,
    listener: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
) -> Result<Outcome> {
    let folder = RunFolder::create()?;
    let initramfs = folder.path().join("initramfs");
    fs::write(&initramfs, image)
        .with_context(|| format!("cannot write {}", initramfs.display()))?;
    let console = folder.path().join("console.log");
    let result = boot(kernel, &initramfs, &console, hardware)
        .and_then(|mut machine| machine.listen(limits, listener));
    match result {
        Ok(outcome) => Ok(outcome),
        Err(error) if error.is::<Refused>() => Err(error), // It is about us and not the guest.
        Err(error) => Err(anyhow!("{error:#}\n{}", last_words(&console, kernel))
            .context(format!("the guest with kernel {} failed", kernel.name))),
    }
}

fn boot(kernel: &Kernel, initramfs: &Path, console: &Path, hardware: &Hardware) -> Result<Machine> {
    let program = qemu::program(kernel.arch);
    let mut command = Command::new(&program);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    let machine = match kernel.arch {
        Arch::Amd64 => "pc",
        Arch::Arm64 => "virt",
    };
    command.args(["-machine", machine, "-smp", &hardware.cpus.to_string()]);
    command.args(["-m", &hardware.memory_mib.to_string()]);
    if hardware.kvm {
        command.args(["-accel", "kvm", "-cpu", "host"]);
    } else {
        // Works around two faults of QEMU 7.2 that occasionally kill a correct kernel. cmpxchg16b leaves garbage in
        // EFLAGS: kernels do without it if the CPU lacks it. And with a thread per CPU, one CPU may run on through code
        // that another has patched; the kernel patches its code whenever a probe attaches.
        let cpu = match kernel.arch {
            Arch::Amd64 if hardware.bare => "qemu64,-cx16,-hypervisor",
            Arch::Amd64 => "qemu64,-cx16",
            // Pointers are signed by a fast function of QEMU's own.
            Arch::Arm64 => "max,pauth-impdef=on",
        };
        command.args(["-accel", "tcg,thread=single", "-cpu", cpu]);
    }
    // The first serial port is the kernel's console; the other one carries frames, and leads to QEMU's standard output.
    command
        .arg("-serial")
        .arg(format!("file:{}", console.display()));
    command.args(["-chardev", "file,id=link,path=/dev/stdout"]);
    let (console, link) = match kernel.arch {
        Arch::Amd64 => ("ttyS0", ["-serial", "chardev:link"]),
        // The machine has one port of its own.
        Arch::Arm64 => ("ttyAMA0", ["-device", "pci-serial,chardev=link"]),
    };
    command.args(link);
    command
        .args(&hardware.qemu_arguments)
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs);

    // panic=-1 restarts the machine at once, which ends QEMU (-no-reboot); an oops is a panic, so that a guest with a
    // broken kernel does not go on.
    let mut arguments = format!("console={console} panic=-1 oops=panic");
    if hardware.deterministic {
        command.args(["-icount", "shift=0,sleep=off"]);
        // And the same addresses in each run.
        arguments.push_str(" mitigations=off nokaslr norandmaps");
    }
    for argument in &hardware.kernel_arguments {
        arguments.push(' ');
        arguments.push_str(argument);
    }
    command.args(["-append", &arguments]);

    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec this closure calls prctl alone, which is safe to call there.
    unsafe { command.pre_exec(die_with_parent) };
    let child = command
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    Ok(Machine { child })
}

/// Makes the kernel end this process when the thread that started it ends. That thread waits for this process, so that
/// QEMU does not outlive xtask.
fn die_with_parent() -> io::Result<()> {
    // SAFETY: this option of prctl has no memory effects.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A running QEMU, ended on drop.
struct Machine {
    child: Child,
}

impl Machine {
    fn listen(
        &mut self,
        limits: Limits,
        listener: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
    ) -> Result<Outcome> {
        let frames = self.frames()?;
        let booting = Stage::begin(
            "boot",
            Limits {
                whole: Some(BOOT_TIME),
                silence: None,
            },
        );
        match self.next(&frames, &booting)? {
            Frame::Hello(_) => {}
            Frame::Failed(reason) => bail!("{reason}"),
            _ => bail!("it did not introduce itself"),
        }
        let running = Stage::begin("finish its command", limits);
        let mut outputs = Vec::new();
        let mut output = Vec::new();
        loop {
            match self.next(&frames, &running)? {
                Frame::Stdout(bytes) => listener(Stream::Stdout, &bytes)?,
                Frame::Stderr(bytes) => listener(Stream::Stderr, &bytes)?,
                Frame::Chunk(mut bytes) => output.append(&mut bytes),
                Frame::FileEnd => outputs.push(Ok(std::mem::take(&mut output))),
                Frame::FileFailed(reason) => {
                    output.clear();
                    outputs.push(Err(reason));
                }
                Frame::Exit(status) => {
                    return Ok(Outcome {
                        status,
                        outputs,
                        cpu_time: cpu_time(self.child.id()),
                    });
                }
                Frame::Failed(reason) => bail!("{reason}"),
                Frame::Hello(_) => bail!("it booted twice"),
            }
        }
    }

    /// Returns the frames that the guest sends. The channel holds few, so that a slow reader slows the guest.
    fn frames(&mut self) -> Result<Receiver<Frame>> {
        let mut pipe = self
            .child
            .stdout
            .take()
            .context("QEMU has no standard output")?;
        let (sender, receiver) = mpsc::sync_channel(16);
        thread::spawn(move || {
            loop {
                let frame = match Frame::read_from(&mut pipe) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return,
                    // The stream ends within a frame: the guest died.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return,
                    Err(error) => Frame::Failed(format!("cannot understand what it says: {error}")),
                };
                let last = matches!(frame, Frame::Failed(_));
                if sender.send(frame).is_err() || last {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    /// Returns the next frame, or an error if the guest ends or is late.
    fn next(&mut self, frames: &Receiver<Frame>, stage: &Stage) -> Result<Frame> {
        let goal = stage.goal;
        let Limits { whole, silence } = stage.limits;
        let left = whole.map(|whole| whole.saturating_sub(stage.begin.elapsed()));
        let Some(wait) = left.into_iter().chain(silence).min() else {
            return frames.recv().map_err(|_| self.death(goal));
        };
        frames.recv_timeout(wait).map_err(|error| match error {
            RecvTimeoutError::Disconnected => self.death(goal),
            RecvTimeoutError::Timeout if Some(wait) == silence => anyhow!(
                "it wrote nothing for {} s before it would {goal} and was stopped",
                wait.as_secs()
            ),
            RecvTimeoutError::Timeout => anyhow!(
                "it did not {goal} within {} s and was stopped",
                whole.unwrap_or_default().as_secs()
            ),
        })
    }

    /// Describes a guest that ended too early, from the exit status of QEMU.
    fn death(&mut self, goal: &str) -> anyhow::Error {
        let messages = self.child.stderr.take().map(io::read_to_string);
        match messages.and_then(Result::ok).as_deref().map(str::trim) {
            None | Some("") => anyhow!("it ended and did not {goal}"),
            Some(messages) => anyhow!("it ended and did not {goal}: {messages}"),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A part of a guest's life: its goal, and its time limits.
struct Stage {
    goal: &'static str,
    limits: Limits,
    begin: Instant,
}

impl Stage {
    fn begin(goal: &'static str, limits: Limits) -> Self {
        Self {
            goal,
            limits,
            begin: Instant::now(),
        }
    }
}

/// Returns the CPU time that a running process has taken, or 0 if it cannot be read.
fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program, in parentheses, may contain any character.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2); // utime and stime
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    // SAFETY: the call has no memory effects.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Duration::from_millis(ticks * 1000 / u64::try_from(per_second).unwrap_or(100).max(1))
}

/// Returns the last messages on the console, and the path of the whole log.
fn last_words(console: &Path, kernel: &Kernel) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = telling_lines(&text);
    if lines.is_empty() {
        return "its console is empty".to_owned();
    }
    let name = kernel.name.rsplit('/').next().unwrap_or_default();
    let kept = workspace::guest_target().join(format!("console-{name}.log"));
    let place = match fs::copy(console, &kept) {
        Ok(_) => format!("from its console ({})", kept.display()),
        Err(_) => "from its console".to_owned(),
    };
    let lines: String = lines.iter().map(|line| format!("\n    {line}")).collect();
    format!("{place}:{lines}")
}

/// Returns the lines from the kernel's first complaint on, or a few of the last lines if there is no complaint.
fn telling_lines(text: &str) -> Vec<&str> {
    let lines: Vec<_> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let complaint = lines
        .iter()
        .position(|line| COMPLAINTS.iter().any(|words| line.contains(words)));
    let from = complaint.unwrap_or(lines.len().saturating_sub(LAST_LINES));
    lines.into_iter().skip(from).take(COMPLAINT_LINES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_first_complaint_tells_most() {
        let text = "booting\r\n\r\nBUG: unable to handle page fault\r\nCall Trace:\r\nend\r\n";
        assert_eq!(
            telling_lines(text),
            ["BUG: unable to handle page fault", "Call Trace:", "end"]
        );
    }

    #[test]
    fn the_cpu_time_of_this_process_grows() {
        let before = cpu_time(std::process::id());
        while cpu_time(std::process::id()) == before {}
        assert_eq!(cpu_time(0), Duration::ZERO);
    }

    #[test]
    fn without_a_complaint_the_last_lines_tell_most() {
        let text: String = (0..100).map(|number| format!("line {number}\n")).collect();
        assert_eq!(telling_lines(&text).first(), Some(&"line 92"));
        assert_eq!(telling_lines(&text).last(), Some(&"line 99"));
    }
}

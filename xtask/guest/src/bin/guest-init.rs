//! `init` of connect-trace's QEMU guests: the kernel's first program, PID 1.
//!
//! Mounts the file systems that a tracer needs, raises `lo`, does the host's [`Job`] and reports in [`Frame`]s on a
//! separate serial port, so that no kernel message ever mixes with the command's output. Its own messages go to the
//! console. When the command has ended, so does the guest.
//!
//! In a guest with a whole system it makes way for that system's own PID 1, which starts it again as a service: then it
//! mounts nothing.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{self, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use connect_trace_guest::job::{self, Job};
use connect_trace_guest::link::{self, Frame};

/// File system type and mount point, in the order of mounting.
const MOUNTS: [(&str, &str); 12] = [
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("tracefs", "/sys/kernel/tracing"),
    ("debugfs", "/sys/kernel/debug"),
    ("bpf", "/sys/fs/bpf"),
    ("securityfs", "/sys/kernel/security"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
];

const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Limit on open files: the highest that the kernel allows without a change to `fs.nr_open`.
const OPEN_FILES: libc::rlim_t = 1 << 20;

/// Size of a piece of the command's output in one frame.
const PIECE: usize = 32 << 10;

fn main() {
    if process::id() == 1 {
        if let Err(reason) = make_way() {
            eprintln!("init: {reason}");
            power_off();
        }
        mount_all();
    }
    match Port::open() {
        Ok(port) => {
            let last = match work(&port) {
                Ok(status) => Frame::Exit(status),
                Err(reason) => Frame::Failed(reason),
            };
            port.send(&last);
            port.drain();
        }
        Err(error) => eprintln!("init: cannot open {}: {error}", link::PORT),
    }
    power_off();
}

/// Starts the system that the job names in place of this process; returns if it names none.
fn make_way() -> Result<(), String> {
    // An error is reported over the serial port, once /dev is there.
    let Some(system) = fs::read(job::PATH)
        .ok()
        .and_then(|job| Job::decode(&job).ok()?.system)
    else {
        return Ok(());
    };
    cover_root().map_err(|error| format!("cannot mount / over itself: {error}"))?;
    mount("devtmpfs", "/dev").map_err(|error| format!("cannot mount /dev: {error}"))?;
    seed_random().map_err(|error| format!("cannot seed /dev/random: {error}"))?;
    let error = Command::new(&system).exec();
    Err(format!("cannot run {system:?}: {error}"))
}

/// Mounts the root file system over itself. The kernel's initramfs has no mount below it, and pivot_root(), with which
/// containers and services get a root of their own, takes one.
fn cover_root() -> io::Result<()> {
    let call = |source: &CStr, target: &CStr, flags| {
        // SAFETY: the strings are NUL-terminated; neither a type nor data is needed for these flags.
        let result = unsafe {
            libc::mount(
                source.as_ptr(),
                target.as_ptr(),
                std::ptr::null(),
                flags,
                std::ptr::null(),
            )
        };
        check(result)
    };
    call(c"/", c"/mnt", libc::MS_BIND)?;
    std::env::set_current_dir("/mnt")?;
    call(c".", c"/", libc::MS_MOVE)?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

/// Does the job; returns the command's exit status, or the reason why the guest is unusable.
fn work(port: &Port) -> Result<u8, String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(|error| format!("cannot read the kernel's release: {error}"))?;
    port.send(&Frame::Hello(release.trim().to_owned()));

    let job = fs::read(job::PATH).map_err(|error| format!("cannot read {}: {error}", job::PATH))?;
    let job = Job::decode(&job)?;
    for module in &job.modules {
        load_module(module).map_err(|error| format!("cannot load {module:?}: {error}"))?;
    }
    raise_loopback().map_err(|error| format!("cannot raise the interface lo: {error}"))?;
    seed_random().map_err(|error| format!("cannot seed /dev/random: {error}"))?;
    raise_open_files().map_err(|error| format!("cannot raise RLIMIT_NOFILE: {error}"))?;

    let status = run_command(&job, port)?;
    for output in &job.outputs {
        hand_out(output, port);
    }
    Ok(status)
}

/// Runs the command until it ends and passes on its output.
fn run_command(job: &Job, port: &Port) -> Result<u8, String> {
    let (program, arguments) = job.command.split_first().ok_or("the job has no command")?;
    let spawned = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs([
            ("PATH", PATH),
            ("HOME", "/root"),
            ("TERM", "dumb"),
            ("USER", "root"),
            // Permits tests to take the whole machine for themselves.
            ("CONNECT_TRACE_GUEST", "1"),
        ])
        .current_dir("/root")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            // As in a shell: 127 for a missing command, 126 for one that cannot run.
            let status = if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            };
            let reason = format!("init: cannot run {program:?} in the guest: {error}\n");
            port.send(&Frame::Stderr(reason.into_bytes()));
            return Ok(status);
        }
    };

    thread::scope(|scope| {
        if let Some(stdout) = child.stdout.take() {
            scope.spawn(|| pass_on(stdout, port, Frame::Stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            scope.spawn(|| pass_on(stderr, port, Frame::Stderr));
        }
        let status = wait_for(child.id());
        // Processes that the command left behind may keep its pipes open for ever.
        kill_everything();
        status.map_err(|error| format!("cannot wait for the command: {error}"))
    })
}

fn pass_on(mut pipe: impl Read, port: &Port, frame: impl Fn(Vec<u8>) -> Frame) {
    let mut buffer = vec![0; PIECE];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => port.send(&frame(buffer[..length].to_vec())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return eprintln!("init: cannot read the command's output: {error}"),
        }
    }
}

/// Reaps every process that ends, as PID 1 must, until `pid` ends.
fn wait_for(pid: u32) -> io::Result<u8> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the status that waitpid writes.
        let reaped = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if reaped < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        } else if reaped.cast_unsigned() == pid {
            let code = if libc::WIFSIGNALED(status) {
                128 + libc::WTERMSIG(status)
            } else {
                libc::WEXITSTATUS(status)
            };
            return Ok(u8::try_from(code).unwrap_or(u8::MAX));
        }
    }
}

fn kill_everything() {
    // SAFETY: kill has no memory effects; sent by PID 1 to -1 it spares PID 1 itself.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}

fn hand_out(path: &OsStr, port: &Port) {
    let result = File::open(path).and_then(|mut file| {
        let mut buffer = vec![0; PIECE];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                length => port.send(&Frame::Chunk(buffer[..length].to_vec())),
            }
        }
    });
    port.send(&match result {
        Ok(()) => Frame::FileEnd,
        Err(error) => Frame::FileFailed(error.to_string()),
    });
}

/// The serial port that leads to the host.
struct Port(Mutex<File>);

impl Port {
    fn open() -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(link::PORT)?;
        let fd = file.as_raw_fd();
        // SAFETY: termios is plain data, for which all zeroes are valid.
        let mut settings: libc::termios = unsafe { mem::zeroed() };
        // SAFETY: `fd` is open, and `settings` is a valid termios throughout.
        let result = unsafe {
            libc::tcgetattr(fd, &raw mut settings);
            libc::cfmakeraw(&raw mut settings);
            libc::tcsetattr(fd, libc::TCSANOW, &raw const settings)
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(Mutex::new(file)))
    }

    fn send(&self, frame: &Frame) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = frame.write_to(&mut *file) {
            eprintln!("init: cannot write to {}: {error}", link::PORT);
        }
    }

    fn drain(&self) {
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the descriptor is open as long as `file` is.
        unsafe { libc::tcdrain(file.as_raw_fd()) };
    }
}

fn mount_all() {
    for (kind, target) in MOUNTS {
        if let Err(error) = fs::create_dir_all(target).and_then(|()| mount(kind, target)) {
            eprintln!("init: cannot mount {kind} at {target}: {error}");
        }
    }
}

fn mount(kind: &str, target: &str) -> io::Result<()> {
    let kind = CString::new(kind)?;
    let target = CString::new(target)?;
    // SAFETY: the strings are NUL-terminated and live past the call; these file systems need no data.
    let result = unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    check(result)
}

fn load_module(path: &OsStr) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: the descriptor is open, and the parameters are an empty NUL-terminated string.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match check(result) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

fn raise_loopback() -> io::Result<()> {
    // SAFETY: socket has no memory effects.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(socket)?;
    // SAFETY: `socket` was just opened and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: ifreq is plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = *byte as libc::c_char;
    }
    // IFF_UP is 1, so it fits.
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: `request` is a valid ifreq with its name and flags set.
    check(unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as libc::Ioctl,
            &raw const request,
        )
    })
}

/// Lets getrandom() answer: a guest without a random device gathers no entropy for minutes, and every program that asks
/// would wait. The random numbers need not be secret there.
fn seed_random() -> io::Result<()> {
    /// `struct rand_pool_info` with its buffer.
    #[repr(C)]
    struct Pool {
        entropy_bits: libc::c_int,
        bytes: libc::c_int,
        buffer: [u8; 64],
    }
    /// The request `_IOW('R', 0x03, int[2])`.
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    let random = File::options().write(true).open("/dev/random")?;
    let pool = Pool {
        entropy_bits: 512,
        bytes: 64,
        buffer: [0x5a; 64],
    };
    // SAFETY: the request reads a rand_pool_info and as many bytes behind it as that says.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const pool) })
}

fn raise_open_files() -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: OPEN_FILES,
        rlim_max: OPEN_FILES,
    };
    // SAFETY: `limit` is a valid rlimit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })
}

fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn power_off() -> ! {
    // SAFETY: no data can be lost: the guest has no disks.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    // Reached only if the kernel refuses: an init that ends is a kernel panic, which the host sees at once.
    panic!("cannot power off: {}", io::Error::last_os_error());
}

//! The clients that the tests supervise: this test program itself, started with `client`. They print their findings.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};

/// `IP_LOCAL_PORT_RANGE` of linux/in.h.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Runs a client.
pub fn run(arguments: &[&str]) {
    let number = |text: &str| text.parse().expect("a number");
    match *arguments {
        ["hold", count, options] => hold(number(count), options),
        ["threads", threads, count] => in_threads(number(threads), number(count)),
        ["odd-ones"] => odd_ones(),
        ["udp", count] => udp(number(count)),
        ["fast-open"] => fast_open(),
        ["io-uring"] => io_uring(),
        ["filtered"] => filtered(),
        ["load", milliseconds] => load(Duration::from_millis(number(milliseconds) as u64)),
        ["one-a-line"] => one_a_line(),
        ref other => panic!("no such client: {other:?}"),
    }
}

fn listener(v6: bool) -> (Socket, SockAddr) {
    let (domain, any): (_, SocketAddr) = if v6 {
        (Domain::IPV6, (Ipv6Addr::LOCALHOST, 9).into())
    } else {
        (Domain::IPV4, (Ipv4Addr::LOCALHOST, 9).into())
    };
    let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
    socket.bind(&any.into()).expect("port 9 is free");
    socket.listen(4096).expect("it listens");
    let at = socket.local_addr().expect("it has an address");
    (socket, at)
}

fn port(socket: &Socket) -> u16 {
    let address = socket.local_addr().expect("it has an address");
    address.as_socket().expect("of the internet").port()
}

/// Opens connections and prints the address of each, or the errno. Options: `v6`, `mapped`, `nonblocking`.
fn hold(count: usize, options: &str) {
    let has = |option| options.split(',').any(|one| one == option);
    let (_listener, at) = listener(has("v6"));
    let mapped = has("mapped");
    let to: SockAddr = if mapped {
        SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 9)).into()
    } else {
        at
    };
    let domain = if mapped || has("v6") {
        Domain::IPV6
    } else {
        Domain::IPV4
    };
    let mut open = Vec::new();
    for _ in 0..count {
        let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
        socket
            .set_nonblocking(has("nonblocking"))
            .expect("an option");
        let result = socket.connect(&to);
        let is_nonblocking = socket.nonblocking().expect("flags");
        assert_eq!(is_nonblocking, has("nonblocking"), "as it was");
        match result.as_ref().map_err(io::Error::raw_os_error) {
            Ok(()) => assert!(!has("nonblocking")),
            Err(Some(libc::EINPROGRESS)) => assert!(has("nonblocking")),
            Err(errno) => {
                println!("errno {}", errno.unwrap_or(0));
                continue;
            }
        }
        let local = socket.local_addr().expect("it has an address");
        println!("{}", local.as_socket().expect("of the internet"));
        open.push(socket);
    }
}

/// Connects in several threads, in a child, and in a child of a child that has gone.
fn in_threads(threads: usize, count: usize) {
    let (_listener, at) = listener(false);
    let connect = |at: &SockAddr| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.connect(at).expect("it connects");
        socket
    };
    let all: Vec<_> = (0..threads)
        .map(|_| {
            let at = at.clone();
            thread::spawn(move || (0..count).map(|_| connect(&at)).collect::<Vec<_>>())
        })
        .collect();
    let open: Vec<Socket> = all
        .into_iter()
        .flat_map(|thread| thread.join().expect("no thread panics"))
        .collect();
    let odd = open.iter().filter(|socket| port(socket) % 2 == 1).count();
    println!("{} open, {odd} odd", open.len());
    // SAFETY: the threads have ended.
    unsafe {
        if libc::fork() == 0 {
            if libc::fork() == 0 {
                // Until the parent has gone.
                thread::sleep(Duration::from_millis(100));
                drop(connect(&at));
                println!("orphan");
                libc::_exit(0);
            }
            drop(connect(&at));
            libc::_exit(0);
        }
    }
    thread::sleep(Duration::from_millis(400));
}

/// Connects sockets that must be left alone: a bound one, one with a range of its own, one of unix, one of UDP, a file,
/// and one twice.
fn odd_ones() {
    let (_listener, at) = listener(false);
    let stream = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let bound = stream();
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    bound.bind(&any.into()).expect("a port is free");
    let before = port(&bound);
    bound.connect(&at).expect("it connects");
    assert_eq!(port(&bound), before);

    let ranged = stream();
    set_range(&ranged, 20_100, 20_109);
    ranged.connect(&at).expect("it connects");
    assert!((20_100..20_110).contains(&port(&ranged)));

    assert!(UnixStream::connect("/no/such/socket").is_err());
    let udp = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
    drop(udp.connect("127.0.0.1:9"));
    let fresh = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    fresh.connect(&at).expect("UDP sends nothing");

    // SAFETY: the kernel checks descriptor and pointer.
    let closed = unsafe { libc::connect(99_999, at.as_ptr().cast(), at.len()) };
    assert_eq!(closed, -1);
    assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EBADF));

    let twice = stream();
    twice.set_nonblocking(true).expect("an option");
    let first = twice.connect(&at).expect_err("it does not wait");
    assert_eq!(first.raw_os_error(), Some(libc::EINPROGRESS));
    twice.connect(&at).expect("connected meanwhile");

    // Refused, and again on the same socket, which keeps its port.
    let refused = stream();
    let nobody: SockAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 7)).into();
    for _ in 0..2 {
        let error = refused.connect(&nobody).expect_err("nobody listens");
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    }
    println!("done");
}

fn set_range(socket: &Socket, low: u16, high: u16) {
    let both = u32::from(high) << 16 | u32::from(low);
    // SAFETY: the pointer and the length are those of `both`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            IP_LOCAL_PORT_RANGE,
            (&raw const both).cast(),
            4,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Connects sockets of UDP, and prints their addresses.
fn udp(count: usize) {
    for _ in 0..count {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        let to: SocketAddr = (Ipv4Addr::LOCALHOST, 9).into();
        socket.connect(&to.into()).expect("UDP sends nothing");
        let local = socket.local_addr().expect("it has an address");
        println!("{}", local.as_socket().expect("of the internet"));
    }
}

/// Connects by sending.
fn fast_open() {
    let (_listener, at) = listener(false);
    let mut open = Vec::new();
    for _ in 0..50 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket
            .send_to_with_flags(b"hello", &at, libc::MSG_FASTOPEN)
            .expect("it connects and sends");
        println!("{}", port(&socket));
        open.push(socket);
    }
}

/// Sets up an io_uring, or prints why it cannot.
fn io_uring() {
    let mut parameters = [0_u8; 120];
    // SAFETY: the parameters are 120 bytes, which the kernel fills.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
    match ring {
        -1 => println!("no io_uring: {}", io::Error::last_os_error()),
        _ => println!("io_uring"),
    }
}

/// Connects with a seccomp filter of its own, which allows everything.
fn filtered() {
    let (_listener, at) = listener(false);
    let allow = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: allow.as_ptr().cast_mut(),
    };
    // SAFETY: the program outlives the call.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(installed, 0, "{}", io::Error::last_os_error());
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.connect(&at).expect("it connects");
    println!("done");
}

/// Opens and resets connections in four threads, half of them without blocking, and prints how many calls failed.
fn load(time: Duration) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9)).expect("port 9 is free");
    thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
        }
    });
    println!("ready");
    io::stdout().flush().expect("stdout is read");
    let end = Instant::now() + time;
    let threads: Vec<_> = (0..4)
        .map(|number: u8| {
            thread::spawn(move || {
                let (mut calls, mut failed) = (0_u32, Vec::new());
                while Instant::now() < end {
                    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                    let is_nonblocking = number % 2 == 1;
                    socket.set_nonblocking(is_nonblocking).expect("an option");
                    socket
                        .set_linger(Some(Duration::ZERO))
                        .expect("no TIME_WAIT");
                    // Always another destination: what is left of a connection that was reset may refuse the next one.
                    let [_, b, c, d] = calls.to_be_bytes();
                    let to: SocketAddr = ([127, number << 5 | b, c, d], 9).into();
                    calls += 1;
                    match socket
                        .connect(&to.into())
                        .map_err(|error| error.raw_os_error())
                    {
                        Ok(()) => {}
                        Err(Some(libc::EINPROGRESS)) if is_nonblocking => {}
                        Err(errno) => failed.push(errno),
                    }
                }
                (calls, failed)
            })
        })
        .collect();
    let (mut calls, mut failed) = (0, Vec::new());
    for thread in threads {
        let (of_thread, failures) = thread.join().expect("no thread panics");
        calls += of_thread;
        failed.extend(failures);
    }
    println!("{calls} calls, failed: {failed:?}");
}

/// Connects once for each line of stdin, and prints the result.
fn one_a_line() {
    let (_listener, at) = listener(false);
    println!("ready");
    for _ in io::stdin().lines() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        match socket.connect(&at) {
            Ok(()) => println!("connected"),
            Err(error) => println!("errno {}", error.raw_os_error().unwrap_or(0)),
        }
    }
}

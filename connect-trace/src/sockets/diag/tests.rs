use std::{
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
};

use super::*;

fn of(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap()
}

/// Returns the sockets of a query, in the order of their own ports.
fn found(query: &Query) -> Vec<Socket> {
    let mut sockets: Vec<Socket> = collect(query, Vec::push).unwrap();
    sockets.sort_by_key(|socket| socket.local.port());
    sockets
}

fn to(destination: SocketAddr) -> Query {
    Query {
        destination: Some(destination.ip()),
        destination_port: Some(destination.port()),
        connections: true,
        ..Query::default()
    }
}

/// A connection, with both its ends.
struct Pair(TcpStream, TcpStream);

fn pair(listener: &TcpListener) -> Pair {
    let client = TcpStream::connect(of(listener)).unwrap();
    Pair(client, listener.accept().unwrap().0)
}

#[test]
fn listeners_are_found_and_connections_only_if_they_are_asked_for() {
    let [v4, v6] = ["127.0.0.1:0", "[::1]:0"].map(|address| TcpListener::bind(address).unwrap());
    let Pair(client, _server) = pair(&v4);
    let client = client.local_addr().unwrap();
    let listeners = found(&Query::LISTENERS);
    for listener in [&v4, &v6] {
        let mut known = listeners.iter().filter(|known| known.local == of(listener));
        let known = known.next().unwrap();
        assert_eq!(known.state, State::Listen);
        assert_eq!(known.remote.port(), 0);
    }
    assert!(!listeners.iter().any(|known| known.local == client));
    assert!(
        super::super::listening_ports()
            .unwrap()
            .contains(&of(&v6).port())
    );
}

#[test]
fn the_kernel_leaves_out_other_routes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.2:0").unwrap();
    let (mine, _theirs) = (pair(&listener), pair(&other));
    let source = mine.0.local_addr().unwrap();
    let known = found(&to(of(&listener)));
    assert_eq!(known.len(), 1, "{known:?}");
    assert_eq!((known[0].local, known[0].remote), (source, of(&listener)));
    assert_eq!(known[0].state, State::Established);
    // The accepted end has the opposite addresses.
    assert_eq!(found(&to(source))[0].local, of(&listener));
    let by_address = Query {
        source: Some([127, 0, 0, 1].into()),
        ..to(of(&listener))
    };
    assert_eq!(found(&by_address), known);
    let of_another = Query {
        source: Some([127, 0, 0, 9].into()),
        ..by_address
    };
    assert_eq!(found(&of_another), []);
    let of_another_port = Query {
        destination_port: Some(of(&other).port()),
        ..by_address
    };
    assert_eq!(found(&of_another_port), []);
    let any_port = Query {
        source: None,
        destination_port: None,
        ..to(of(&other))
    };
    assert!(
        found(&any_port)
            .iter()
            .all(|socket| socket.remote.ip() == of(&other).ip())
    );
    let only_port = Query {
        destination: None,
        ..to(of(&listener))
    };
    assert_eq!(found(&only_port), known);
}

#[test]
fn addresses_of_ipv6_and_v4_mapped_ones_are_filtered() {
    let v6 = TcpListener::bind("[::1]:0").unwrap();
    let Pair(client, _server) = pair(&v6);
    let known = found(&Query {
        source: Some(Ipv6Addr::LOCALHOST.into()),
        ..to(of(&v6))
    });
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].local, client.local_addr().unwrap());

    let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
    let mapped = SocketAddr::from((
        std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped(),
        of(&v4).port(),
    ));
    let _client = TcpStream::connect(mapped).unwrap();
    let known = found(&to(of(&v4)));
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].remote, of(&v4));
    assert_eq!(known, found(&to(mapped)));
}

#[test]
fn a_socket_has_its_owner_and_one_in_time_wait_only_its_time() {
    use std::os::fd::AsRawFd as _;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let Pair(client, server) = pair(&listener);
    let known = found(&to(of(&listener)))[0];
    let opened = std::fs::metadata(format!("/proc/self/fd/{}", client.as_raw_fd())).unwrap();
    assert_eq!(u64::from(known.inode), opened.ino());
    let own = std::fs::metadata("/proc/self").unwrap();
    assert_eq!(known.uid, own.uid());
    assert!(known.cgroup_id.is_some(), "{known:?}");
    assert_eq!(known.expires, None);

    drop(client);
    drop(server);
    let known = found(&to(of(&listener)))[0];
    assert_eq!(known.state, State::TimeWait);
    assert_eq!((known.uid, known.inode, known.cgroup_id), (0, 0, None));
    let left = known.expires.unwrap();
    assert!(
        left <= Duration::from_secs(60) && left > Duration::from_secs(30),
        "{left:?}"
    );
}

#[test]
fn an_address_of_ipv6_is_not_asked_of_ipv4() {
    let families =
        |query: &Query| -> Vec<i32> { dumps(query).map(|dump| dump.family.into()).collect() };
    let both = [libc::AF_INET, libc::AF_INET6];
    assert_eq!(families(&to("[::1]:80".parse().unwrap())), both[1..]);
    assert_eq!(families(&to("1.2.3.4:80".parse().unwrap())), both);
    assert_eq!(families(&Query::LISTENERS), both);
    assert!(families(&Query::default()).is_empty());
}

/// Returns a message of an answer.
fn message(kind: i32, flags: i32, body: &[u8]) -> Vec<u8> {
    let header = Header {
        length: (size_of::<Header>() + body.len()) as u32,
        kind: kind as u16,
        flags: flags as u16,
        ..Header::zeroed()
    };
    [bytemuck::bytes_of(&header), body].concat()
}

fn listener(port: u16) -> Vec<u8> {
    let body = Message {
        family: libc::AF_INET as u8,
        state: State::Listen as u8,
        socket: SocketId {
            source_port: port.to_be_bytes(),
            ..SocketId::zeroed()
        },
        ..Message::zeroed()
    };
    message(SOCK_DIAG_BY_FAMILY.into(), 0, bytemuck::bytes_of(&body))
}

/// Returns the ports of a part, and how it ends.
fn ports(part: &[u8]) -> (Vec<u16>, io::Result<Part>) {
    let mut ports = Vec::new();
    let end = each_of_part(part, |socket| ports.push(socket.local.port()));
    (ports, end)
}

#[test]
fn an_error_and_an_end_are_understood_and_what_is_cut_is_refused() {
    let part = [listener(80), listener(443)].concat();
    let (found, end) = ports(&part);
    assert_eq!((found, end.unwrap()), (vec![80, 443], Part::Further));
    for length in [1, 15, part.len() - 1] {
        assert!(ports(&part[..length]).1.is_err(), "{length}");
    }
    let done = |errno: i32| message(libc::NLMSG_DONE, 0, &(-errno).to_ne_bytes());
    assert_eq!(ports(&done(0)).1.unwrap(), Part::Last);
    assert_eq!(
        ports(&message(libc::NLMSG_DONE, 0, &[])).1.unwrap(),
        Part::Last
    );
    let failed = message(libc::NLMSG_ERROR, 0, &(-libc::ENOENT).to_ne_bytes());
    assert_eq!(
        ports(&failed).1.unwrap_err().raw_os_error(),
        Some(libc::ENOENT)
    );
    // The kernel also refuses a dump at its end.
    let refused = ports(&done(libc::EINVAL)).1.unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn a_dump_that_was_interrupted_is_told_wherever_the_kernel_says_so() {
    let interrupted = |kind: i32| message(kind, libc::NLM_F_DUMP_INTR, &[0; 4]);
    let part = [listener(80), interrupted(libc::NLMSG_DONE)].concat();
    let (found, end) = ports(&part);
    assert_eq!((found, end.unwrap()), (vec![80], Part::Interrupted));
    assert_eq!(
        ports(&interrupted(SOCK_DIAG_BY_FAMILY.into())).1.unwrap(),
        Part::Interrupted
    );
}

#[test]
fn a_dump_is_repeated_into_a_new_value_until_it_is_complete() {
    let mut calls = 0;
    let repeated = |complete_at: u32, calls: &mut u32| {
        repeat(|ports: &mut Vec<u32>| {
            *calls += 1;
            ports.push(*calls);
            Ok(*calls == complete_at)
        })
    };
    assert_eq!(repeated(3, &mut calls).unwrap(), [3]);
    calls = 0;
    let error = repeated(TRIES + 1, &mut calls).unwrap_err();
    assert_eq!((calls, error.kind()), (TRIES, io::ErrorKind::Interrupted));
}

mod fuzz {
    use super::*;
    use crate::fixtures::fuzz::fuzz;

    #[test]
    fn any_answer_is_understood_or_refused() {
        fuzz("sock-diag", |part| {
            let mut sockets = Vec::new();
            if each_of_part(part, |socket| sockets.push(socket)).is_ok() {
                assert!(sockets.len() * size_of::<Message>() <= part.len());
            }
            for socket in sockets {
                assert_eq!(socket.local.ip(), socket.local.ip().to_canonical());
            }
        });
    }
}

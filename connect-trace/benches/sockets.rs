//! Time to ask the kernel for 100,000 sockets, and for those of one route among them:
//! `cargo bench -p connect-trace --bench sockets`.
//!
//! They are in TIME_WAIT, for which a program needs no descriptors, and the kernel keeps them for a minute.

use std::{
    collections::HashMap,
    hint::black_box,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

use connect_trace::sockets::{Query, Socket};
use criterion::{Criterion, Throughput};

const ROUTES: u32 = 10;

/// Connections of a route: fewer than the ports of one parity in the usual range.
const OF_A_ROUTE: usize = 10_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let to = ended().expect("connect on the loopback");
    let all = Query {
        connections: true,
        listeners: true,
        ..Query::default()
    };
    let one = Query {
        destination: Some(to.ip()),
        destination_port: Some(to.port()),
        listeners: false,
        ..all
    };
    let mut group = criterion.benchmark_group("sockets");
    group.sample_size(20);
    group.throughput(Throughput::Elements(u64::from(ROUTES) * OF_A_ROUTE as u64));
    group.bench_function("count by route", |bencher| {
        bencher.iter(|| {
            let routes = all.collect(|routes: &mut HashMap<_, usize>, socket| {
                *routes
                    .entry((socket.local.ip(), socket.remote))
                    .or_default() += 1;
            });
            let routes = routes.expect("the kernel tells");
            let of_last = routes.iter().filter(|((_, remote), _)| *remote == to);
            assert_eq!(of_last.map(|(_, count)| count).sum::<usize>(), OF_A_ROUTE);
            let all: usize = routes.values().sum();
            assert!(all >= ROUTES as usize * OF_A_ROUTE, "{all}");
            black_box(routes)
        });
    });
    group.bench_function("one route", |bencher| {
        bencher.iter(|| {
            let sockets: Vec<Socket> = one.collect(Vec::push).expect("the kernel tells");
            assert_eq!(sockets.len(), OF_A_ROUTE);
            black_box(sockets)
        });
    });
    group.finish();
    criterion.final_summary();
}

/// Makes the connections and ends them, and returns the destination of the last route.
fn ended() -> io::Result<SocketAddr> {
    let mut last = None;
    for number in 1..=ROUTES {
        let address = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + number);
        let listener = TcpListener::bind((address, 0))?;
        let to = listener.local_addr()?;
        for _ in 0..OF_A_ROUTE {
            // The side that closes first keeps the port.
            drop(TcpStream::connect(to)?);
            drop(listener.accept()?);
        }
        last = Some(to);
    }
    last.ok_or_else(|| io::ErrorKind::NotFound.into())
}

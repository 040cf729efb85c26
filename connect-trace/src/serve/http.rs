//! The HTTP side of the service: connections of clients, in bounded number, size and time. A client sends one request; the
//! service answers between two readings of the ring buffer.

use std::{
    collections::VecDeque,
    convert::Infallible,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request as HttpRequest, Response, StatusCode, body::Bytes, header,
    http::uri::Authority, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc::Sender, oneshot},
    task::{JoinHandle, yield_now},
    time::{sleep, timeout},
};

use super::{
    listen::Listener,
    request::{Answer, Request, Wanted},
};
use crate::metrics::Format;

/// Maximum number of clients of a listener. If another one comes, the one that has been here for longest is closed.
const MOST_CLIENTS: usize = 64;
/// Time that a client has to send its request.
const TIME_TO_ASK: Duration = Duration::from_secs(5);
/// Time from the connection to the last byte of the answer.
const TIME_IN_ALL: Duration = Duration::from_secs(15);
/// Maximum size of the head of a request.
const HEAD_BYTES: usize = 16 << 10;
/// Pause after an error of `accept` without a client that could be closed.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts clients for ever.
pub(super) async fn serve(listener: Listener, requests: Sender<Request>) {
    let mut clients: VecDeque<JoinHandle<()>> = VecDeque::new();
    let hosts = Hosts::of(&listener);
    loop {
        let accepted = match &listener {
            Listener::Tcp(tcp) => tcp.accept().await.map(|(stream, _)| {
                tokio::task::spawn_local(client(stream, hosts, requests.clone()))
            }),
            Listener::Unix { socket, .. } => socket.accept().await.map(|(stream, _)| {
                tokio::task::spawn_local(client(stream, hosts, requests.clone()))
            }),
        };
        clients.retain(|client| !client.is_finished());
        let most = match &accepted {
            Ok(_) => MOST_CLIENTS - 1,
            // Such as no free descriptor: half of those that the clients have become free, for the service itself too.
            Err(_) => clients.len() / 2,
        };
        let surplus = clients.len().saturating_sub(most);
        for oldest in clients.drain(..surplus) {
            oldest.abort();
        }
        match accepted {
            Ok(accepted) => clients.push_back(accepted),
            Err(error) => {
                log::debug!("accept a client of {listener}: {error}");
                if surplus == 0 {
                    sleep(PAUSE).await;
                }
            }
        }
        // Clients that come in great number at once would otherwise close each other before they are heard.
        yield_now().await;
    }
}

/// The names by which clients may ask for a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hosts {
    /// Any.
    All,
    /// Addresses and localhost: a web page of another name, which its owner points to the loopback, is not answered.
    Loopback,
}

impl Hosts {
    fn of(listener: &Listener) -> Self {
        match listener {
            Listener::Tcp(tcp) if tcp.local_addr().is_ok_and(|of| of.ip().is_loopback()) => {
                Self::Loopback
            }
            _ => Self::All,
        }
    }

    /// Returns true if a request asks by such a name, or by none.
    fn have<B>(self, request: &HttpRequest<B>) -> bool {
        let named = request.headers().get(header::HOST);
        match (self, named) {
            (Self::All, _) | (_, None) => true,
            (Self::Loopback, Some(named)) => named.to_str().is_ok_and(is_of_loopback),
        }
    }
}

/// Returns true if the value of a header `Host` is an address or localhost, with any port.
fn is_of_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// Answers one request.
async fn client(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    hosts: Hosts,
    requests: Sender<Request>,
) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIME_TO_ASK)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| answer(request, hosts, requests.clone())),
        );
    match timeout(TIME_IN_ALL, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a client of HTTP: {error}"),
        Err(_) => log::debug!("a client of HTTP was too slow"),
    }
}

async fn answer<B>(
    request: HttpRequest<B>,
    hosts: Hosts,
    requests: Sender<Request>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let wanted = wanted(&request);
    let answer = match (wanted, request.method()) {
        _ if !hosts.have(&request) => Answer::text(
            421,
            "this address is for localhost: ask for it by number or as localhost, not by another name",
        ),
        (None, _) => Answer::text(
            404,
            "no such page: / /metrics /report /ports /healthz /readyz",
        ),
        (Some(wanted), &Method::GET | &Method::HEAD) => ask(wanted, requests).await,
        (Some(_), _) => Answer::text(405, "only GET and HEAD"),
    };
    let is_head = request.method() == Method::HEAD;
    let body = if is_head { Vec::new() } else { answer.body };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, answer.content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    if let Ok(policy) = policy(wanted).parse() {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    if answer.status == 405 {
        headers.insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
    }
    Ok(response)
}

/// Returns the Content-Security-Policy: only the page has a script and a style, and only its own.
fn policy(wanted: Option<Wanted>) -> String {
    let nothing = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    match wanted {
        Some(Wanted::Page { nonce }) => format!(
            "{nothing}; script-src 'nonce-{nonce:032x}'; style-src 'nonce-{nonce:032x}'; connect-src 'self'; img-src data:"
        ),
        _ => nothing.to_owned(),
    }
}

/// Returns a number that nobody can guess: hashes with keys that the standard library takes from the kernel.
fn nonce() -> u128 {
    let half = |half: u8| u128::from(RandomState::new().hash_one(half));
    half(0) << 64 | half(1)
}

fn wanted<B>(request: &HttpRequest<B>) -> Option<Wanted> {
    let accept = request.headers().get(header::ACCEPT);
    let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or("");
    match request.uri().path() {
        "/" => Some(Wanted::Page { nonce: nonce() }),
        "/metrics" => Some(Wanted::Metrics(Format::accepted(accept))),
        "/report" => Some(Wanted::Report),
        "/ports" => Some(Wanted::Ports),
        "/healthz" => Some(Wanted::Health),
        "/readyz" => Some(Wanted::Readiness),
        _ => None,
    }
}

/// Returns the answer of the service.
async fn ask(wanted: Wanted, requests: Sender<Request>) -> Answer {
    let (answer, answered) = oneshot::channel();
    if requests.try_send(Request { wanted, answer }).is_err() {
        return Answer::text(503, "too many requests wait");
    }
    match answered.await {
        Ok(answer) => answer,
        Err(_) => Answer::text(503, "the service is about to end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_asked_for_by_its_own_names_only() {
        for right in [
            "localhost",
            "LocalHost:19435",
            "127.0.0.1:1",
            "[::1]:19435",
            "10.0.0.1",
        ] {
            assert!(is_of_loopback(right), "{right}");
        }
        for wrong in [
            "",
            "example.com",
            "example.com:19435",
            "localhost.example.com",
            "127.0.0.1.example.com",
        ] {
            assert!(!is_of_loopback(wrong), "{wrong}");
        }
        let request = |host| {
            HttpRequest::get("/")
                .header(header::HOST, host)
                .body(())
                .unwrap()
        };
        assert!(!Hosts::Loopback.have(&request("example.com")));
        assert!(Hosts::Loopback.have(&request("localhost:1")));
        assert!(Hosts::All.have(&request("example.com")));
        assert!(Hosts::Loopback.have(&HttpRequest::get("/").body(()).unwrap()));
    }
}

#[cfg(test)]
mod fuzz {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        runtime,
        sync::mpsc,
        time::Instant,
    };

    use super::*;
    use crate::{fixtures::fuzz::fuzz, serve::request::WAITING};

    #[test]
    fn any_bytes_get_one_answer_or_none_in_time() {
        fuzz("http", |bytes| {
            let Some((&manner, bytes)) = bytes.split_first() else {
                return;
            };
            // Time that is waited for passes at once.
            let runtime = runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build();
            let answer = runtime.unwrap().block_on(asked(manner, bytes));
            if answer.is_empty() {
                return;
            }
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.len() < 2048, "{answer}");
            let (line, rest) = answer.split_once("\r\n").unwrap();
            let (protocol, status) = line.split_once(' ').unwrap();
            assert!(["HTTP/1.0", "HTTP/1.1"].contains(&protocol), "{answer}");
            let status = status.split(' ').next().unwrap();
            let is_ours = ["200", "404", "405", "421"].contains(&status);
            assert!(
                is_ours || ["400", "408", "414", "431", "505"].contains(&status),
                "{answer}"
            );
            assert_eq!(
                is_ours,
                rest.contains("content-security-policy: default-src 'none'"),
                "{answer}"
            );
            assert!(!rest.contains("HTTP/1."), "{answer}");
        });
    }

    /// Returns the answer to a client that sends these bytes in pieces of a length (the lower bits of `manner`; 0 for all
    /// at once) and then closes its side, or does not (the highest bit).
    async fn asked(manner: u8, bytes: &[u8]) -> Vec<u8> {
        const OPEN: u8 = 0x80;
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (requests, mut asked) = mpsc::channel(WAITING);
        let (mut from, mut to) = tokio::io::split(ours);
        let scraper = async {
            let piece = match manner & !OPEN {
                0 => bytes.len().max(1),
                length => length.into(),
            };
            for piece in bytes.chunks(piece) {
                // The service need not read to the end.
                let _ = to.write_all(piece).await;
                yield_now().await;
            }
            if manner & OPEN == 0 {
                let _ = to.shutdown().await;
            }
            let mut answer = Vec::new();
            let _ = from.read_to_end(&mut answer).await;
            answer
        };
        let service = async {
            while let Some(Request { wanted, answer }) = asked.recv().await {
                let _ = answer.send(Answer::text(200, &format!("{wanted:?}")));
            }
        };
        let began = Instant::now();
        let ((), (), answer) =
            tokio::join!(client(theirs, Hosts::Loopback, requests), service, scraper);
        assert!(began.elapsed() <= TIME_IN_ALL + Duration::from_millis(1));
        answer
    }
}

//! The holders of ports that a running service knows from its own records.

use std::{collections::HashMap, io, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    runtime,
    time::timeout,
};

use crate::{
    options::address::Address,
    stats::{Route, held_ports::HeldPorts, route_ports::Holder},
};

/// Time for the whole answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Largest size of an answer.
const MOST_BYTES: usize = 256 << 20;

/// The holders that a service knows.
#[derive(Debug)]
pub(super) struct Service {
    /// True if holders may be missing.
    pub(super) is_complete: bool,
    held: HashMap<(Route, u16), Holder>,
}

/// The failure of a service to answer.
enum Failure {
    /// Nobody listens.
    Absent(io::Error),
    /// A service without `--ports`, or no service.
    WithoutPorts,
    Other(anyhow::Error),
}

impl Service {
    /// Asks the service that is named, or else the one at the default address; `None` if none is named and there is none
    /// that follows ports.
    ///
    /// # Errors
    /// If a service that is named does not answer, or an answer is not understood.
    pub(super) fn ask(named: Option<&Address>) -> Result<Option<Self>> {
        let default = Address::of_service();
        let address = named.unwrap_or(&default);
        match (answer(address), named) {
            (Ok(held), _) => Ok(Some(Self::of(&held))),
            (Err(Failure::Absent(error)), Some(_)) => Err(anyhow!(error)).with_context(|| {
                format!(
                    "--service: no service answers at {address}: start connect-trace serve --ports"
                )
            }),
            (Err(Failure::WithoutPorts), Some(_)) => bail!(
                "--service: the service at {address} does not follow ports: start it with --ports"
            ),
            (Err(Failure::Other(error)), Some(_)) => Err(error.context(format!(
                "--service: {address} does not tell the holders of ports"
            ))),
            (Err(Failure::Other(error)), None) => {
                log::debug!("{address}: {error:#}");
                Ok(None)
            }
            (Err(_), None) => Ok(None),
        }
    }

    fn of(answer: &HeldPorts) -> Self {
        let mut held = HashMap::new();
        for route in &answer.routes {
            for &(port, index) in &route.ports {
                if let Some(holder) = route.holder(index) {
                    held.insert((route.route(), port), holder);
                }
            }
        }
        Self {
            is_complete: answer.complete,
            held,
        }
    }

    /// Returns the holder of a port.
    pub(super) fn holder(&self, route: Route, port: u16) -> Option<Holder> {
        self.held.get(&(route, port)).copied()
    }
}

/// Returns the answer of `/ports`.
fn answer(address: &Address) -> Result<HeldPorts, Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Other(error.into()))?;
    let asked = async {
        match address {
            Address::Tcp(to) => get(TcpStream::connect(to).await.map_err(Failure::Absent)?).await,
            Address::Unix(path) => {
                get(UnixStream::connect(path).await.map_err(Failure::Absent)?).await
            }
        }
    };
    let asked = runtime.block_on(async { timeout(PATIENCE, asked).await });
    let text = asked.unwrap_or_else(|_| {
        let late = anyhow!("no answer in {} seconds", PATIENCE.as_secs());
        Err(Failure::Other(late))
    })?;
    let held = serde_json::from_slice(&text).context("the answer is not understood");
    held.map_err(Failure::Other)
}

async fn get(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<Bytes, Failure> {
    let other = |error: hyper::Error| Failure::Other(error.into());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(other)?;
    let request = Request::get("/ports")
        .header(header::HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::Other(error.into()))?;
    let answered = async move {
        let answer = sender.send_request(request).await.map_err(other)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(Failure::WithoutPorts),
            status => return Err(Failure::Other(anyhow!("it answers {status}"))),
        }
        let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|error| Failure::Other(anyhow!(error)))
    };
    // The connection makes progress as long as it is polled, and ends with its sender.
    tokio::join!(answered, connection).0
}

#[cfg(test)]
mod fuzz {
    use super::*;
    use crate::fixtures::fuzz::fuzz;

    #[test]
    fn any_answer_is_understood_or_refused() {
        fuzz("held-ports", |text| {
            if let Ok(answer) = serde_json::from_slice::<HeldPorts>(text) {
                let known = Service::of(&answer).held.len();
                assert!(known <= answer.routes.iter().map(|route| route.ports.len()).sum());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use super::*;
    use crate::connect::{Comm, PortChoice};

    const ANSWER: &str = r#"{"complete":false,"routes":[{"netns":7,"source":"10.0.0.1","destination":"10.0.0.2:80","holders":[{"pid":1,"comm":"wrk","cgroup_id":5,"strategy":"bind"}],"ports":[[32768,0],[32770,9]]}]}"#;

    /// Answers one request, and returns the service as it is understood.
    fn ask(status: &'static str, body: &'static str) -> Result<Option<Service>> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = client.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /ports HTTP/1.1\r\n"));
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
            client.write_all((head + body).as_bytes()).unwrap();
        });
        let service = Service::ask(Some(&address));
        server.join().unwrap();
        service
    }

    fn error(asked: Result<Option<Service>>) -> String {
        format!("{:#}", asked.unwrap_err())
    }

    #[test]
    fn holders_are_known_by_route_and_port() {
        let service = ask("200 OK", ANSWER).unwrap().unwrap();
        assert!(!service.is_complete);
        let route = Route {
            netns: Some(7),
            source: [10, 0, 0, 1].into(),
            destination: ([10, 0, 0, 2], 80).into(),
        };
        let expected = Holder {
            pid: Some(1),
            comm: Some(Comm::of("wrk")),
            cgroup_id: Some(5),
            port_choice: Some(PortChoice::Bind),
        };
        assert_eq!(service.holder(route, 32_768), Some(expected));
        assert_eq!(service.holder(route, 32_770), None);
        let other = Route {
            netns: Some(8),
            ..route
        };
        assert_eq!(service.holder(other, 32_768), None);
    }

    #[test]
    fn a_service_that_is_named_must_answer() {
        assert!(error(ask("404 Not Found", "")).contains("start it with --ports"));
        assert!(error(ask("500 No", "")).contains("500"));
        assert!(error(ask("200 OK", "{}")).contains("not understood"));
        let nobody = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let error = error(Service::ask(Some(&Address::Tcp(nobody))));
        assert!(
            error.contains("no service answers at http://127.0.0.1:"),
            "{error}"
        );
    }
}

//! A service that handlers of kind `http` call: it remembers what it was sent and answers as the test wants.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::redis::free_port;
use super::{holds, wait_for};

/// What it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Method, path and version.
    pub(crate) line: String,
    /// By names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    pub(crate) came: Instant,
}

impl Request {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }
}

/// What it does about a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Status, header lines and body.
    Say(u16, String, Vec<u8>),
    /// Nothing, until the other side closes the connection.
    Hang,
    /// Closes the connection.
    Cut,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Say(status, String::new(), body.into())
    }

    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        match self {
            Self::Say(status, headers, body) => Self::Say(status, format!("{headers}{name}: {value}\r\n"), body),
            other @ (Self::Hang | Self::Cut) => other,
        }
    }
}

type Decide = dyn Fn(&Request, usize) -> Answer + Send + Sync;

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    /// Connections that the other side closed while it waited for an answer.
    hung_up: Vec<Instant>,
}

/// A port on which it listens, or not.
pub(crate) struct Service {
    port: u16,
    decide: Arc<Decide>,
    seen: Arc<Mutex<Seen>>,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Service {
    /// One that answers what `decide` says about a request and its number, from 0.
    pub(crate) async fn start(decide: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        let mut service = Self::down(decide);
        service.up().await;
        service
    }

    /// One that is not there yet.
    pub(crate) fn down(decide: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        Self {
            port: free_port(),
            decide: Arc::new(decide),
            seen: Arc::default(),
            running: None,
        }
    }

    /// Begins to listen.
    pub(crate) async fn up(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let (decide, seen) = (Arc::clone(&self.decide), Arc::clone(&self.seen));
        self.running = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, Arc::clone(&decide), Arc::clone(&seen)));
            }
        }));
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// All that it was sent so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().requests.clone()
    }

    /// Waits until it was sent so many requests.
    pub(crate) async fn until_requests(&self, count: usize) {
        wait_for("the service is called", async || {
            let seen = self.requests();
            holds(seen.len() >= count, || format!("{seen:?}"))
        })
        .await;
    }

    /// Waits until so many connections were closed by the other side; answers when the last was.
    pub(crate) async fn until_hung_up(&self, count: usize) -> Instant {
        wait_for("the connection is closed", async || {
            let seen = self.seen.lock().unwrap();
            seen.hung_up
                .get(count - 1)
                .copied()
                .ok_or_else(|| format!("{:?}", seen.hung_up))
        })
        .await
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

async fn serve(mut stream: TcpStream, decide: Arc<Decide>, seen: Arc<Mutex<Seen>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.requests.push(request.clone());
            seen.requests.len() - 1
        };
        match decide(&request, number) {
            Answer::Say(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status} Said So\r\n{headers}");
                write!(head, "Content-Length: {}\r\n\r\n", body.len()).unwrap();
                // Who has heard enough may hang up.
                let said = async {
                    stream.write_all(head.as_bytes()).await?;
                    stream.write_all(&body).await
                };
                if said.await.is_err() {
                    seen.lock().unwrap().hung_up.push(Instant::now());
                    return;
                }
            }
            Answer::Hang => {
                let mut rest = [0; 1];
                let end = stream.read(&mut rest).await;
                assert!(!matches!(end, Ok(1..)), "more was sent than a request");
                seen.lock().unwrap().hung_up.push(Instant::now());
                return;
            }
            Answer::Cut => return,
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some((request, length)) = parse(buffer) {
            buffer.drain(..length);
            return Some(request);
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// The first request in the buffer and its length, once it is whole.
fn parse(buffer: &[u8]) -> Option<(Request, usize)> {
    let head_length = buffer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&buffer[..head_length]).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers: BTreeMap<String, String> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = head_length
        + headers
            .get("content-length")
            .map_or(0, |length| length.parse().unwrap());
    let body = buffer.get(head_length..length)?;
    let request = Request {
        line,
        headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
        came: Instant::now(),
    };
    Some((request, length))
}

/// A duration that a busy machine may add to any other.
pub(crate) const SLACK: Duration = Duration::from_millis(50);

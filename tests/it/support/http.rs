//! HTTP by the byte, for what no client would send, and streams that are read as they come.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;

/// What was answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Self {
            status,
            headers,
            body: body.to_owned(),
        })
    }

    /// A header; empty where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// The code of the problem.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends these bytes and reads until the other side closes.
pub(crate) async fn send(port: u16, bytes: &[u8]) -> Answer {
    let sending = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        // It may answer and close before it has read all.
        stream.write_all(bytes).await.unwrap_or_default();
        let mut answer = Vec::new();
        // An error is an end too: it may have closed while more was on its way.
        while let Ok(1..) = stream.read_buf(&mut answer).await {}
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, sending).await.expect("an answer");
    Answer::parse(&answer).unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(&answer)))
}

/// Sends a request with these headers, and a body where there is one.
pub(crate) async fn request(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Answer {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if headers.iter().all(|(name, _)| *name != "Host") {
        text.push_str("Host: localhost\r\n");
    }
    for (name, value) in headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    if let Some(body) = body {
        write!(text, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    text.push_str("\r\n");
    text.push_str(body.unwrap_or_default());
    send(port, text.as_bytes()).await
}

/// A stream of events.
pub(crate) struct Stream {
    connection: TcpStream,
    /// All that came.
    pub(crate) seen: String,
    place: usize,
    buffer: Vec<u8>,
}

impl Stream {
    /// Asks for one; `headers` are whole lines.
    pub(crate) async fn open(port: u16, path: &str, headers: &str) -> Self {
        let mut connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{headers}\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        Self {
            connection,
            seen: String::new(),
            place: 0,
            buffer: Vec::with_capacity(16 << 10),
        }
    }

    /// Reads until something comes that did not come before the last such wait; answers what came since.
    pub(crate) async fn until(&mut self, what: &str) -> String {
        let mut from = self.place;
        loop {
            if let Some(at) = self.seen[from..].find(what) {
                let end = from + at + what.len();
                let came = self.seen[self.place..end].to_owned();
                self.place = end;
                return came;
            }
            // What was looked through once need not be again.
            let looked = self.seen.len().saturating_sub(what.len()).max(from);
            from = (looked..=self.seen.len())
                .find(|at| self.seen.is_char_boundary(*at))
                .unwrap_or(from);
            assert!(
                self.read(PATIENCE).await > 0,
                "the stream ended before `{what}`: {:.2000}",
                self.seen
            );
        }
    }

    /// Reads what has come; 0 at the end.
    pub(crate) async fn read(&mut self, patience: Duration) -> usize {
        self.buffer.clear();
        let read = tokio::time::timeout(patience, self.connection.read_buf(&mut self.buffer)).await;
        let Ok(Ok(count)) = read else {
            let tail = self.seen.len().saturating_sub(400);
            panic!("nothing came: {}", self.seen.get(tail..).unwrap_or_default());
        };
        self.seen.push_str(&String::from_utf8_lossy(&self.buffer));
        count
    }

    /// Reads to the end.
    pub(crate) async fn until_end(&mut self) {
        while self.read(PATIENCE).await > 0 {}
    }
}

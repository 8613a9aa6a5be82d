//! `waooaw health`: asks the replica of this machine whether it works. For container checks, so it needs no other
//! program and no Redis.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::context::Context;
use super::exit::Failure;
use super::output;

pub(super) const EXAMPLES: &str = "\
Exits with 0 when ready, 1 when it answers but is not ready, 3 when it can not be reached.

Examples:
  waooaw health
  PORT=8002 waooaw health --live";

/// How long the whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most that is read of an answer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// What `health` takes.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Ask only whether the process answers, not whether it is ready
    #[arg(long)]
    live: bool,
}

/// Asks, and prints the answer.
pub(super) async fn run(context: &Context, args: &HealthArgs) -> Result<(), Failure> {
    let configured = context.load(Vec::new())?.config.http.addr;
    if configured.port() == 0 {
        return Err(Failure::usage(
            "http.addr has port 0, so the system chose one that is not known here",
        ));
    }
    let address = reachable(configured);
    let path = if args.live { "/healthz" } else { "/readyz" };
    let answer = match tokio::time::timeout(PATIENCE, get(address, path)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(problem)) => return Err(Failure::unreachable(&format!("http://{address}{path}: {problem}"))),
        Err(_) => {
            let text = format!("http://{address}{path}: no answer within {} s", PATIENCE.as_secs());
            return Err(Failure::unreachable(&text));
        }
    };
    let Some((status, body)) = parse(&answer) else {
        return Err(Failure::failed(&format!(
            "http://{address}{path}: the answer is not HTTP"
        )));
    };
    output::line(body.trim_end())?;
    if status == 200 {
        Ok(())
    } else {
        let text = format!("http://{address}{path} answers with status {status}");
        Err(Failure::failed(&text).named("NotReady"))
    }
}

/// Where a service that listens there is reached from its own machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: application/json\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The status and the body of an answer that came whole.
fn parse(answer: &str) -> Option<(u16, &str)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    Some((words.next()?.parse().ok()?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_without_a_library() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}";

        assert_eq!(parse(answer), Some((503, "{}")));
        for other in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 ok\r\n\r\n"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_service_on_all_addresses_is_asked_on_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.7:80", "10.0.0.7:80"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), asked);
        }
    }
}

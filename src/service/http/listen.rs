//! Takes connections and keeps each within bounds.
//!
//! There are only so many at a time; who comes later waits to be taken. A request must have sent its head within some
//! seconds, and a connection on which nothing is asked for so long is closed, so nobody holds a place by saying nothing. With
//! `stop` the answers that are under way go out, streams say goodbye, and all connections close.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How many connections there may be at a time.
const CONNECTIONS_MAX: usize = 4096;
/// How long the head of a request may take, and how long a connection may wait for the next.
const HEAD_PATIENCE: Duration = Duration::from_secs(20);
/// The longest head, and how much of an answer waits for a client to read it beside the part that is being sent.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// How long to wait before taking connections again, when the process has no files left for one.
const PAUSE: Duration = Duration::from_secs(1);
/// How many files a process needs beside its connections.
const FILES_BESIDE: u64 = 256;

/// Answers on a listener until `stop`, and then until the last answer is out.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    allow_files();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(BUFFER_BYTES_MAX);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let taking = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(problem) if is_of_the_other_side(&problem) => continue,
                Err(problem) => {
                    tracing::error!(%problem, "can not take a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            // Answers are written whole; waiting for more would only delay them.
            if let Err(problem) = stream.set_nodelay(true) {
                tracing::debug!(%problem, "a connection ended before it was answered");
            }
            let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
            let stop = stop.clone();
            connections.spawn(async move {
                let _place = place;
                let mut connection = pin!(connection);
                let outcome = tokio::select! {
                    outcome = connection.as_mut() => outcome,
                    () = stop.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(problem) = outcome {
                    tracing::debug!(%problem, "a connection ended badly");
                }
            });
            while connections.try_join_next().is_some() {}
        }
    };
    tokio::select! { () = stop.cancelled() => (), () = taking => () }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Whether it is about one connection, not about all.
fn is_of_the_other_side(problem: &io::Error) -> bool {
    [
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionRefused,
    ]
    .contains(&problem.kind())
}

/// Raises the number of files that the process may open, as far as it may by itself: shells often begin with 1024.
fn allow_files() {
    let needed = CONNECTIONS_MAX as u64 + FILES_BESIDE;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return;
    }
    let wanted = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    limit.current = Some(wanted);
    let outcome = setrlimit(Resource::Nofile, limit);
    if outcome.is_err() || wanted < needed {
        tracing::warn!(
            files = wanted,
            needed,
            "few files may be open: connections beyond them will wait"
        );
    }
}

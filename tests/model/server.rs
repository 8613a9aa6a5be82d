//! A redis-server of the test's own: a process, a socket in a temporary folder, nothing kept.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

/// Outlives no test: the shell ends the server as soon as its standard input closes, so also when the test is killed.
const SCRIPT: &str = r#"
trap '' INT
server=$(command -v redis-server || command -v valkey-server) || exit 1
"$server" --port 0 --unixsocket "$1/redis.sock" --dir "$1" --logfile "$1/redis.log" --save '' --appendonly no &
cat
kill $!
wait
"#;

/// A running server.
pub(crate) struct Server {
    shell: Child,
    folder: TempDir,
}

impl Server {
    /// Starts one and waits until it answers.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(folder.path())
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { shell, folder };
        for _ in 0..1000 {
            if server.connect().await.is_ok() {
                return server;
            }
            assert!(
                server.shell.try_wait().unwrap().is_none(),
                "no redis-server or valkey-server of version 7 or newer on the PATH: `make redis` installs one"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let log = std::fs::read_to_string(server.folder.path().join("redis.log"));
        panic!("redis-server does not answer: {}", log.unwrap_or_default());
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}/redis.sock", self.folder.path().display())
    }

    /// A connection past the store. On a busy machine an answer may take longer than the half second of the default.
    pub(crate) async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(30)))
            .set_response_timeout(Some(Duration::from_secs(30)));
        let mut connection = redis::Client::open(self.url())?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        Ok(connection)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().ok();
    }
}

//! Connections that break and come back.
//!
//! [`Store`] is the handle that everything shares: one multiplexed connection, rebuilt after any sign that it is dead.
//! A call has a deadline of its own and is never repeated here: after a failure the outcome is unknown, and the caller
//! knows whether to call again. [`Blocking`] is a connection of its own for reads that wait, since Redis serves
//! nothing else on a connection that is blocked; its deadline is the wait plus a margin, so a reader can not go deaf.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, TlsCertificates, Value};
use tokio::sync::Mutex;

use super::StoreError;
use super::keys::Keys;
use super::library::{Function, LIBRARY};
use super::meters::Meters;
use crate::domain::id::Partition;

/// Where Redis is and how long to wait for it.
#[derive(Clone)]
#[non_exhaustive]
pub struct Endpoint {
    /// `redis://`, `rediss://` or `unix://`.
    pub url: String,
    /// What all keys start with.
    pub prefix: String,
    /// How many partitions the deployment has; where Redis holds another number, all is refused. With `None` clients take over
    /// what Redis holds; to a replica, which decides it where it is the first, `None` is 1.
    pub partitions: Option<u16>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub response_timeout: Duration,
    /// Whether to load the function library when it is missing.
    pub load_functions: bool,
    /// The certificate of the authority that signed Redis's, in PEM form, where it is not one of the system's.
    pub ca_certificate: Option<Vec<u8>>,
}

impl Endpoint {
    /// The endpoint at `url` with the prefix `waooaw`, as many partitions as it holds, 2 s to connect and 5 s to answer.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            prefix: "waooaw".to_owned(),
            partitions: None,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(5),
            load_functions: true,
            ca_certificate: None,
        }
    }
}

/// With no more of the address than where it leads: before that stand names and passwords.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match self.url.split_once("://") {
            Some((scheme, rest)) => match rest.rsplit_once('@') {
                Some((_, place)) => format!("{scheme}://***@{place}"),
                None => self.url.clone(),
            },
            None => "***".to_owned(),
        };
        f.debug_struct("Endpoint")
            .field("url", &address)
            .field("prefix", &self.prefix)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

/// The shared handle to Redis; cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    client: Client,
    keys: Keys,
    meters: Arc<Meters>,
    /// How many partitions Redis was found to hold; 0 as long as nobody has looked.
    found_partitions: Arc<AtomicU16>,
    /// The live connection and its generation, so that of many callers who see it die one rebuilds it.
    connection: Mutex<(u64, Option<MultiplexedConnection>)>,
}

impl Store {
    /// A handle to `endpoint`; does not connect yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidUrl`] when the address makes no sense.
    pub fn new(endpoint: Endpoint) -> Result<Self, StoreError> {
        Self::sharing(endpoint, Arc::default(), Arc::default())
    }

    /// Another handle to the same Redis, with a connection of its own. What its calls cost and how they fail is counted
    /// with this one's.
    ///
    /// # Errors
    ///
    /// As for [`Store::new`].
    pub fn beside(&self) -> Result<Self, StoreError> {
        let inner = &self.inner;
        Self::sharing(
            inner.endpoint.clone(),
            Arc::clone(&inner.meters),
            Arc::clone(&inner.found_partitions),
        )
    }

    fn sharing(endpoint: Endpoint, meters: Arc<Meters>, found_partitions: Arc<AtomicU16>) -> Result<Self, StoreError> {
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_user_timeout(Duration::from_secs(20));
        let info = endpoint
            .url
            .as_str()
            .into_connection_info()
            .map_err(StoreError::InvalidUrl)?
            .set_tcp_settings(tcp);
        // Rustls picks no provider by itself; the second installation of a process fails harmlessly.
        rustls::crypto::ring::default_provider()
            .install_default()
            .unwrap_or_default();
        let client = match &endpoint.ca_certificate {
            Some(root) => {
                let certificates = TlsCertificates {
                    client_tls: None,
                    root_cert: Some(root.clone()),
                };
                Client::build_with_tls(info, certificates)
            }
            None => Client::open(info),
        };
        let client = client.map_err(StoreError::InvalidUrl)?;
        let keys = Keys::new(&endpoint.prefix);
        Ok(Self {
            inner: Arc::new(Inner {
                endpoint,
                client,
                keys,
                meters,
                found_partitions,
                connection: Mutex::new((0, None)),
            }),
        })
    }

    /// The names of all keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// What calls through this handle, and those beside it, cost and how they failed.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.inner.meters
    }

    /// How many partitions the deployment has: as the endpoint says, else as [`Store::find_partitions`] found, else 1.
    #[must_use]
    pub fn partition_count(&self) -> u16 {
        let found = self.inner.found_partitions.load(Ordering::Relaxed);
        self.configured_partitions().unwrap_or(found.max(1))
    }

    pub(super) fn configured_partitions(&self) -> Option<u16> {
        self.inner.endpoint.partitions
    }

    pub(super) fn knows_partitions(&self) -> bool {
        self.inner.found_partitions.load(Ordering::Relaxed) != 0
    }

    pub(super) fn note_partitions(&self, found: u16) {
        self.inner.found_partitions.store(found, Ordering::Relaxed);
    }

    /// All partitions.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.partition_count()).filter_map(Partition::new)
    }

    /// A connection of its own for reads that wait up to `wait`.
    #[must_use]
    pub fn blocking(&self, wait: Duration) -> Blocking {
        Blocking {
            store: self.clone(),
            wait,
            connection: None,
        }
    }

    async fn open(&self, response_timeout: Duration) -> Result<MultiplexedConnection, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.inner.endpoint.connect_timeout))
            .set_response_timeout(Some(response_timeout))
            .set_pipeline_buffer_size(1024);
        // The client's own deadline does not cover name resolution.
        let patience = self.inner.endpoint.connect_timeout * 2;
        let opened = match tokio::time::timeout(
            patience,
            self.inner.client.get_multiplexed_async_connection_with_config(&config),
        )
        .await
        {
            Ok(connection) => connection.map_err(StoreError::from_redis),
            Err(_) => Err(StoreError::NotConnected(format!("no connection within {patience:?}"))),
        };
        opened.map_err(|error| self.inner.meters.note_failure(error))
    }

    async fn live(&self) -> Result<(u64, MultiplexedConnection), StoreError> {
        let mut slot = self.inner.connection.lock().await;
        if let (generation, Some(connection)) = &*slot {
            return Ok((*generation, connection.clone()));
        }
        let connection = self.open(self.inner.endpoint.response_timeout).await?;
        slot.0 += 1;
        slot.1 = Some(connection.clone());
        Ok((slot.0, connection))
    }

    /// Drops the connection of this generation, so that the next call makes a new one.
    async fn discard(&self, generation: u64) {
        let mut slot = self.inner.connection.lock().await;
        if slot.0 == generation {
            slot.1 = None;
        }
    }

    /// The number of the connection that calls are made on; another one after each break.
    ///
    /// While it is the same, Redis can have forgotten nothing in between.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] of connecting.
    pub async fn connection_number(&self) -> Result<u64, StoreError> {
        Ok(self.live().await?.0)
    }

    /// Sends one command.
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, StoreError> {
        self.send_on(None, command).await
    }

    /// Sends one command, but on no other connection than the one of this number, when there is one.
    async fn send_on(&self, number: Option<u64>, command: &Cmd) -> Result<Value, StoreError> {
        let (generation, mut connection) = self.live().await?;
        if number.is_some_and(|number| number != generation) {
            return Err(StoreError::NotConnected("the connection broke in between".to_owned()));
        }
        match connection.send_packed_command(command).await {
            // An error of the server arrives as a value here or as an error, by version of the client.
            Ok(Value::ServerError(error)) => Err(self.sort(generation, error.into()).await),
            Ok(value) => Ok(value),
            Err(error) => Err(self.sort(generation, error).await),
        }
    }

    /// Sends several commands in one go and answers each one's value.
    pub(super) async fn send_all(&self, pipeline: &redis::Pipeline) -> Result<Vec<Value>, StoreError> {
        let (generation, mut connection) = self.live().await?;
        match connection.send_packed_commands(pipeline, 0, pipeline.len()).await {
            Ok(values) => values
                .into_iter()
                .map(|value| value.extract_error().map_err(|error| self.failed(error)))
                .collect(),
            Err(error) => Err(self.sort(generation, error).await),
        }
    }

    async fn sort(&self, generation: u64, error: redis::RedisError) -> StoreError {
        let is_dead = error.is_unrecoverable_error()
            || error.is_timeout()
            || matches!(error.code(), Some("READONLY" | "MASTERDOWN"));
        if is_dead {
            self.discard(generation).await;
        }
        self.failed(error)
    }

    /// Counts a failure and says what it means.
    fn failed(&self, error: redis::RedisError) -> StoreError {
        self.inner.meters.note_failure(StoreError::from_redis(error))
    }

    /// Calls a function on a partition; loads the library first when Redis does not know it.
    pub(super) async fn call(&self, function: Function, partition: Partition, args: Args) -> Result<Value, StoreError> {
        let keys = [self.inner.keys.meta(partition), self.inner.keys.none(partition)];
        self.call_with_keys(function, &[&keys[0], &keys[1]], args).await
    }

    /// Calls a function on a partition many times in one round trip; an error of one is the error of all.
    pub(super) async fn call_all(
        &self,
        function: Function,
        partition: Partition,
        calls: &[Args],
    ) -> Result<Vec<Value>, StoreError> {
        let keys = [self.inner.keys.meta(partition), self.inner.keys.none(partition)];
        let mut pipeline = redis::pipe();
        for args in calls {
            let command = pipeline.cmd("FCALL").arg(function.name()).arg(keys.len()).arg(&keys);
            for arg in args.list() {
                command.arg(arg);
            }
        }
        let began = Instant::now();
        let answers = match self.send_all(&pipeline).await {
            Err(StoreError::Refused(error)) if is_unknown_function(&error) => {
                self.load_functions().await?;
                self.send_all(&pipeline).await
            }
            answer => answer,
        }?;
        self.inner.meters.note_call(function, began.elapsed());
        Ok(answers)
    }

    /// Calls a function on keys of the caller's.
    pub(super) async fn call_with_keys(
        &self,
        function: Function,
        keys: &[&str],
        args: Args,
    ) -> Result<Value, StoreError> {
        self.call_on(None, function, keys, args).await
    }

    /// Calls a function on keys of the caller's, but on no other connection than the one of this number.
    pub(super) async fn call_on(
        &self,
        number: Option<u64>,
        function: Function,
        keys: &[&str],
        args: Args,
    ) -> Result<Value, StoreError> {
        let mut command = redis::cmd("FCALL");
        command.arg(function.name()).arg(keys.len());
        for key in keys {
            command.arg(*key);
        }
        for arg in args.list() {
            command.arg(arg);
        }
        let began = Instant::now();
        let answer = match self.send_on(number, &command).await {
            Err(StoreError::Refused(error)) if is_unknown_function(&error) => {
                // Not executed, so calling again is safe.
                self.load_functions().await?;
                self.send_on(number, &command).await
            }
            answer => answer,
        }?;
        self.inner.meters.note_call(function, began.elapsed());
        Ok(answer)
    }

    /// Loads the function library.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoFunctions`] on a server that has none, [`StoreError::Refused`] where the user may not load or
    /// the configuration leaves it to a deploy user.
    pub async fn load_functions(&self) -> Result<(), StoreError> {
        if !self.inner.endpoint.load_functions {
            return Err(StoreError::Refused(redis::RedisError::from((
                redis::ErrorKind::InvalidClientConfig,
                "the function library is missing and redis.load_functions is off: run `waooaw functions load`",
            ))));
        }
        let mut command = redis::cmd("FUNCTION");
        command.arg("LOAD").arg("REPLACE").arg(&LIBRARY.source);
        match self.send(&command).await {
            Ok(_) => Ok(()),
            Err(StoreError::Refused(error)) if error.to_string().contains("unknown command") => {
                Err(StoreError::NoFunctions)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks whether Redis answers.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] of the connection.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.send(&redis::cmd("PING")).await.map(drop)
    }
}

pub(super) fn is_unknown_function(error: &redis::RedisError) -> bool {
    error.to_string().contains("Function not found")
}

/// The arguments of a function call.
#[derive(Default)]
pub(super) struct Args(Vec<Vec<u8>>);

impl Args {
    /// Adds a text or a run of bytes.
    pub(super) fn push(&mut self, arg: impl Into<Vec<u8>>) -> &mut Self {
        self.0.push(arg.into());
        self
    }

    /// Adds what displays itself, such as a number or an id.
    pub(super) fn show(&mut self, arg: impl std::fmt::Display) -> &mut Self {
        self.0.push(arg.to_string().into_bytes());
        self
    }

    /// Adds `1` or `0`.
    pub(super) fn flag(&mut self, arg: bool) -> &mut Self {
        self.0.push(if arg { b"1".to_vec() } else { b"0".to_vec() });
        self
    }

    fn list(&self) -> &[Vec<u8>] {
        &self.0
    }
}

/// A connection of its own for reads that wait.
pub struct Blocking {
    store: Store,
    wait: Duration,
    connection: Option<MultiplexedConnection>,
}

impl Blocking {
    /// What an answer may be late before the connection counts as deaf: half-open sockets and a server whose clock
    /// went back both never answer.
    const MARGIN: Duration = Duration::from_secs(2);

    /// How long a read waits for something to come, in milliseconds, as `BLOCK` takes it.
    #[must_use]
    pub(super) fn wait_ms(&self) -> u64 {
        u64::try_from(self.wait.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Sends a command that waits; the connection is made anew after any failure.
    pub(super) async fn send(&mut self, command: &Cmd) -> Result<Value, StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.store.open(self.wait + Self::MARGIN).await?,
        };
        let value = match connection.send_packed_command(command).await {
            Ok(Value::ServerError(error)) => Err(self.store.failed(error.into())),
            Ok(value) => Ok(value),
            Err(error) => Err(self.store.failed(error)),
        }?;
        self.connection = Some(connection);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_is_printed_tells_no_password() {
        let printed = |url: &str| format!("{:?}", Endpoint::new(url));

        let text = printed("redis://user:p@ss@redis.internal:6379/0");
        assert!(text.contains("redis://***@redis.internal:6379/0"), "{text}");
        assert!(printed("redis://127.0.0.1:6379").contains("redis://127.0.0.1:6379"));
        assert!(!printed("geheim").contains("geheim"));
    }
}

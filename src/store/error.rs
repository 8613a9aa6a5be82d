//! What can go wrong at the Redis edge, by what the caller can do about it.

/// A call to Redis did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Redis can not be reached, does not answer in time, or is not ready. Whether the call took effect is unknown;
    /// every function may be called again.
    #[error("redis is unavailable")]
    Unavailable(#[source] redis::RedisError),
    /// The connection was not built, or not yet again after it broke.
    #[error("redis is unavailable: {0}")]
    NotConnected(String),
    /// Redis is short of memory and takes no new work: over 85 % of its `maxmemory` is used, or all of it.
    #[error("redis is short of memory and takes no new tasks; what it holds goes on and makes room")]
    OutOfMemory,
    /// The partition was never joined, or lost its keys; joining again makes them.
    #[error("the keys under the prefix are not set up")]
    NotJoined,
    /// The keys were written by a release that this one does not understand.
    #[error(
        "the keys in redis have schema {found}, this release speaks {}",
        crate::store::library::SCHEMA
    )]
    Schema {
        /// The schema number in Redis.
        found: String,
    },
    /// The number of partitions is fixed at first start.
    #[error("redis holds {found} partitions, but {configured} are configured; the number is fixed at first start")]
    Partitions {
        /// The number in Redis.
        found: String,
        /// The number in the configuration.
        configured: u16,
    },
    /// Redis is too old, or not Redis.
    #[error("the server has no redis functions: redis 7.0 or newer, or valkey, is needed")]
    NoFunctions,
    /// The server must not be used as it is; see [`super::health`].
    #[error(transparent)]
    Unfit(#[from] super::health::Unfit),
    /// An answer did not have the form that was expected.
    #[error("unexpected answer of `{0}`")]
    Protocol(&'static str),
    /// Redis refused the command for a reason of its own, such as missing rights.
    #[error("redis refused the command")]
    Refused(#[source] redis::RedisError),
    /// The address of Redis makes no sense.
    #[error("invalid redis url")]
    InvalidUrl(#[source] redis::RedisError),
}

impl StoreError {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::NotConnected(_) | Self::OutOfMemory | Self::NotJoined => true,
            Self::Schema { .. }
            | Self::Partitions { .. }
            | Self::NoFunctions
            | Self::Unfit(_)
            | Self::Protocol(_)
            | Self::Refused(_)
            | Self::InvalidUrl(_) => false,
        }
    }

    /// Whether Redis does not let the user in, or not do this. At the start that is a fault to be told; later somebody changes
    /// a password or a rule, and waiting costs nothing that runs.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        let Self::Refused(error) = self else { return false };
        error.kind() == redis::ErrorKind::AuthenticationFailed
            || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
    }

    /// Whether a key holds another kind of value than it should.
    #[must_use]
    pub fn is_wrong_type(&self) -> bool {
        matches!(self, Self::Refused(error) if error.code() == Some("WRONGTYPE"))
    }

    /// Sorts an error of the client by what it means for the caller.
    pub(super) fn from_redis(error: redis::RedisError) -> Self {
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || error.is_connection_refusal() {
            return Self::Unavailable(error);
        }
        match error.code() {
            Some("OOM") => Self::OutOfMemory,
            // A server that starts, fails over, cannot write its file or is busy in somebody's script: all pass.
            Some(
                "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS" | "MISCONF" | "BUSY"
                | "UNBLOCKED",
            ) => Self::Unavailable(error),
            // Redis has no code for it. Others will close theirs.
            _ if error.to_string().contains("max number of clients reached") => Self::Unavailable(error),
            _ => Self::Refused(error),
        }
    }
}

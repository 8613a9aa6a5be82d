//! Where Redis is and how to treat it.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::check::{Check, SOME_TIME};
use super::raw::RawRedis;
use super::secret::SecretUrl;
use crate::domain::id::Partition;

/// Section `redis`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RedisConfig {
    /// The server, or one node of the cluster: `redis://` or, with TLS, `rediss://`.
    pub url: SecretUrl,
    /// What all keys begin with.
    pub prefix: String,
    /// Into how many parts the keyspace is cut, 1 to 4096; fixed at the first start.
    pub partitions: NonZeroU16,
    /// Whether `url` leads to a Redis Cluster.
    pub cluster: bool,
    /// Certificates to trust besides the usual ones, as PEM.
    pub ca_file: Option<PathBuf>,
    /// Whether to load the function library on start; else a deploy user runs `waooaw functions load`.
    pub load_functions: bool,
    /// Whether a Redis that keeps nothing on disk is meant.
    pub allow_no_persistence: bool,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// The longest wait for an answer.
    pub response_timeout: Duration,
}

impl RedisConfig {
    pub(super) fn checked(raw: RawRedis, check: &mut Check<'_>) -> Self {
        if let Err(reason) = check_url(&raw.url, raw.cluster) {
            check.refuse("redis.url", reason);
        }
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if raw.prefix.is_empty() || raw.prefix.len() > 64 || !raw.prefix.bytes().all(is_legal) {
            check.refuse("redis.prefix", "expected 1 to 64 characters of A-Z a-z 0-9 . _ -");
        }
        if raw.ca_file.is_some() && !raw.url.starts_with("rediss:") && !raw.url.starts_with("valkeys:") {
            check
                .warnings
                .push("redis.ca_file has no effect: redis.url does not begin with rediss://".into());
        }
        Self {
            partitions: check
                .whole("redis.partitions", raw.partitions, &(1..=Partition::MAX_COUNT.into()))
                .and_then(NonZeroU16::new)
                .unwrap_or(NonZeroU16::MIN),
            cluster: raw.cluster,
            ca_file: raw.ca_file.map(|file| check.file("redis.ca_file", &file)),
            load_functions: raw.load_functions,
            allow_no_persistence: raw.allow_no_persistence,
            connect_timeout: check.duration("redis.connect_timeout", &raw.connect_timeout, &SOME_TIME),
            response_timeout: check.duration("redis.response_timeout", &raw.response_timeout, &SOME_TIME),
            url: SecretUrl::new(raw.url),
            prefix: raw.prefix,
        }
    }
}

/// What is wrong with the address, without repeating it.
fn check_url(text: &str, is_cluster: bool) -> Result<(), String> {
    const SCHEMES: [&str; 4] = ["redis", "rediss", "valkey", "valkeys"];
    let url = Url::parse(text).map_err(|error| format!("expected an address like redis://host:6379: {error}"))?;
    if !SCHEMES.contains(&url.scheme()) {
        return Err("expected an address that begins with redis:// or rediss://".into());
    }
    if url.host_str().unwrap_or_default().is_empty() {
        return Err("names no host".into());
    }
    match url.path().trim_matches('/') {
        "" | "0" => Ok(()),
        _ if is_cluster => Err("names a database, but a cluster has only database 0".into()),
        path if path.parse::<u32>().is_ok() => Ok(()),
        _ => Err("expected the number of a database after the host, if anything".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_known_scheme_a_host_and_at_most_a_database() {
        for legal in ["redis://h", "rediss://u:p@h:1/3", "redis://[::1]:6379/", "valkey://h/0"] {
            assert_eq!(check_url(legal, false), Ok(()), "{legal}");
        }
        for illegal in ["", "h:6379", "http://h", "redis://", "redis://h/x", "redis://h:port"] {
            assert!(check_url(illegal, false).is_err(), "{illegal}");
        }
        assert!(check_url("redis://h/1", true).is_err());
    }
}

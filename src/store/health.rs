//! Whether a server is fit to hold the state: what it is, how it keeps data, what the user may do.
//!
//! Reads `INFO`, which managed services allow too; `CONFIG` is asked where `INFO` does not tell, and it is no fault when
//! that is refused. A replica looks here before it starts, `doctor` whenever it is asked.

use std::collections::BTreeMap;
use std::fmt;

use super::connection::Args;
use super::library::{Function, LIBRARY};
use super::reply::{integer, items, string, text, worded};
use super::{Store, StoreError};
use crate::domain::id::Partition;

/// The oldest release with functions.
const OLDEST: (u32, u32) = (7, 0);

/// Why a server must not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It has no functions.
    TooOld(String),
    /// It takes no writes.
    ReadOnly(String),
    /// It deletes keys when memory runs short, whatever they are.
    Evicts(String),
}

impl Unfit {
    /// What is wrong with it.
    #[must_use]
    pub fn fault(&self) -> String {
        match self {
            Self::TooOld(version) => format!("the server is redis {version}, which is too old"),
            Self::ReadOnly(primary) => format!("the server is a read-only replica of {primary}"),
            Self::Evicts(policy) => {
                format!("maxmemory-policy is {policy}: the server may delete tasks when memory runs short")
            }
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::TooOld(_) => "install redis 7.0 or newer, or valkey",
            Self::ReadOnly(_) => "set redis.url to the primary's address",
            Self::Evicts(_) => {
                "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in its configuration file"
            }
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; mend it: {}", self.fault(), self.remedy())
    }
}

impl std::error::Error for Unfit {}

/// How a server keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// An append-only file.
    AppendOnly,
    /// Snapshots at intervals: what came since the last is lost in a crash.
    Snapshots,
    /// Nothing survives a restart.
    Nothing,
    /// The user may not ask.
    Unknown,
}

/// What a server says of itself.
#[derive(Debug, Clone)]
pub struct Health {
    info: BTreeMap<String, String>,
    /// How it keeps data.
    pub persistence: Persistence,
    /// What time it is there, ms since the epoch.
    pub now_ms: i64,
}

impl Health {
    fn text(&self, name: &str) -> &str {
        self.info.get(name).map_or("", |value| value.as_str())
    }

    fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or_default()
    }

    /// Its name and version.
    #[must_use]
    pub fn version(&self) -> String {
        match self.text("valkey_version") {
            "" => format!("redis {}", self.text("redis_version")),
            version => format!("valkey {version}"),
        }
    }

    /// The first reason not to use it.
    #[must_use]
    pub fn unfit(&self) -> Option<Unfit> {
        self.too_old().or_else(|| self.read_only()).or_else(|| self.evicts())
    }

    /// Whether it has no functions. A server that does not tell its version is believed to have them.
    #[must_use]
    pub fn too_old(&self) -> Option<Unfit> {
        let version = self.text("redis_version");
        let mut parts = version.split('.').map(|part| part.parse().unwrap_or_default());
        let found = (parts.next()?, parts.next().unwrap_or_default());
        (!version.is_empty() && found < OLDEST).then(|| Unfit::TooOld(version.to_owned()))
    }

    /// Whether it takes no writes.
    #[must_use]
    pub fn read_only(&self) -> Option<Unfit> {
        (self.text("role") == "slave").then(|| {
            let (host, port) = (self.text("master_host"), self.text("master_port"));
            Unfit::ReadOnly(format!("{host}:{port}"))
        })
    }

    /// Whether it deletes keys when memory runs short.
    #[must_use]
    pub fn evicts(&self) -> Option<Unfit> {
        match self.text("maxmemory_policy") {
            "" | "noeviction" => None,
            policy => Some(Unfit::Evicts(policy.to_owned())),
        }
    }

    /// Whether the policy is known.
    #[must_use]
    pub fn tells_policy(&self) -> bool {
        !self.text("maxmemory_policy").is_empty()
    }

    /// The last write of data to disk that failed, in words.
    #[must_use]
    pub fn failed_save(&self) -> Option<&'static str> {
        let failed = |name: &str| !matches!(self.text(name), "" | "ok");
        match self.persistence {
            Persistence::AppendOnly if failed("aof_last_write_status") => {
                Some("the last write to the append-only file failed")
            }
            Persistence::AppendOnly if failed("aof_last_bgrewrite_status") => {
                Some("the last rewrite of the append-only file failed")
            }
            Persistence::AppendOnly | Persistence::Snapshots | Persistence::Unknown
                if failed("rdb_last_bgsave_status") =>
            {
                Some("the last snapshot failed")
            }
            Persistence::AppendOnly | Persistence::Snapshots | Persistence::Nothing | Persistence::Unknown => None,
        }
    }

    /// Bytes in use, and how many there may be; 0 for no limit.
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        (self.number("used_memory"), self.number("maxmemory"))
    }
}

/// Where the user's rights could be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// These commands are refused; none when all is well.
    Refused(Vec<String>),
    /// The user may not even ask; why.
    Unknown(String),
}

/// The commands that replicas and the command line send or the functions run: on a partition's key (K), an inbound
/// stream (S) or none. A test compares the list with the functions.
const NEEDED: [&str; 75] = [
    "APPEND K v",
    "DEL K",
    "EXISTS K",
    "GET K",
    "GETRANGE K 0 1",
    "HDEL K f",
    "HEXISTS K f",
    "HGET K f",
    "HGETALL K",
    "HINCRBY K f 1",
    "HKEYS K",
    "HLEN K",
    "HMGET K f",
    "HSCAN K 0",
    "HSET K f v",
    "HSETNX K f v",
    "LINDEX K 0",
    "LLEN K",
    "LPOP K 1",
    "LPUSH K v",
    "LRANGE K 0 1",
    "LREM K 1 v",
    "MGET K",
    "MSET K v",
    "EXPIRE K 1",
    "RENAME K K",
    "RPOP K",
    "RPUSH K v",
    "SADD K v",
    "SCARD K",
    "SET K v",
    "SETRANGE K 0 v",
    "SISMEMBER K v",
    "SMEMBERS K",
    "SREM K v",
    "UNLINK K",
    "XACK K g 1-1",
    "XADD K * f v",
    "XCLAIM K g c 0 1-1",
    "XDEL K 1-1",
    "XGROUP CREATE K g 0",
    "XGROUP DELCONSUMER K g c",
    "XGROUP SETID K g 0",
    "XINFO GROUPS K",
    "XINFO STREAM K",
    "XINFO CONSUMERS K g",
    "XLEN K",
    "XPENDING K g",
    "XRANGE K - +",
    "XREVRANGE K + -",
    "XREAD STREAMS K 0",
    "XREADGROUP GROUP g c STREAMS K >",
    "XSETID K 1-1",
    "XTRIM K MAXLEN 1",
    "ZADD K 1 m",
    "ZCARD K",
    "ZCOUNT K 0 1",
    "ZRANGE K 0 1",
    "ZRANGEBYSCORE K 0 1",
    "ZRANK K m",
    "ZREM K m",
    "ZREMRANGEBYRANK K 0 1",
    "ZREMRANGEBYSCORE K 0 1",
    "ZREVRANGE K 0 1",
    "ZSCAN K 0",
    "ZSCORE K m",
    "XADD S * f v",
    "XREADGROUP GROUP g c STREAMS S >",
    "XGROUP CREATE S g 0",
    "XCLAIM S g c 0 1-1",
    "XACK S g 1-1",
    "PING",
    "TIME",
    "INFO",
    "SCAN 0",
];

impl Store {
    /// Asks the server about itself.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] of the connection.
    pub async fn health(&self) -> Result<Health, StoreError> {
        let now_ms = self.now_ms().await?;
        let info = match self.send(&redis::cmd("INFO")).await {
            Ok(info) => string(info).unwrap_or_default(),
            // One that may not ask is not stopped for that.
            Err(StoreError::Refused(_)) => String::new(),
            Err(error) => return Err(error),
        };
        let info: BTreeMap<String, String> = info
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let persistence = if info.get("aof_enabled").is_some_and(|value| value == "1") {
            Persistence::AppendOnly
        } else {
            match self.save_points().await? {
                None => Persistence::Unknown,
                Some(points) if points.is_empty() => Persistence::Nothing,
                Some(_) => Persistence::Snapshots,
            }
        };
        Ok(Health {
            info,
            persistence,
            now_ms,
        })
    }

    /// Bytes in use, and how many there may be (0 for no limit); `None` where the user may not ask.
    pub(crate) async fn memory(&self) -> Result<Option<(u64, u64)>, StoreError> {
        let info = match self.send(redis::cmd("INFO").arg("memory")).await {
            Ok(info) => string(info).unwrap_or_default(),
            Err(StoreError::Refused(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let number = |name: &str| {
            let mut lines = info.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(found, _)| *found == name)?.1.trim().parse().ok()
        };
        Ok(number("used_memory").zip(number("maxmemory")))
    }

    /// When snapshots are made; `None` where the user may not ask.
    async fn save_points(&self) -> Result<Option<String>, StoreError> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("save");
        match self.send(&command).await {
            Ok(answer) => {
                let answer = items(answer).ok_or(StoreError::Protocol("CONFIG"))?;
                Ok(answer.into_iter().nth(1).and_then(string))
            }
            Err(StoreError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The libraries of this runtime that are loaded; `None` where the user may not ask.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoFunctions`] where there is no such thing; any [`StoreError`] of the connection.
    pub async fn libraries(&self) -> Result<Option<Vec<String>>, StoreError> {
        let mut command = redis::cmd("FUNCTION");
        command.arg("LIST").arg("LIBRARYNAME").arg("waooaw_*");
        let answer = match self.send(&command).await {
            Ok(answer) => answer,
            Err(StoreError::Refused(error)) if error.to_string().contains("unknown command") => {
                return Err(StoreError::NoFunctions);
            }
            Err(StoreError::Refused(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for library in items(answer).ok_or(StoreError::Protocol("FUNCTION"))? {
            let fields = items(library).unwrap_or_default();
            let name = fields
                .chunks_exact(2)
                .find(|pair| text(&pair[0]) == Some("library_name"))
                .and_then(|pair| text(&pair[1]));
            names.extend(name.map(str::to_owned));
        }
        names.sort_unstable();
        Ok(Some(names))
    }

    /// The name of this release's library.
    #[must_use]
    pub fn library_name() -> &'static str {
        &LIBRARY.name
    }

    /// Which of the needed commands the user may not use. Loads the functions where they are missing.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`] of the connection; [`StoreError::NotJoined`] as long as no replica has ever run.
    pub async fn rights(&self) -> Result<Rights, StoreError> {
        let partition = Partition::default();
        let mut args = Args::default();
        args.push("-");
        let (key, stream) = (self.keys().events(partition), self.keys().triggers());
        for line in NEEDED {
            let words: Vec<&str> = line
                .split(' ')
                .map(|word| match word {
                    "K" => key.as_str(),
                    "S" => stream.as_str(),
                    word => word,
                })
                .collect();
            args.push(words.join("\n"));
        }
        let answer = match self.call(Function::Rights, partition, args).await {
            Ok(answer) => answer,
            Err(StoreError::Refused(error)) => {
                let refused = error.code() == Some("NOPERM");
                return Ok(if refused {
                    Rights::Refused(vec!["FCALL".to_owned()])
                } else {
                    Rights::Unknown(error.to_string())
                });
            }
            Err(error) => return Err(error),
        };
        let (_, mut rest) = worded(answer, "rights")?;
        let places = rest.next().and_then(items).ok_or(StoreError::Protocol("rights"))?;
        let refused = places
            .iter()
            .filter_map(integer)
            .filter_map(|place| NEEDED.get(usize::try_from(place).ok()?.checked_sub(1)?))
            .map(|line| needed_name(line))
            .collect();
        Ok(Rights::Refused(refused))
    }
}

/// A line of the list as it is told: the command, and where it is refused.
fn needed_name(line: &str) -> String {
    let mut words = line.split(' ');
    let command = words.next().unwrap_or_default();
    let name = match (command, words.next()) {
        ("XGROUP" | "XINFO", Some(sub)) => format!("{command} {sub}"),
        _ => command.to_owned(),
    };
    if line.split(' ').any(|word| word == "S") {
        format!("{name} on the inbound streams")
    } else {
        name
    }
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AppendOnly => "append-only file",
            Self::Snapshots => "snapshots only",
            Self::Nothing => "none",
            Self::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(info: &[(&str, &str)], persistence: Persistence) -> Health {
        Health {
            info: info
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            persistence,
            now_ms: 0,
        }
    }

    #[test]
    fn a_server_is_refused_for_its_age_its_role_and_its_policy() {
        let good = [
            ("redis_version", "7.0.15"),
            ("role", "master"),
            ("maxmemory_policy", "noeviction"),
        ];
        assert_eq!(health(&good, Persistence::AppendOnly).unfit(), None);
        assert_eq!(health(&[], Persistence::Unknown).unfit(), None);
        for version in ["6.2.14", "6", "5.0"] {
            let found = health(&[("redis_version", version)], Persistence::AppendOnly).unfit();
            assert_eq!(found, Some(Unfit::TooOld(version.to_owned())));
        }
        for version in ["7.0.0", "7.2.4", "10.1"] {
            assert_eq!(
                health(&[("redis_version", version)], Persistence::AppendOnly).unfit(),
                None
            );
        }
        let replica = [("role", "slave"), ("master_host", "h"), ("master_port", "1")];
        assert_eq!(
            health(&replica, Persistence::AppendOnly).unfit(),
            Some(Unfit::ReadOnly("h:1".to_owned()))
        );
        let evicts = health(&[("maxmemory_policy", "allkeys-lru")], Persistence::AppendOnly).unfit();
        let text = evicts.unwrap().to_string();
        assert!(
            text.contains("allkeys-lru") && text.contains("CONFIG SET maxmemory-policy noeviction"),
            "{text}"
        );
    }

    #[test]
    fn a_failed_save_counts_where_it_is_what_keeps_the_data() {
        let failed = [("rdb_last_bgsave_status", "err"), ("aof_last_write_status", "ok")];
        assert!(health(&failed, Persistence::Snapshots).failed_save().is_some());
        assert!(health(&failed, Persistence::Nothing).failed_save().is_none());
        let failed = [("aof_last_write_status", "err")];
        assert!(health(&failed, Persistence::AppendOnly).failed_save().is_some());
        assert!(health(&failed, Persistence::Snapshots).failed_save().is_none());
    }

    #[test]
    fn every_command_of_the_functions_is_in_the_list_of_rights() {
        let known: Vec<String> = NEEDED
            .iter()
            .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
            .collect();
        let source = &LIBRARY.source;
        let after = ["redis.call('", "redis.pcall('", "{ '"];
        for start in after {
            for (at, _) in source.match_indices(start) {
                let command = source[at + start.len()..].split('\'').next().unwrap_or_default();
                let is_command = command.len() > 2 && command.bytes().all(|byte| byte.is_ascii_uppercase());
                // The names of states stand in lists too.
                let is_state = ["PENDING", "RUNNING", "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"].contains(&command);
                if is_command && !is_state {
                    assert!(
                        known.iter().any(|name| name == command),
                        "{command} is missing from NEEDED"
                    );
                }
            }
        }
    }
}

//! The names of things: tasks, groups, replicas, partitions.
//!
//! Ids are derived, not drawn: the same trigger gives the same id, so a repeated delivery finds what the first one made.
//! A task's id carries its partition in its low 12 bits, so an id alone finds its task.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The number of one partition: a part of the keyspace that lives in one Redis Cluster slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Partition(u16);

impl Partition {
    /// The most partitions a deployment can have: what 12 bits hold.
    pub const MAX_COUNT: u16 = 4096;

    /// The partition with this number, or `None` past 4095.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < Self::MAX_COUNT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The partition of a name among `count`, the same on every replica.
    #[must_use]
    pub fn of_name(name: &str, count: u16) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        Self(u16::from_be_bytes([digest[0], digest[1]]) % count.clamp(1, Self::MAX_COUNT))
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one task for its whole life, across every attempt. Its low 12 bits are its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(Uuid);

impl TaskId {
    /// The id of the task that `event_id` from `source` creates in `group` under the node `key`.
    ///
    /// A UUID of version 8 (RFC 9562: vendor specific) made of the leading bits of a SHA-256 over the four names, with
    /// the partition in the last 12 bits. `partitions` is the deployment's count.
    #[must_use]
    pub fn derive(source: &str, event_id: &str, group: Option<&str>, key: Option<&str>, partitions: u16) -> Self {
        let mut hash = Sha256::new();
        for part in [source, event_id, group.unwrap_or(""), key.unwrap_or("")] {
            // The length keeps ("ab", "c") and ("a", "bc") apart.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let digest = hash.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        let partition = group.map_or_else(
            || Partition(u16::from_be_bytes([digest[16], digest[17]]) % partitions.clamp(1, Partition::MAX_COUNT)),
            |group| Partition::of_name(group, partitions),
        );
        Self::with_partition(bytes, partition)
    }

    fn with_partition(mut bytes: [u8; 16], partition: Partition) -> Self {
        let [high, low] = partition.0.to_be_bytes();
        bytes[14] = (bytes[14] & 0xf0) | high;
        bytes[15] = low;
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// The partition that holds the task.
    #[must_use]
    pub fn partition(self) -> Partition {
        let bytes = self.0.as_bytes();
        Partition(u16::from_be_bytes([bytes[14] & 0x0f, bytes[15]]))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// The text is not an id of the kind that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidId(String);

impl FromStr for TaskId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uuid = Uuid::try_parse(text)
            .map_err(|_| InvalidId(format!("`{}` is not a task id: expected a UUID", shortened(text))))?;
        Ok(Self(uuid))
    }
}

/// A name that a caller chose: a workflow, a saga, an agent, a node's key. `[A-Za-z0-9._:/-]`, 1 to 128 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// The longest name, in characters.
    pub const MAX_LENGTH: usize = 128;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
        if text.is_empty() || text.len() > Self::MAX_LENGTH || !text.bytes().all(is_legal) {
            return Err(InvalidId(format!(
                "`{}` is not a valid name: expected 1 to {} characters of A-Z a-z 0-9 . _ : / -",
                shortened(text),
                Self::MAX_LENGTH
            )));
        }
        Ok(Self(text.into()))
    }
}

/// Names one queue. `[A-Za-z0-9._-]`, 1 to 64 characters, since it is a part of the queue's keys; `default` by default.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName(Box<str>);

impl QueueName {
    /// The longest name, in characters.
    pub const MAX_LENGTH: usize = 64;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for QueueName {
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for QueueName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if text.is_empty() || text.len() > Self::MAX_LENGTH || !text.bytes().all(is_legal) {
            return Err(InvalidId(format!(
                "`{}` is not a valid queue: expected 1 to {} characters of A-Z a-z 0-9 . _ -",
                shortened(text),
                Self::MAX_LENGTH
            )));
        }
        Ok(Self(text.into()))
    }
}

/// Names one run of one replica process. Drawn anew at each start, so a late message of an earlier run is never taken
/// for this one's. Always [`ReplicaId::LENGTH`] characters, since it has a fixed place in the task record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId([u8; Self::LENGTH]);

impl ReplicaId {
    /// How many characters each has.
    pub const LENGTH: usize = 10;

    /// Spells 40 random bits as `r-` and eight letters and digits that are hard to confuse.
    #[must_use]
    pub fn from_random(random: u64) -> Self {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut text = *b"r-00000000";
        for (place, letter) in text[2..].iter_mut().enumerate() {
            *letter = ALPHABET[usize::from((random >> (5 * place)).to_le_bytes()[0] % 32)];
        }
        Self(text)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The beginning of a text, for a message that must stay short.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trigger_gives_the_same_id_and_any_other_another() {
        let id = TaskId::derive("sales", "e-1", None, None, 1);

        assert_eq!(id, TaskId::derive("sales", "e-1", None, None, 1));
        assert_ne!(id, TaskId::derive("sales", "e-2", None, None, 1));
        assert_ne!(id, TaskId::derive("salese", "-1", None, None, 1));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 36);
    }

    #[test]
    fn a_task_lives_in_the_partition_of_its_group() {
        for count in [1, 2, 16, 4096] {
            let home = Partition::of_name("order-7", count);
            for event in ["a", "b", "c"] {
                assert_eq!(
                    TaskId::derive("s", event, Some("order-7"), None, count).partition(),
                    home
                );
                assert!(TaskId::derive("s", event, None, None, count).partition().number() < count);
            }
        }
    }

    #[test]
    fn names_have_a_narrow_alphabet() {
        for legal in ["a", "order-7", "team/a:b.c_d", &"x".repeat(128)] {
            assert_eq!(legal.parse::<Name>().unwrap().as_str(), legal);
        }
        for illegal in ["", "a b", "a\n", "{0}", "é", &"x".repeat(129), "a*", "a\0"] {
            assert!(illegal.parse::<Name>().is_err(), "{illegal:?}");
        }
    }

    #[test]
    fn a_queue_name_cannot_leave_its_place_in_a_key() {
        for legal in ["a", "billing-eu", "v1.2_x", &"x".repeat(64)] {
            assert_eq!(legal.parse::<QueueName>().unwrap().to_string(), legal);
        }
        for illegal in ["", "a:b", "a/b", "a b", "{0}", "é", "a*", "a\0", &"x".repeat(65)] {
            assert!(illegal.parse::<QueueName>().is_err(), "{illegal:?}");
        }
        assert_eq!(QueueName::default(), "default".parse().unwrap());
    }

    #[test]
    fn a_replica_id_has_a_fixed_length() {
        assert_eq!(ReplicaId::from_random(0).as_str(), "r-00000000");
        assert_eq!(ReplicaId::from_random(u64::MAX).as_str().len(), ReplicaId::LENGTH);
    }
}

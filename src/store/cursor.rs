//! Where a list goes on: a place in what it walks over, as a text that means nothing to others.

use std::fmt;
use std::str::FromStr;

use crate::domain::dead_letter::DeadLetterId;
use crate::domain::id::{Name, Partition, QueueName, TaskId};
use crate::domain::priority::Priority;

/// Where a list goes on. As text it is opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub(super) Place);

/// The text is no cursor, or one of another list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a `next_cursor` of this list")]
pub struct InvalidCursor;

/// A place in what a list walks over; what stands there has been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// So many tasks into the list of a workflow.
    Workflow { offset: usize },
    /// Behind an entry of a shelf; `after` is empty for its beginning.
    Shelf {
        partition: Partition,
        shelf: Option<Shelf>,
        after: String,
    },
    /// Before an entry of the log (`+`: at its newest). `newest_ms` is when the walk began, by the newest entry.
    Log {
        partition: Partition,
        before: String,
        newest_ms: i64,
    },
    /// Behind a dead letter, by its time and its id; without one at the beginning of the partition.
    Letters {
        partition: Partition,
        behind: Option<(i64, String)>,
    },
}

/// Where tasks stand that wait or run. The order is that of the list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shelf {
    Queue(QueueName, Priority),
    Parked(Name, Priority),
    ParkedForAgents(Name, Priority),
    Agents(QueueName, Priority),
    Delayed,
}

impl Place {
    pub(super) fn partition(&self) -> Partition {
        match self {
            Self::Workflow { .. } => Partition::default(),
            Self::Shelf { partition, .. } | Self::Log { partition, .. } | Self::Letters { partition, .. } => *partition,
        }
    }

    /// When the walk over the log began.
    pub(super) const fn newest_ms(&self) -> i64 {
        match self {
            Self::Workflow { .. } | Self::Shelf { .. } | Self::Letters { .. } => 0,
            Self::Log { newest_ms, .. } => *newest_ms,
        }
    }

    fn read(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(' ')?;
        let partition = |text: &str| text.parse().ok().and_then(Partition::new);
        match kind {
            "w" => Some(Self::Workflow {
                offset: rest.parse().ok().filter(|&offset| offset < usize::MAX / 2)?,
            }),
            "l" => {
                let mut parts = rest.split(' ');
                let place = Self::Log {
                    partition: partition(parts.next()?)?,
                    before: parts.next().filter(|id| *id == "+" || is_entry_id(id))?.to_owned(),
                    newest_ms: parts.next()?.parse().ok()?,
                };
                parts.next().is_none().then_some(place)
            }
            "d" => {
                let mut parts = rest.split(' ');
                let partition = partition(parts.next()?)?;
                let behind = match (parts.next(), parts.next()) {
                    (None, None) => None,
                    (Some(ms), Some(id)) => Some((ms.parse().ok()?, id.parse::<DeadLetterId>().ok()?.to_string())),
                    (Some(_), None) | (None, Some(_)) => return None,
                };
                parts.next().is_none().then_some(Self::Letters { partition, behind })
            }
            "s" => {
                let mut parts = rest.splitn(5, ' ');
                let partition = partition(parts.next()?)?;
                let (kind, name, rank) = (parts.next()?, parts.next()?, parts.next()?);
                let priority = || Priority::from_rank(rank.parse().ok()?);
                let after = parts.next()?;
                let is_sound = after.is_empty()
                    || match (kind, after.split_once(' ')) {
                        ("d", Some((due_ms, task))) => {
                            due_ms.parse::<f64>().is_ok_and(f64::is_finite) && task.parse::<TaskId>().is_ok()
                        }
                        ("q" | "p" | "n" | "a", None) => is_entry_id(after),
                        (_, Some(_) | None) => false,
                    };
                let shelf = match kind {
                    "-" => None,
                    "q" => Some(Shelf::Queue(name.parse().ok()?, priority()?)),
                    "p" => Some(Shelf::Parked(name.parse().ok()?, priority()?)),
                    "n" => Some(Shelf::ParkedForAgents(name.parse().ok()?, priority()?)),
                    "a" => Some(Shelf::Agents(name.parse().ok()?, priority()?)),
                    "d" => Some(Shelf::Delayed),
                    _ => return None,
                };
                is_sound.then(|| Self::Shelf {
                    partition,
                    shelf,
                    after: after.to_owned(),
                })
            }
            _ => None,
        }
    }
}

/// Whether a text is the whole id of a stream entry.
#[must_use]
pub fn is_entry_id(text: &str) -> bool {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u64>().is_ok();
    text.split_once('-')
        .is_some_and(|(ms, seq)| is_number(ms) && is_number(seq))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workflow { offset } => write!(f, "w {offset}"),
            Self::Log {
                partition,
                before,
                newest_ms,
            } => write!(f, "l {partition} {before} {newest_ms}"),
            Self::Letters { partition, behind } => match behind {
                None => write!(f, "d {partition}"),
                Some((ms, id)) => write!(f, "d {partition} {ms} {id}"),
            },
            Self::Shelf {
                partition,
                shelf,
                after,
            } => match shelf {
                None => write!(f, "s {partition} - - - {after}"),
                Some(Shelf::Queue(name, priority)) => write!(f, "s {partition} q {name} {} {after}", priority.rank()),
                Some(Shelf::Parked(name, priority)) => write!(f, "s {partition} p {name} {} {after}", priority.rank()),
                Some(Shelf::ParkedForAgents(name, priority)) => {
                    write!(f, "s {partition} n {name} {} {after}", priority.rank())
                }
                Some(Shelf::Agents(name, priority)) => write!(f, "s {partition} a {name} {} {after}", priority.rank()),
                Some(Shelf::Delayed) => write!(f, "s {partition} d - - {after}"),
            },
        }
    }
}

impl fmt::Display for Cursor {
    /// Hexadecimal, so that it needs no quoting on a command line or in an address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_string().bytes().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes: Option<Vec<u8>> = pairs
            .iter()
            .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
            .collect();
        bytes
            .filter(|_| rest.is_empty())
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| Place::read(&text))
            .map(Self)
            .ok_or(InvalidCursor)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hexadecimal(text: &str) -> String {
        text.bytes().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
    }

    /// One place of each kind and more.
    pub(in crate::store) fn places() -> Vec<Place> {
        let partition = Partition::new(7).unwrap();
        let shelf = |shelf, after: &str| Place::Shelf {
            partition,
            shelf,
            after: after.to_owned(),
        };
        vec![
            Place::Workflow { offset: 500 },
            Place::Log {
                partition,
                before: "+".to_owned(),
                newest_ms: 0,
            },
            Place::Log {
                partition,
                before: "1795447172120-12".to_owned(),
                newest_ms: 1_795_447_172_120,
            },
            shelf(None, ""),
            shelf(Some(Shelf::Queue("a-b.c_d".parse().unwrap(), Priority::Low)), "5-0"),
            shelf(Some(Shelf::Parked("team/a:b".parse().unwrap(), Priority::High)), ""),
            shelf(Some(Shelf::ParkedForAgents("a".parse().unwrap(), Priority::Low)), "5-0"),
            shelf(Some(Shelf::Agents("a-b".parse().unwrap(), Priority::Normal)), "6-0"),
            shelf(Some(Shelf::Delayed), ""),
            shelf(
                Some(Shelf::Delayed),
                "1795447172120 0190f5d1-7c1e-8a3b-8c4d-000000000000",
            ),
            Place::Letters {
                partition,
                behind: None,
            },
            Place::Letters {
                partition,
                behind: Some((1_795_447_172_120, "0190f5d1-7c1e-8a3b-8c4d-000000000000.3".to_owned())),
            },
        ]
    }

    #[test]
    fn a_cursor_round_trips_and_has_only_letters_and_digits() {
        for place in places() {
            let cursor = Cursor(place);
            let text = cursor.to_string();
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{text}");
            assert_eq!(text.parse(), Ok(cursor));
        }
    }

    #[test]
    fn what_was_tampered_with_is_refused() {
        let hex = |text: &str| hexadecimal(text);
        for text in [
            "",
            "x",
            "7",
            "zz",
            &hex("w -1"),
            &hex("w 99999999999999999999"),
            &hex("l 4096 + 0"),
            &hex("l 0 5 0"),
            &hex("l 0 + 0 0"),
            &hex("s 0 q a:b 0 "),
            &hex("s 0 q a 4 "),
            &hex("s 0 q a 0 5-0 x"),
            &hex("s 0 d - - 5-0"),
            &hex("s 0 d - - inf 0190f5d1-7c1e-8a3b-8c4d-000000000000"),
            &hex("s 0 x - - "),
            &hex("d 4096"),
            &hex("d 0 5"),
            &hex("d 0 5 x"),
            &hex("d 0 5 0190f5d1-7c1e-8a3b-8c4d-000000000000.3 x"),
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}", place in "[wlsd] [0-9 +qpd-]{0,40}") {
            let hex = hexadecimal(&place);
            prop_assert!(text.parse::<Cursor>().is_ok_and(|cursor| cursor.to_string() == text) || text.parse::<Cursor>().is_err());
            prop_assert!(hex.parse::<Cursor>().is_ok_and(|cursor| !cursor.to_string().is_empty()) || hex.parse::<Cursor>().is_err());
        }
    }
}

//! Turns typed values into true ones, and keeps a list of everything that is wrong on the way.
//!
//! Each rule gives some value even where it refuses one, so that the rules after it still run: the configuration made of
//! such values is thrown away, and all problems are told at once.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value as Json;

use super::EffectiveValue;
use super::nearest::nearest;
use super::path::{KeyPath, Segment};
use super::problem::ConfigProblem;
use super::raw::RawConfig;
use super::tree::Tree;
use super::units;
use crate::domain::retry::{InvalidPolicy, RetryPolicy};

/// From nothing to ten years.
pub(super) const ANY_TIME: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(10 * 365 * 86_400);
/// From a millisecond to ten years.
pub(super) const SOME_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=*ANY_TIME.end();

/// One pass over a configuration.
pub(super) struct Check<'a> {
    /// What was typed.
    pub(super) tree: &'a Tree,
    /// Where relative paths start.
    pub(super) directory: &'a Path,
    /// How many cores the machine has.
    pub(super) cores: usize,
    /// What stops the start.
    pub(super) problems: Vec<ConfigProblem>,
    /// What only deserves a word.
    pub(super) warnings: Vec<String>,
    /// Values that follow from others, in place of what was typed.
    pub(super) derived: Vec<EffectiveValue>,
}

impl Check<'_> {
    /// The tree as its types. A value of the wrong type is reported and replaced by its default, an unknown key is
    /// reported and left out, until the rest fits.
    pub(super) fn typed(&mut self) -> RawConfig {
        let defaults = serde_json::to_value(RawConfig::default()).expect("the defaults have only text keys");
        let mut json = self.tree.json();
        let mut last = None;
        loop {
            let error = match serde_path_to_error::deserialize::<_, RawConfig>(json.clone()) {
                Ok(raw) => return raw,
                Err(error) => error,
            };
            let path = KeyPath::default().below(error.path());
            let message = error.inner().to_string();
            let is_unknown = message.starts_with("unknown field");
            if is_unknown {
                self.refuse_unknown(&path, &message);
            } else {
                self.refuse(&path, expectation(&message));
            }
            let default = path.segments().iter().try_fold(&defaults, step).cloned();
            let is_replaced = replace(&mut json, path.segments(), default.filter(|_| !is_unknown));
            // What does not fit even so would be reported for ever.
            if !is_replaced || last.replace(path.clone()) == Some(path) {
                return RawConfig::default();
            }
        }
    }

    /// Reports the value at `path`.
    pub(super) fn refuse(&mut self, path: impl Into<KeyPath>, reason: impl Into<String>) {
        let path = path.into();
        let value = self.tree.shown(&path);
        let problem = ConfigProblem {
            value,
            ..self.problem(&path, reason)
        };
        self.problems.push(problem);
    }

    /// Reports the key at `path`, whatever its value.
    pub(super) fn refuse_key(&mut self, path: &KeyPath, reason: impl Into<String>) {
        let problem = self.problem(path, reason);
        self.problems.push(problem);
    }

    fn problem(&self, path: &KeyPath, reason: impl Into<String>) -> ConfigProblem {
        ConfigProblem {
            key: path.to_string(),
            value: None,
            reason: reason.into(),
            source: self.tree.source(path),
        }
    }

    fn refuse_unknown(&mut self, path: &KeyPath, message: &str) {
        let typed = path.keys().last().copied().unwrap_or_default();
        let names = message.split_once(", expected ").map_or("", |(_, names)| names);
        let hint = match nearest(typed, names.split('`').skip(1).step_by(2)) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("expected {names}"),
        };
        let is_task_with_dot = path.segments().len() > 2 && path.keys().first() == Some(&"handlers");
        let quote = if is_task_with_dot {
            " (a task name with a dot needs quotes)"
        } else {
            ""
        };
        self.refuse_key(path, format!("unknown key, {hint}{quote}"));
    }

    /// A whole number within `range`.
    pub(super) fn whole<T: TryFrom<i64>>(
        &mut self,
        path: impl Into<KeyPath>,
        value: i64,
        range: &RangeInclusive<i64>,
    ) -> Option<T> {
        let fitting = Some(value)
            .filter(|value| range.contains(value))
            .and_then(|value| T::try_from(value).ok());
        if fitting.is_none() {
            self.refuse(
                path,
                format!("expected a whole number from {} to {}", range.start(), range.end()),
            );
        }
        fitting
    }

    /// A limit, where 0 means that there is none.
    pub(super) fn limit(&mut self, path: impl Into<KeyPath>, value: i64) -> Option<NonZeroU32> {
        self.whole(path, value, &(0..=u32::MAX.into()))
            .and_then(NonZeroU32::new)
    }

    /// A duration with its unit, within `range`.
    pub(super) fn duration(
        &mut self,
        path: impl Into<KeyPath>,
        text: &str,
        range: &RangeInclusive<Duration>,
    ) -> Duration {
        match units::duration(text) {
            Ok(duration) if range.contains(&duration) => return duration,
            Ok(_) => {
                let start = if range.start().is_zero() {
                    "0s".to_owned()
                } else {
                    format!("{:?}", range.start())
                };
                self.refuse(path, format!("expected a duration from {start} to 3650d"));
            }
            Err(error) => self.refuse(path, error.to_string()),
        }
        *range.start()
    }

    /// A number of seconds, more than 0.
    pub(super) fn seconds(&mut self, path: impl Into<KeyPath>, seconds: f64) -> Duration {
        if (0.001..=RetryPolicy::LONGEST_DELAY_SECONDS).contains(&seconds) {
            return Duration::from_secs_f64(seconds);
        }
        self.refuse(
            path,
            format!("expected seconds from 0.001 to {}", RetryPolicy::LONGEST_DELAY_SECONDS),
        );
        Duration::ZERO
    }

    /// A value that reads itself.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, path: impl Into<KeyPath>, text: &str) -> Option<T> {
        text.parse()
            .map_err(|error: T::Err| self.refuse(path, error.to_string()))
            .ok()
    }

    /// A retry policy: the name of a preset or a table.
    pub(super) fn retry(&mut self, path: impl Into<KeyPath>, typed: &Json) -> RetryPolicy {
        let path = path.into();
        let read = match typed {
            Json::String(name) => name.parse().map_err(|error: InvalidPolicy| {
                let problem = error.problem;
                self.refuse(&path, problem);
            }),
            Json::Object(_) => serde_path_to_error::deserialize(typed.clone()).map_err(|error| {
                let place = path.below(error.path());
                self.refuse(&place, expectation(&error.inner().to_string()));
            }),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) => {
                self.refuse(&path, "expected the name of a preset or a table");
                Err(())
            }
        };
        let policy: RetryPolicy = read.unwrap_or_default();
        for problem in policy.problems() {
            self.refuse(path.key(problem.field), problem.problem);
        }
        policy
    }

    /// The address of a collector.
    pub(super) fn collector(&mut self, path: impl Into<KeyPath>, typed: String) -> String {
        let url = url::Url::parse(&typed).ok();
        let is_fine = url.is_some_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        if !is_fine {
            self.refuse(path, "expected an address like http://collector:4318");
        }
        typed
    }

    /// A file that is there, as seen from the working directory.
    pub(super) fn file(&mut self, path: impl Into<KeyPath>, typed: &str) -> PathBuf {
        let file = self.directory.join(typed);
        if !file.is_file() {
            self.refuse(path, "there is no such file");
        }
        file
    }
}

/// What serde expected, without the value that it repeats: the value is shown beside it, masked if need be.
fn expectation(message: &str) -> String {
    let Some((_, expected)) = message.rsplit_once(", expected ") else {
        return message.to_owned();
    };
    let expected = match expected {
        "i64" | "u32" => "a whole number",
        "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "a table",
        other => other,
    };
    format!("expected {expected}")
}

fn step<'a>(json: &'a Json, segment: &Segment) -> Option<&'a Json> {
    match segment {
        Segment::Key(key) => json.get(key),
        Segment::Index(index) => json.get(index),
    }
}

/// Puts `value` in the place of the one at `segments`; without one, a key is taken out and a list keeps a gap. Whether
/// there was such a place.
fn replace(json: &mut Json, segments: &[Segment], value: Option<Json>) -> bool {
    let Some((last, way)) = segments.split_last() else {
        return false;
    };
    let parent = way.iter().try_fold(json, |json, segment| match segment {
        Segment::Key(key) => json.get_mut(key),
        Segment::Index(index) => json.get_mut(index),
    });
    match (parent, last) {
        (Some(Json::Object(table)), Segment::Key(key)) => match value {
            Some(value) => table.insert(key.clone(), value).is_some(),
            None => table.remove(key).is_some(),
        },
        (Some(Json::Array(items)), Segment::Index(index)) => items
            .get_mut(*index)
            .map(|place| *place = value.unwrap_or_default())
            .is_some(),
        _ => false,
    }
}

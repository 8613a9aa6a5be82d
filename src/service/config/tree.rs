//! All layers laid over each other, each value still knowing where it came from.
//!
//! The `config` crate parses files and carries the origin in every value; this module merges, looks values up, and shows
//! them masked. The merge is its own: the crate's builder reads a quoted key with dots as a path, forgets where a table
//! came from, and would mix two retry policies into a third.

use config::{Map, Value, ValueKind};
use serde_json::Value as Json;

use super::EffectiveValue;
use super::path::{KeyPath, Segment};
use super::secret::{MASK, masked_url};

/// The source of a value that nobody typed.
pub(super) const COMPILED: &str = "default";

/// One layer, a table: what one file, or one variable, says.
#[derive(Debug, Clone)]
pub(super) struct Layer(pub(super) Value);

/// Tables are merged key by key; every other value replaces the one below, and so does a retry policy: what its object
/// leaves out is the standard policy's, not some other file's.
fn lay_over(below: &mut Value, above: &Value, path: &KeyPath) {
    match (&mut below.kind, &above.kind) {
        (ValueKind::Table(below), ValueKind::Table(above)) if !is_whole(path) => {
            for (key, value) in above {
                match below.get_mut(key) {
                    Some(below) => lay_over(below, value, &path.key(key)),
                    None => drop(below.insert(key.clone(), value.clone())),
                }
            }
        }
        _ => *below = above.clone(),
    }
}

/// Whether the value at `path` is one thing, even if it is a table.
fn is_whole(path: &KeyPath) -> bool {
    matches!(path.keys()[..], ["retry", "default"] | ["handlers", _, "retry"])
}

/// All layers as one.
pub(super) struct Tree(Value);

impl Tree {
    /// Lays `layers` over each other, the first at the bottom.
    pub(super) fn of(layers: &[Layer]) -> Self {
        let mut all = Value::new(None, Map::<String, Value>::new());
        for layer in layers {
            lay_over(&mut all, &layer.0, &KeyPath::default());
        }
        Self(all)
    }

    /// The value at `path`.
    pub(super) fn get(&self, path: &KeyPath) -> Option<&Value> {
        path.segments().iter().try_fold(&self.0, step)
    }

    /// Where the value at `path` was typed; for a value that is missing, what is around it.
    pub(super) fn source(&self, path: &KeyPath) -> String {
        let mut nearest = &self.0;
        for segment in path.segments() {
            let Some(value) = step(nearest, segment) else { break };
            nearest = value;
        }
        origin(nearest).unwrap_or(COMPILED).to_owned()
    }

    /// The value at `path` as it may be shown, or `None` where there is none.
    pub(super) fn shown(&self, path: &KeyPath) -> Option<String> {
        self.get(path)
            .filter(|value| value.kind != ValueKind::Nil)
            .map(|value| text(&masked(value, path)))
    }

    /// The whole as JSON, for serde.
    pub(super) fn json(&self) -> Json {
        to_json(&self.0)
    }

    /// Every single value with its source, by key. A value that is not set is empty.
    pub(super) fn rows(&self) -> Vec<EffectiveValue> {
        let mut rows = Vec::new();
        self.gather(&self.0, &KeyPath::default(), &mut rows);
        rows.sort_by(|one, other| one.key.cmp(&other.key));
        rows
    }

    fn gather(&self, value: &Value, path: &KeyPath, rows: &mut Vec<EffectiveValue>) {
        if let ValueKind::Table(table) = &value.kind
            && !is_whole(path)
        {
            for (key, value) in table {
                self.gather(value, &path.key(key), rows);
            }
            return;
        }
        rows.push(EffectiveValue {
            key: path.to_string(),
            value: self.shown(path).unwrap_or_default(),
            source: self.source(path),
        });
    }
}

/// One step down from `value`.
fn step<'a>(value: &'a Value, segment: &Segment) -> Option<&'a Value> {
    if let ValueKind::Table(table) = &value.kind
        && let Segment::Key(key) = segment
    {
        table.get(key)
    } else if let ValueKind::Array(list) = &value.kind
        && let Segment::Index(index) = segment
    {
        list.get(*index)
    } else {
        None
    }
}

/// Where a value was typed; a table was typed where the first of its values was.
fn origin(value: &Value) -> Option<&str> {
    if let ValueKind::Table(table) = &value.kind
        && let Some((_, first)) = table.iter().min_by_key(|(key, _)| key.as_str())
    {
        return origin(first);
    }
    value.origin()
}

/// How much of a value may be shown.
enum Visibility {
    Open,
    Url,
    Hidden,
}

/// How much of a single value at `path` may be shown. Everything that could be a token, a key or a password is hidden,
/// also where a value of the wrong kind stands in the place of a whole table.
fn visibility(path: &KeyPath) -> Visibility {
    match path.keys()[..] {
        ["redis"] | ["redis", "url"] | ["handlers", _, "url"] => Visibility::Url,
        ["http", "tokens", "role" | "token_file"] => Visibility::Open,
        ["http", "tokens", ..]
        | ["http" | "handlers"]
        | ["handlers", _]
        | ["handlers", _, "signing_secret" | "headers" | "env", ..] => Visibility::Hidden,
        _ => Visibility::Open,
    }
}

/// The value with its secrets masked.
fn masked(value: &Value, path: &KeyPath) -> Json {
    if let ValueKind::Table(table) = &value.kind {
        let inside = |(key, value): (&String, &Value)| (key.clone(), masked(value, &path.key(key)));
        return table.iter().map(inside).collect();
    }
    if let ValueKind::Array(list) = &value.kind {
        return list
            .iter()
            .enumerate()
            .map(|(index, value)| masked(value, &path.index(index)))
            .collect();
    }
    match visibility(path) {
        Visibility::Open => to_json(value),
        Visibility::Url => Json::String(masked_url(&text(&to_json(value)))),
        Visibility::Hidden => Json::String(MASK.to_owned()),
    }
}

/// A value as text: a string as it is, anything else as JSON.
fn text(json: &Json) -> String {
    json.as_str().map_or_else(|| json.to_string(), str::to_owned)
}

/// A value without its origin.
fn to_json(value: &Value) -> Json {
    match &value.kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(flag) => (*flag).into(),
        ValueKind::I64(number) => (*number).into(),
        ValueKind::U64(number) => (*number).into(),
        // JSON has no such numbers; as text they are refused wherever a number is asked for.
        ValueKind::I128(number) => number.to_string().into(),
        ValueKind::U128(number) => number.to_string().into(),
        ValueKind::Float(number) if !number.is_finite() => number.to_string().into(),
        ValueKind::Float(number) => (*number).into(),
        ValueKind::String(text) => text.clone().into(),
        ValueKind::Table(table) => table.iter().map(|(key, value)| (key.clone(), to_json(value))).collect(),
        ValueKind::Array(list) => list.iter().map(to_json).collect(),
    }
}

/// A value that was typed at `origin`, all the way down.
pub(super) fn from_json(json: Json, origin: &str) -> Value {
    let kind: ValueKind = match json {
        Json::Null => ValueKind::Nil,
        Json::Bool(flag) => flag.into(),
        Json::String(text) => text.into(),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => number.into(),
            (None, Some(number), _) => number.into(),
            (None, None, number) => number.into(),
        },
        Json::Array(list) => list
            .into_iter()
            .map(|value| from_json(value, origin))
            .collect::<Vec<_>>()
            .into(),
        Json::Object(table) => table
            .into_iter()
            .map(|(key, value)| (key, from_json(value, origin)))
            .collect::<Map<_, _>>()
            .into(),
    };
    Value::new(Some(&origin.to_owned()), kind)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layer(json: &Json, origin: &str) -> Layer {
        Layer(from_json(json.clone(), origin))
    }

    #[test]
    fn a_higher_layer_wins_value_by_value_and_each_knows_its_source() {
        let tree = Tree::of(&[
            layer(
                &json!({"queue": {"max_size": 1, "max_running": 2}, "retry": {"default": {"max_retries": 9}}}),
                "low",
            ),
            layer(
                &json!({"queue": {"max_size": 3}, "retry": {"default": {"jitter": 0}}}),
                "high",
            ),
        ]);

        assert_eq!(
            tree.json(),
            json!({"queue": {"max_size": 3, "max_running": 2}, "retry": {"default": {"jitter": 0}}})
        );
        assert_eq!(tree.source(&"queue.max_size".into()), "high");
        assert_eq!(tree.source(&"queue.max_running".into()), "low");
        assert_eq!(
            tree.rows().into_iter().map(|row| row.key).collect::<Vec<_>>(),
            ["queue.max_running", "queue.max_size", "retry.default"]
        );
    }

    #[test]
    fn every_place_that_can_hold_a_secret_is_masked() {
        let tree = Tree::of(&[layer(
            &json!({
                "redis": {"url": "redis://u:hunter2@h"},
                "http": {"tokens": [{"token": "hunter2", "role": "read"}, {"tokken": "hunter2"}, "hunter2"]},
                "handlers": {
                    "a": {"url": "https://u:hunter2@h/x", "headers": {"Authorization": "hunter2"}},
                    "b": {"signing_secret": ["hunter2"], "headers": "hunter2"},
                    "c": "hunter2",
                },
            }),
            "file",
        )]);
        let rows = format!("{:?}", tree.rows());

        assert!(!rows.contains("hunter2"), "{rows}");
        assert!(rows.contains("redis://u:***@h"), "{rows}");
        for whole in ["http", "handlers", "redis"] {
            let wrong = Tree::of(&[layer(&json!({whole: "redis://u:hunter2@h"}), "file")]);
            assert!(!wrong.rows()[0].value.contains("hunter2"), "{whole}");
        }
    }
}

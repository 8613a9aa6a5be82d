//! Reads answers of Redis by hand: the client's typed replies clone every value, and these are on the hot path.

use redis::Value;

use super::StoreError;

/// The bytes of a text answer, or `None` for anything else.
pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    if let Value::BulkString(bytes) = value {
        Some(bytes)
    } else if let Value::SimpleString(text) = value {
        Some(text.as_bytes())
    } else {
        None
    }
}

/// The text of an answer; not UTF-8 and not text both give `None`.
pub(super) fn text(value: &Value) -> Option<&str> {
    bytes(value).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

/// The owned text of an answer.
pub(super) fn string(value: Value) -> Option<String> {
    if let Value::BulkString(bytes) = value {
        String::from_utf8(bytes).ok()
    } else if let Value::SimpleString(text) = value {
        Some(text)
    } else {
        None
    }
}

/// A whole number, also where Redis wrote it as text.
pub(super) fn integer(value: &Value) -> Option<i64> {
    if let Value::Int(number) = value {
        Some(*number)
    } else {
        text(value).and_then(|text| text.parse().ok())
    }
}

/// The items of a list; nothing for a nil.
pub(super) fn items(value: Value) -> Option<Vec<Value>> {
    if let Value::Array(items) = value {
        Some(items)
    } else if let Value::Nil = value {
        Some(Vec::new())
    } else {
        None
    }
}

/// A function's answer: its first word and the rest.
pub(super) fn worded(value: Value, function: &'static str) -> Result<(String, std::vec::IntoIter<Value>), StoreError> {
    let mut items = items(value).ok_or(StoreError::Protocol(function))?.into_iter();
    let word = items.next().and_then(string).ok_or(StoreError::Protocol(function))?;
    if word == "schema" {
        let found = items.next().and_then(string).unwrap_or_default();
        return Err(if found.is_empty() {
            StoreError::NotJoined
        } else {
            StoreError::Schema { found }
        });
    }
    Ok((word, items))
}

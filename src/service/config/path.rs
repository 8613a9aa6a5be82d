//! Names one place in the configuration: `redis.url`, `http.tokens[0].role`, `handlers."mail/send".url`.

use std::fmt;

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// Into a table.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// The way from the root to one value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct KeyPath(Vec<Segment>);

impl KeyPath {
    /// The place `key` in the table at this path.
    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Segment::Key(key.to_owned()))
    }

    /// Place `index` of the list at this path.
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    fn with(&self, segment: Segment) -> Self {
        Self(self.0.iter().cloned().chain([segment]).collect())
    }

    /// The place that serde found something at, below this path.
    pub(super) fn below(&self, found: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment as Found;
        let steps = found.iter().filter_map(|step| match step {
            Found::Map { key } => Some(Segment::Key(key.clone())),
            Found::Seq { index } => Some(Segment::Index(*index)),
            Found::Enum { .. } | Found::Unknown => None,
        });
        Self(self.0.iter().cloned().chain(steps).collect())
    }

    /// The steps from the root down.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The keys on the way, without the places in lists.
    pub(super) fn keys(&self) -> Vec<&str> {
        let keys = self.0.iter().filter_map(|segment| match segment {
            Segment::Key(key) => Some(key.as_str()),
            Segment::Index(_) => None,
        });
        keys.collect()
    }
}

impl From<&str> for KeyPath {
    /// Reads a dotted name whose parts have no dots in them.
    fn from(dotted: &str) -> Self {
        Self(dotted.split('.').map(|key| Segment::Key(key.to_owned())).collect())
    }
}

impl From<&Self> for KeyPath {
    fn from(path: &Self) -> Self {
        path.clone()
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_bare =
            |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        for (depth, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) => {
                    f.write_str(if depth == 0 { "" } else { "." })?;
                    if is_bare(key) {
                        f.write_str(key)?;
                    } else {
                        write!(f, "{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_prints_as_the_key_would_be_typed() {
        let handler = KeyPath::from("handlers").key("mail.send").key("url");
        let role = KeyPath::from("http.tokens").index(1).key("role");

        assert_eq!(handler.to_string(), r#"handlers."mail.send".url"#);
        assert_eq!(role.to_string(), "http.tokens[1].role");
        assert_eq!(role.keys(), ["http", "tokens", "role"]);
    }
}

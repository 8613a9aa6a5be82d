//! Reads the places that a configuration comes from, lowest first.
//!
//! Compiled defaults, `config/default.toml`, `config/<WAOOAW_ENV>.toml`, the file of `--config`, the short variables, the
//! long ones, the flags. Files bring their own types; the text of a variable or a flag takes the type of the key's
//! default. Which values make sense is decided later, on what is left when all layers lie over each other.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::{fs, iter};

use config::{FileFormat, Format, Map, Value};
use serde_json::Value as Json;

use super::nearest::nearest;
use super::path::KeyPath;
use super::problem::ConfigProblem;
use super::raw::RawConfig;
use super::tree::{COMPILED, Layer, Tree, from_json};
use super::{Flag, Sources};

/// The file of defaults, as seen from the working directory.
pub(super) const DEFAULT_FILE: &str = "config/default.toml";

/// The variable that names the second file.
const PROFILE_VARIABLE: &str = "WAOOAW_ENV";
/// What the long variables begin with.
const PREFIX: &str = "WAOOAW_";
/// The short variables and their keys; `PORT` is only a part of its key.
const SHORT: [(&str, &str); 4] = [
    ("REDIS_URL", "redis.url"),
    ("WORKER_POOL_SIZE", "worker_pool.max_workers"),
    ("TASK_QUEUE_MAX_SIZE", "queue.max_size"),
    ("TASK_QUEUE_MAX_RUNNING", "queue.max_running"),
];

/// What was read.
#[derive(Default)]
pub(super) struct Layers {
    /// The lowest first.
    pub(super) stack: Vec<Layer>,
    pub(super) problems: Vec<ConfigProblem>,
    pub(super) warnings: Vec<String>,
}

/// The layer below all others.
pub(super) fn compiled() -> Layer {
    let defaults = serde_json::to_value(RawConfig::default()).expect("the defaults have only text keys");
    Layer(from_json(defaults, COMPILED))
}

/// Reads every place.
pub(super) fn read(sources: &Sources<'_>) -> Layers {
    let mut layers = Layers {
        stack: vec![compiled()],
        ..Layers::default()
    };
    let keys = Keys::new();
    layers.read_files(sources);
    let variables: BTreeMap<&str, &str> = sources
        .environment
        .iter()
        .filter(|(_, value)| !value.trim().is_empty())
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    layers.read_short_variables(&variables, &keys);
    layers.read_long_variables(&variables, &keys);
    for Flag { name, key, value } in &sources.flags {
        layers.stack.push(keys.layer(key, value, name));
    }
    layers
}

impl Layers {
    fn read_files(&mut self, sources: &Sources<'_>) {
        self.read_file(sources.directory, Path::new(DEFAULT_FILE), DEFAULT_FILE, true);
        if let Some(profile) = sources.environment.get(PROFILE_VARIABLE).map(|value| value.trim())
            && !profile.is_empty()
        {
            let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            let name = format!("config/{profile}.toml");
            if !profile.bytes().all(is_legal) {
                self.refuse(
                    PROFILE_VARIABLE,
                    Some(profile),
                    "expected a file's name without `.toml`",
                    PROFILE_VARIABLE,
                );
            } else if !self.read_file(sources.directory, Path::new(&name), &name, true) {
                self.warnings
                    .push(format!("{PROFILE_VARIABLE} is `{profile}`, but there is no {name}"));
            }
        }
        if let Some(file) = sources.file {
            self.read_file(sources.directory, file, &format!("--config {}", file.display()), false);
        }
    }

    /// Reads one file; false if it is not there, and may be.
    fn read_file(&mut self, directory: &Path, file: &Path, name: &str, is_optional: bool) -> bool {
        let text = match fs::read_to_string(directory.join(file)) {
            Ok(text) => text,
            Err(error) if is_optional && error.kind() == ErrorKind::NotFound => return false,
            Err(error) => {
                self.refuse("", None, &format!("can not be read: {error}"), name);
                return true;
            }
        };
        match FileFormat::Toml.parse(Some(&name.to_owned()), &text) {
            Ok(table) => self.stack.push(Layer(Value::new(Some(&name.to_owned()), table))),
            Err(error) => {
                // The parser's own text repeats the line, which may hold a secret.
                let reason = match error.downcast_ref::<toml::de::Error>() {
                    Some(error) => {
                        let start = error.span().map_or(0, |span| span.start);
                        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
                        format!("is not TOML, line {line}: {}", error.message().replace('\n', ", "))
                    }
                    None => format!("is not TOML: {error}"),
                };
                self.refuse("", None, &reason, name);
            }
        }
        true
    }

    fn read_short_variables(&mut self, variables: &BTreeMap<&str, &str>, keys: &Keys) {
        for (name, key) in SHORT {
            if let Some(value) = variables.get(name) {
                self.stack.push(keys.layer(key, value, name));
            }
        }
        let Some(port) = variables.get("PORT") else { return };
        if port.trim().parse::<u16>().is_err() {
            self.refuse("http.addr", Some(port), "expected a port from 0 to 65535", "PORT");
        } else if let Some((host, _)) = Tree::of(&self.stack)
            .shown(&"http.addr".into())
            .as_deref()
            .and_then(|addr| addr.rsplit_once(':'))
        {
            self.stack
                .push(keys.layer("http.addr", &format!("{host}:{}", port.trim()), "PORT"));
        }
    }

    fn read_long_variables(&mut self, variables: &BTreeMap<&str, &str>, keys: &Keys) {
        for (name, value) in variables
            .range(PREFIX..)
            .take_while(|(name, _)| name.starts_with(PREFIX))
        {
            if let Some(key) = keys.by_variable.get(*name) {
                self.stack.push(keys.layer(key, value, name));
            } else if name.starts_with("WAOOAW_HANDLERS__") {
                self.warnings
                    .push(format!("{name} is not read: handlers are configured in a file"));
            } else if *name != PROFILE_VARIABLE {
                let known = keys.by_variable.keys().map(String::as_str);
                let hint = nearest(name, known).map_or_else(String::new, |near| format!(", did you mean {near}?"));
                self.warnings
                    .push(format!("{name} is not read: no setting has that name{hint}"));
            }
        }
    }

    fn refuse(&mut self, key: &str, value: Option<&str>, reason: &str, source: &str) {
        self.problems.push(ConfigProblem {
            key: key.to_owned(),
            value: value.map(str::to_owned),
            reason: reason.to_owned(),
            source: source.to_owned(),
        });
    }
}

/// Every key that a variable or a flag can set.
struct Keys {
    /// The default by key; its type is the type that a text is read as.
    defaults: BTreeMap<String, Json>,
    /// The key by its long variable.
    by_variable: BTreeMap<String, String>,
}

impl Keys {
    fn new() -> Self {
        let mut keys = Self {
            defaults: BTreeMap::new(),
            by_variable: BTreeMap::new(),
        };
        let defaults = Tree::of(&[compiled()]).json();
        for (section, value) in defaults.as_object().into_iter().flatten() {
            match value {
                Json::Object(table) => table.iter().for_each(|(key, value)| keys.add(&[section, key], value)),
                Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) => {
                    keys.add(&[section], value);
                }
            }
        }
        keys
    }

    fn add(&mut self, parts: &[&str], default: &Json) {
        let key = parts.join(".");
        self.by_variable.insert(
            format!("{PREFIX}{}", parts.join("__").to_ascii_uppercase()),
            key.clone(),
        );
        self.defaults.insert(key, default.clone());
    }

    /// A layer of one value.
    fn layer(&self, key: &str, text: &str, source: &str) -> Layer {
        let path = KeyPath::from(key);
        let value = from_json(typed(text, self.defaults.get(key).unwrap_or(&Json::Null)), source);
        let around = |value, key: &str| {
            let table: Map<String, Value> = iter::once((key.to_owned(), value)).collect();
            Value::new(Some(&source.to_owned()), table)
        };
        Layer(path.keys().into_iter().rev().fold(value, around))
    }
}

/// A text as the type of `like`, or as JSON where it looks like a list or a table. What does not fit stays text and is
/// refused where its type is checked.
fn typed(text: &str, like: &Json) -> Json {
    let trimmed = text.trim();
    if trimmed.starts_with(['[', '{'])
        && let Ok(json) = serde_json::from_str(trimmed)
    {
        return json;
    }
    let read = match like {
        Json::Bool(_) => match trimmed.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(Json::Bool(true)),
            "false" | "0" | "no" | "off" => Some(Json::Bool(false)),
            _ => None,
        },
        Json::Number(_) => trimmed.parse::<i64>().ok().map(Json::from),
        Json::Null | Json::String(_) | Json::Array(_) | Json::Object(_) => None,
    };
    read.unwrap_or_else(|| Json::String(text.to_owned()))
}

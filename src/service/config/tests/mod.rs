//! The configuration as a whole, from its places to its values.

mod handlers;
mod http;
mod places;
mod refusals;
mod shipped;
mod workers;

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

/// A working directory and an environment to load from.
struct Setup {
    directory: TempDir,
    environment: BTreeMap<String, String>,
    file: Option<PathBuf>,
    flags: Vec<Flag>,
}

fn setup() -> Setup {
    Setup {
        directory: TempDir::new().unwrap(),
        environment: BTreeMap::new(),
        file: None,
        flags: Vec::new(),
    }
}

impl Setup {
    fn file(self, name: &str, text: &str) -> Self {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    fn config(mut self, file: &str) -> Self {
        self.file = Some(file.into());
        self
    }

    fn flag(mut self, name: &'static str, key: &'static str, value: &str) -> Self {
        self.flags.push(Flag {
            name,
            key,
            value: value.into(),
        });
        self
    }

    fn load_on(&self, cores: usize) -> Result<Loaded, ConfigErrors> {
        let sources = Sources {
            directory: self.directory.path(),
            environment: &self.environment,
            file: self.file.as_deref(),
            flags: self.flags.clone(),
        };
        resolve(layers::read(&sources), sources.directory, cores)
    }

    fn loaded(&self) -> Loaded {
        self.load_on(4).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The problems, one per line.
    fn refused(&self) -> String {
        let errors = self.load_on(4).expect_err("should be refused");
        let lines: Vec<_> = errors.problems().iter().map(ToString::to_string).collect();
        lines.join("\n")
    }
}

fn row(loaded: &Loaded, key: &str) -> (String, String) {
    let row = loaded
        .values
        .iter()
        .find(|row| row.key == key)
        .unwrap_or_else(|| panic!("no {key}"));
    (row.value.clone(), row.source.clone())
}

fn is(value: &str, source: &str) -> (String, String) {
    (value.into(), source.into())
}

//! Reads what a workflow or a saga shall be from a file: JSON, YAML, or either from standard input.
//!
//! The file holds the payload of the event that starts it. JSON passes through as it stands.

use std::io::Read;
use std::path::Path;

use super::exit::Failure;
use super::yaml;

/// The longest file, far over what an event can hold: it only keeps a mistaken path from filling the memory.
const MAX_BYTES: u64 = 64 << 20;

/// The payload in `file` as JSON; `-` is standard input. By its name a file is YAML (`.yaml`, `.yml`) or JSON (`.json`);
/// under any other name it may be both.
pub(super) fn read(file: &Path) -> Result<String, Failure> {
    let shown = if is_standard_input(file) {
        "standard input".to_owned()
    } else {
        format!("`{}`", file.display())
    };
    let text = load(file).map_err(|problem| Failure::usage(&format!("can not read {shown}: {problem}")))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let extension = file.extension().and_then(|extension| extension.to_str());
    let json = match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("json") => Ok(text.to_owned()),
        Some("yaml" | "yml") => yaml::to_json(text),
        Some(_) | None => either(text),
    };
    json.map_err(|problem| Failure::usage(&format!("{shown} is not YAML: {problem}")).named("InvalidField"))
}

/// What begins like JSON and is none may still be YAML; if it is neither, its errors are those of JSON.
fn either(text: &str) -> Result<String, String> {
    let looks_like_json = text.trim_start().starts_with(['{', '[']);
    if !looks_like_json {
        return yaml::to_json(text);
    }
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return Ok(text.to_owned());
    }
    Ok(yaml::to_json(text).unwrap_or_else(|_| text.to_owned()))
}

fn is_standard_input(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn load(file: &Path) -> std::io::Result<String> {
    let reader: Box<dyn Read> = if is_standard_input(file) {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::fs::File::open(file)?)
    };
    let mut text = String::new();
    let bytes = reader.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if bytes as u64 > MAX_BYTES {
        let message = format!("it has more than {MAX_BYTES} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(name: &str, text: &str) -> Result<String, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        read(&file)
    }

    #[test]
    fn a_file_is_what_its_name_says_or_what_it_looks_like() {
        let json = "{ \"n\": 1e400 }";
        for (name, text, expected) in [
            ("a.json", json, json),
            ("a.JSON", "\u{feff}{}", "{}"),
            ("a.yaml", "n: 1", r#"{"n":1}"#),
            ("a.yml", json, r#"{"n":1e400}"#),
            ("a", json, json),
            ("a.txt", "n: 1", r#"{"n":1}"#),
            ("a.txt", "{n: 1}", r#"{"n":1}"#),
            // The reader of the payload says what is wrong with it.
            ("a.json", "n: 1", "n: 1"),
            ("a.txt", "{\"n\" 1", "{\"n\" 1"),
        ] {
            assert_eq!(read_as(name, text).unwrap(), expected, "{name} {text}");
        }
    }

    #[test]
    fn what_can_not_be_read_is_bad_usage() {
        let missing = format!("{:?}", read(Path::new("no/such/file.json")).unwrap_err());
        let broken = format!("{:?}", read_as("a.yaml", "a: [").unwrap_err());

        assert!(missing.contains("can not read `no/such/file.json`"), "{missing}");
        assert!(broken.contains("is not YAML"), "{broken}");
    }
}

//! What lies under `deploy/` is true and fits together.
//!
//! No image can be built or started by a test. Everything else is tried: the manifests and the compose file against their schemas
//! and against what this release needs; the commands, configurations and secrets of the compose file on a real Redis with real
//! replicas; the alert rules with their tests, and every query of the dashboard by a real Prometheus that looks at real replicas.
//! `make deploy-tools` gets the programs for it; what is missing is skipped, and that is said aloud.

mod compose;
mod dashboard;
mod dockerfile;
mod kubernetes;
mod live;
mod rules;
mod tools;

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A path below the project's folder.
fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(in_project(path)).unwrap_or_else(|problem| panic!("{path}: {problem}"))
}

/// The documents of a file of YAML.
fn yaml(path: &str) -> Vec<Value> {
    documents(&read(path))
}

fn documents(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").filter(|part| !part.trim().is_empty());
    documents
        .map(|part| serde_saphyr::from_str(part).unwrap_or_else(|problem| panic!("{problem}: {part}")))
        .collect()
}

/// All files below a folder, but for secrets that somebody made there.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(in_project(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if !entry.path().is_dir() {
                found.push(path);
            } else if entry.file_name() != "secrets" {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A duration such as `45s`, in seconds.
fn seconds(text: &str) -> u64 {
    let number = text.strip_suffix('s').unwrap_or_else(|| panic!("{text}"));
    number.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"))
}

/// How long a replica takes at most to drain, where nothing else is configured.
fn drain_seconds() -> u64 {
    let defaults: toml::Value = read("config/default.toml").parse::<toml::Table>().unwrap().into();
    seconds(defaults["shutdown"]["grace"].as_str().unwrap())
}

/// Passwords and tokens, made by the script of the project.
fn make_secrets(folder: &Path) {
    let script = in_project("deploy/make-secrets.sh");
    let made = std::process::Command::new("sh")
        .arg(script)
        .arg(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn whatever_names_a_version_of_ours_names_this_one() {
    let mut named = 0;
    for path in files("deploy").into_iter().chain(files("docs")) {
        for rest in read(&path).split("waooaw/orchestration:").skip(1) {
            let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
            let version = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
            assert_eq!(version, env!("CARGO_PKG_VERSION"), "{path}");
            named += 1;
        }
    }
    assert!(named > 3, "{named}");
}

#[test]
fn secrets_are_random_stay_as_they_are_and_are_kept_from_git() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let read = |folder: &tempfile::TempDir, name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    for folder in [&one, &other] {
        make_secrets(folder.path());
    }

    let token = read(&one, "admin-token");
    assert_eq!(token.trim().len(), 40, "{token}");
    assert_ne!(token, read(&other, "admin-token"));
    std::fs::remove_file(one.path().join("replica-password")).unwrap();
    let url_before = read(&one, "redis-url.toml");
    make_secrets(one.path());

    assert_eq!(read(&one, "admin-token"), token);
    // Rotated: whatever is made of the password follows it.
    let password = read(&one, "replica-password");
    assert_ne!(read(&one, "redis-url.toml"), url_before);
    for name in ["redis-url.toml", "redis-users.acl", "kubernetes.env"] {
        assert!(read(&one, name).contains(password.trim()), "{name}");
    }
    for path in [
        "deploy/secrets/admin-token",
        "deploy/kubernetes/overlays/trial/secrets/kubernetes.env",
    ] {
        let ignored = std::process::Command::new("git")
            .args(["check-ignore", "--quiet", path])
            .current_dir(in_project(""))
            .status();
        // An unpacked archive has no git, and nothing to keep from it.
        assert!(!in_project(".git").exists() || ignored.unwrap().success(), "{path}");
    }
    assert!(
        read_ignored_by_docker().contains("**/secrets"),
        "secrets must not come into an image"
    );
}

fn read_ignored_by_docker() -> String {
    read(".dockerignore")
}

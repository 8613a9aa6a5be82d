//! The programs that check files of other programs, where they are to be had.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The folder of `scripts/get-deploy-tools.sh`.
pub(super) fn folder() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_waooaw"));
    let target = program
        .parent()
        .and_then(Path::parent)
        .expect("it lies in a profile's folder");
    target.join("deploy-tools")
}

/// A program of that folder, or of the system; without either it is said aloud that `what` is not tried.
pub(super) fn tool(name: &str, what: &str) -> Option<PathBuf> {
    let folder = folder();
    let own = ["bin", "venv/bin"].iter().map(|part| folder.join(part).join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = std::env::split_paths(&path).map(|folder| folder.join(name));
    // `kustomize` of the system takes other words than the one of the folder.
    let found = own
        .chain(system.filter(|_| name != "kustomize"))
        .find(|path| path.exists());
    if found.is_none() {
        skip(&format!("no {name} (`make deploy-tools` gets it): not tried: {what}"));
    }
    found
}

/// Says that something is not tried; past the harness, which would keep it to itself.
pub(super) fn skip(text: &str) {
    let mut past_the_harness = std::io::stderr();
    writeln!(past_the_harness, "SKIPPED {text}").unwrap();
}

/// Runs a program to its end.
pub(super) fn run(command: &mut Command, input: Option<&str>) -> Output {
    let mut child = command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|problem| panic!("{command:?}: {problem}"));
    if let Some(input) = input {
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    }
    child.wait_with_output().unwrap()
}

/// The same, and it must end well; answers what it printed.
#[track_caller]
pub(super) fn succeed(command: &mut Command, input: Option<&str>) -> String {
    let output = run(command, input);
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

//! The image as its file describes it.

use std::process::Command;

use super::tools::{succeed, tool};
use super::{drain_seconds, read};

#[test]
fn the_image_runs_one_program_without_root_and_stops_by_a_drain() {
    let file = read("Dockerfile");
    let instruction = |start: &str| {
        let found = file.lines().rfind(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no {start}")).to_owned()
    };

    // A number, since runAsNonRoot can not look a name up; the manifests say the same one.
    assert_eq!(instruction("USER"), "USER 10001:10001");
    assert_eq!(instruction("STOPSIGNAL"), "STOPSIGNAL SIGTERM");
    assert_eq!(instruction("ENTRYPOINT"), "ENTRYPOINT [\"/usr/local/bin/waooaw\"]");
    assert_eq!(instruction("CMD"), "CMD [\"serve\"]");
    assert!(instruction("HEALTHCHECK").ends_with("CMD [\"/usr/local/bin/waooaw\", \"health\"]"));
    assert_eq!(instruction("EXPOSE"), "EXPOSE 8001");
    let advice = file.split("docker stop -t ").nth(1).unwrap();
    let advised: u64 = advice.split('`').next().unwrap().parse().unwrap();
    assert!(advised > drain_seconds() + 5, "{advised}");
    // What is copied is there, and configuration is where the working directory is.
    assert!(file.contains("WORKDIR /app\nCOPY LICENSE ./\nCOPY config ./config\n"));
}

#[test]
fn the_dockerfile_passes_its_linter() {
    let Some(hadolint) = tool("hadolint", "the Dockerfile") else {
        return;
    };
    // DL3008 wants versions of Debian packages pinned, which Debian does not keep for long.
    let mut lint = Command::new(hadolint);
    succeed(lint.args(["--ignore", "DL3008", "-"]), Some(&read("Dockerfile")));
}

#[test]
fn the_compiler_of_the_image_is_one_that_can_build_this() {
    let file = read("Dockerfile");

    // `rust:1` is the newest stable one; anything older than `rust-version` could not build this.
    assert!(
        file.contains("\nFROM rust:1-slim-bookworm AS build\n"),
        "look whether it is new enough"
    );
    // The same Debian in both stages, or the C library may be older than what was linked against.
    assert!(file.contains("\nFROM debian:bookworm-slim\n"));
}

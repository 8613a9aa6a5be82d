//! Reads the sources and holds them to the house rules that no compiler knows.
//!
//! Rings whose imports point left, one place each for Redis and for spawning, no dependency without
//! a use, headers on modules and scripts, nothing unfinished and no machine's paths. Each rule is a
//! function from the tree to its violations; all of them are shown at once, as `file:line: reason`.
//!
//! Works on text, with comments and literals blanked where only code counts. It does not resolve
//! names: `use super::super::store` would escape it, and nothing in the house style looks like that.

#[path = "tidy/code.rs"]
mod code;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use code::{code_of, modules_declared_in, paths_in, words};

#[test]
fn the_tree_keeps_the_house_rules() {
    let tree = Tree::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(
        tree.files.iter().any(|file| file.path == "Cargo.toml"),
        "the tree was not read"
    );

    let violations = violations(&tree);

    assert!(
        violations.is_empty(),
        "{} violations of the house rules\n{}",
        violations.len(),
        violations.join("\n")
    );
}

/// The ring's folder or file, and what its code must not name.
const RINGS: [(&str, &[&str]); 4] = [
    (
        "src/domain/",
        &[
            "crate::store",
            "crate::runtime",
            "crate::service",
            "crate::cli",
            "tokio",
            "redis",
            "SystemTime",
            "Instant::now",
        ],
    ),
    ("src/store/", &["crate::runtime", "crate::service", "crate::cli"]),
    ("src/runtime/", &["crate::service", "crate::cli"]),
    ("src/service/", &["crate::cli"]),
];

/// Where tasks, threads and processes may be started: the runtime, and what wires and drives it.
const SPAWNERS: [&str; 3] = ["src/runtime/", "src/service/", "src/cli/"];

const SPAWNS: [&str; 4] = ["spawn", "spawn_blocking", "spawn_local", "spawn_on"];

/// Dependencies that no source names, each with the reason why it is there all the same.
const UNNAMED_DEPENDENCIES: [(&str, &str); 0] = [];

fn violations(tree: &Tree) -> Vec<String> {
    let rules = [
        rings,
        redis_only_in_store,
        spawning_only_in_its_places,
        dependencies_are_used,
        headers,
        nothing_unfinished,
        no_machine_paths,
    ];
    rules.iter().flat_map(|rule| rule(tree)).collect()
}

fn rings(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.sources() {
        for (ring, forbidden) in RINGS.iter().filter(|(ring, _)| belongs_to(&file.path, ring)) {
            for (line, path) in paths_in(&file.code) {
                for name in forbidden.iter().filter(|name| mentions(&path, name)) {
                    found.push(format!("{}:{line}: {ring} must not know `{name}`", file.path));
                }
            }
        }
    }
    found
}

fn redis_only_in_store(tree: &Tree) -> Vec<String> {
    let outside = tree.sources().filter(|file| !belongs_to(&file.path, "src/store/"));
    outside
        .flat_map(|file| {
            let named = paths_in(&file.code)
                .into_iter()
                .filter(|(_, path)| starts_at_crate(path, "redis"));
            named.map(|(line, path)| format!("{}:{line}: only src/store/ speaks to Redis, not `{path}`", file.path))
        })
        .collect()
}

fn spawning_only_in_its_places(tree: &Tree) -> Vec<String> {
    let outside = tree
        .sources()
        .filter(|file| !SPAWNERS.iter().any(|place| belongs_to(&file.path, place)));
    outside
        .flat_map(|file| {
            let spawns = words(&file.code).filter(|word| {
                SPAWNS.contains(&word.text) && (word.before.ends_with('.') || word.before.ends_with("::"))
            });
            spawns.map(|word| {
                format!(
                    "{}:{}: `{}` belongs into {}",
                    file.path,
                    word.line,
                    word.text,
                    SPAWNERS.join(", ")
                )
            })
        })
        .collect()
}

fn dependencies_are_used(tree: &Tree) -> Vec<String> {
    let Some(manifest) = tree.files.iter().find(|file| file.path == "Cargo.toml") else {
        return Vec::new();
    };
    let named: BTreeSet<String> = tree
        .sources()
        .flat_map(|file| {
            let own = modules_declared_in(&file.code);
            let roots = paths_in(&file.code)
                .into_iter()
                .filter_map(|(_, path)| root_crate(&path));
            roots
                .filter(move |(name, is_global)| *is_global || !own.contains(name))
                .map(|(name, _)| name)
        })
        .collect();

    let mut found = Vec::new();
    for (line, dependency) in dependencies(&manifest.text) {
        let is_named = named.contains(&dependency.replace('-', "_"));
        let is_excused = UNNAMED_DEPENDENCIES.iter().any(|(name, _)| *name == dependency);
        match (is_named, is_excused) {
            (false, false) => found.push(format!(
                "Cargo.toml:{line}: no source names the dependency `{dependency}`"
            )),
            (true, true) => found.push(format!(
                "Cargo.toml:{line}: `{dependency}` is named by now; drop its excuse"
            )),
            (true, false) | (false, true) => {}
        }
    }
    found
}

fn headers(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.sources().filter(|file| !file.text.starts_with("//!")) {
        found.push(format!(
            "{}:1: opens without a `//!` line that says what the module is for",
            file.path
        ));
    }
    for file in tree
        .files
        .iter()
        .filter(|file| file.path.starts_with("src/store/lua/") && has_extension(file, "lua"))
    {
        let stem = Path::new(&file.path)
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        let mut lines = file.text.lines();
        if lines.next() != Some("--[[") || !lines.next().is_some_and(|line| line.starts_with(&format!("{stem}:"))) {
            found.push(format!(
                "{}:1: opens without a header, `--[[` and then `{stem}: what it does`",
                file.path
            ));
        }
    }
    found
}

fn nothing_unfinished(tree: &Tree) -> Vec<String> {
    let rust = tree.files.iter().filter(|file| has_extension(file, "rs"));
    rust.flat_map(|file| {
        let unfinished = words(&file.code)
            .filter(|word| ["todo", "unimplemented", "dbg"].contains(&word.text) && word.after.starts_with('!'));
        unfinished.map(|word| format!("{}:{}: `{}!` is left over", file.path, word.line, word.text))
    })
    .collect()
}

/// Folders of one machine. Written in halves, because this file is read too.
const MACHINE_PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

fn no_machine_paths(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for file in &tree.files {
        for (number, line) in (1..).zip(file.text.lines()) {
            for path in MACHINE_PATHS {
                let is_absolute =
                    |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/}~".contains(c));
                if line.match_indices(path).any(|(at, _)| is_absolute(at)) {
                    found.push(format!(
                        "{}:{number}: names `{path}`, a folder of one machine",
                        file.path
                    ));
                }
            }
        }
    }
    found
}

/// The text files of the project, in order of their paths.
struct Tree {
    files: Vec<SourceFile>,
}

struct SourceFile {
    /// Relative to the project, with `/` on every system.
    path: String,
    text: String,
    /// `text` with comments and literals blanked out, for Rust; empty for anything else.
    code: String,
}

impl SourceFile {
    fn new(path: &str, text: &str) -> Self {
        let is_rust = Path::new(path).extension().is_some_and(|extension| extension == "rs");
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code: if is_rust { code_of(text) } else { String::new() },
        }
    }
}

impl Tree {
    /// What git tracks or would track; without git (an unpacked archive), all that is not hidden or built.
    fn read(top: &Path) -> Self {
        let mut paths = tracked(top).unwrap_or_else(|| {
            let mut paths = Vec::new();
            walk(top, top, &mut paths);
            paths
        });
        paths.sort();
        paths.dedup();
        // A tracked file may be deleted or binary; neither has text to judge.
        let read = |path: &String| Some(SourceFile::new(path, &fs::read_to_string(top.join(path)).ok()?));
        Self {
            files: paths.iter().filter_map(read).collect(),
        }
    }

    fn sources(&self) -> impl Iterator<Item = &SourceFile> {
        self.files
            .iter()
            .filter(|file| file.path.starts_with("src/") && has_extension(file, "rs"))
    }
}

fn has_extension(file: &SourceFile, extension: &str) -> bool {
    Path::new(&file.path)
        .extension()
        .is_some_and(|found| found == extension)
}

/// Whether `path` is in the folder `ring` or is the file of that module: `src/cli/` and `src/cli.rs`.
fn belongs_to(path: &str, ring: &str) -> bool {
    path.starts_with(ring) || path.strip_suffix(".rs") == ring.strip_suffix('/')
}

fn tracked(top: &Path) -> Option<Vec<String>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(top)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let paths = String::from_utf8(listed.stdout).ok()?;
    Some(
        paths
            .split('\0')
            .filter(|path| !path.is_empty())
            .map(str::to_owned)
            .collect(),
    )
    .filter(|paths: &Vec<_>| !paths.is_empty())
}

fn walk(top: &Path, folder: &Path, paths: &mut Vec<String>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let path: PathBuf = entry.path();
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') || path == top.join("target") || path == top.join("fuzz/target") {
            continue;
        }
        if path.is_dir() {
            walk(top, &path, paths);
        } else if let Ok(relative) = path.strip_prefix(top) {
            paths.push(relative.to_string_lossy().replace('\\', "/"));
        }
    }
}

/// Whether `path` ends in `name`, read as whole segments: so that each mention counts once.
fn mentions(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|before| before.is_empty() || before.ends_with("::"))
}

fn starts_at_crate(path: &str, name: &str) -> bool {
    path == name || path.strip_prefix("::") == Some(name)
}

/// The first segment of `path` if it may be a crate, and whether a leading `::` says that it is one.
fn root_crate(path: &str) -> Option<(String, bool)> {
    let (relative, is_global) = path
        .strip_prefix("::")
        .map_or((path, false), |relative| (relative, true));
    let root = relative.split("::").next()?;
    (!["crate", "self", "super", "Self"].contains(&root)).then(|| (root.to_owned(), is_global))
}

/// The names under `[dependencies]`, its tables and those of single targets, with their lines.
fn dependencies(manifest: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut is_inside = false;
    for (number, line) in (1..).zip(manifest.lines()) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end().trim_end_matches(']');
            let is_list = |table: &str| table == "dependencies" || table.ends_with(".dependencies");
            is_inside = is_list(header);
            if let Some((_, name)) = header.rsplit_once('.').filter(|(table, _)| is_list(table)) {
                found.push((number, name.to_owned()));
            }
        } else if let Some((name, _)) = line
            .split_once('=')
            .filter(|_| is_inside && !line.starts_with([' ', '#', '\t']))
        {
            found.push((
                number,
                name.split('.')
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .trim_matches('"')
                    .to_owned(),
            ));
        }
    }
    found
}

fn tree_of(files: &[(&str, &str)]) -> Tree {
    Tree {
        files: files.iter().map(|(path, text)| SourceFile::new(path, text)).collect(),
    }
}

#[test]
fn every_rule_finds_what_it_forbids() {
    let tree = tree_of(&[
        (
            "Cargo.toml",
            "[dependencies]\nserde = \"1\"\nunused-one = { version = \"1\" }\n[dependencies.tabled]\n[dev-dependencies]\nfree = \"1\"\n",
        ),
        (
            "src/domain/id.rs",
            "//! Ids.\nuse crate::{domain::x, store::{keys}};\nuse tokio;\nfn now() { std::time::Instant::now(); }\n",
        ),
        (
            "src/domain/time.rs",
            "//! Time.\nuse std::time::{Duration, SystemTime};\n",
        ),
        (
            "src/store/mod.rs",
            "//! Store.\nuse serde::de;\nuse redis::Client;\nfn f() { crate::runtime::start(); tokio::spawn(x); }\n",
        ),
        (
            "src/runtime/mod.rs",
            "use crate::service::Config;\nfn f() { set.spawn(y); todo!() }\n",
        ),
        (
            "src/service/mod.rs",
            "//! Service.\nuse ::redis::Cmd;\nuse crate::cli;\n",
        ),
        ("src/store/lua/claim.lua", "--[[\nclaims: something else\n]]\n"),
        ("src/store/lua/settle.lua", "--[[\nsettle: ends an attempt\n]]\n"),
        (
            "docs/a.md",
            concat!("see /wo", "rk/here\nand https://example.com/ho", "me/page\n"),
        ),
    ]);

    let found = violations(&tree);

    let mut listing = String::new();
    for violation in found {
        writeln!(listing, "{violation}").unwrap();
    }
    let expected = concat!(
        "src/domain/id.rs:2: src/domain/ must not know `crate::store`\n",
        "src/domain/id.rs:3: src/domain/ must not know `tokio`\n",
        "src/domain/id.rs:4: src/domain/ must not know `Instant::now`\n",
        "src/domain/time.rs:2: src/domain/ must not know `SystemTime`\n",
        "src/store/mod.rs:4: src/store/ must not know `crate::runtime`\n",
        "src/runtime/mod.rs:1: src/runtime/ must not know `crate::service`\n",
        "src/service/mod.rs:3: src/service/ must not know `crate::cli`\n",
        "src/service/mod.rs:2: only src/store/ speaks to Redis, not `::redis`\n",
        "src/store/mod.rs:4: `spawn` belongs into src/runtime/, src/service/, src/cli/\n",
        "Cargo.toml:3: no source names the dependency `unused-one`\n",
        "Cargo.toml:4: no source names the dependency `tabled`\n",
        "src/runtime/mod.rs:1: opens without a `//!` line that says what the module is for\n",
        "src/store/lua/claim.lua:1: opens without a header, `--[[` and then `claim: what it does`\n",
        "src/runtime/mod.rs:2: `todo!` is left over\n",
        "docs/a.md:1: names `/wo",
        "rk/`, a folder of one machine\n",
    );
    assert_eq!(listing, expected);
}

#[test]
fn a_word_in_a_comment_or_a_name_that_only_resembles_breaks_no_rule() {
    let tree = tree_of(&[(
        "src/domain/id.rs",
        "//! Not `tokio::spawn`.\nuse crate::domain::redis_like;\nfn f() -> &'static str { let spawned = x.spawned(); \"tokio::spawn(todo!())\" }\n",
    )]);

    assert_eq!(violations(&tree), Vec::<String>::new());
}

#[test]
fn a_module_of_the_same_name_is_no_use_of_a_crate() {
    let manifest = ("Cargo.toml", "[dependencies]\nconfig = \"1\"\n");
    let own_module = ("src/service/mod.rs", "//! Service.\nmod config;\nuse config::Config;\n");
    let own_path = ("src/cli/mod.rs", "//! Commands.\nuse crate::service::config::Config;\n");
    let real_use = ("src/service/config.rs", "//! Configuration.\nuse config::Source;\n");

    assert_eq!(
        dependencies_are_used(&tree_of(&[manifest, own_module, own_path])).len(),
        1
    );
    assert_eq!(
        dependencies_are_used(&tree_of(&[manifest, own_module, own_path, real_use])).len(),
        0
    );
}

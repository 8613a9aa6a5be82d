//! A clock of Redis's own that can jump.
//!
//! A small library, built with the C compiler that building this project needs anyway, stands before the system's clock
//! functions in the process of Redis and adds what a file says. Where that can not be had (no compiler, no `LD_PRELOAD`)
//! there is no such fault, and the run says so.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

const SOURCE: &str = include_str!("clock.c");

/// The file that one Redis reads its offset from.
pub(crate) struct Clock {
    folder: TempDir,
    library: PathBuf,
    jumps: AtomicUsize,
}

impl Clock {
    /// A clock that goes right; `None` where it can not be made.
    pub(crate) fn new() -> Option<Self> {
        let library = library()?;
        let folder = tempfile::tempdir().unwrap();
        let jumps = AtomicUsize::new(0);
        let clock = Self { folder, library, jumps };
        clock.write(0);
        Some(clock)
    }

    fn offset(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// From now on it is wrong by so many seconds.
    pub(crate) fn shift(&self, seconds: i64) {
        self.jumps.fetch_add(1, Ordering::AcqRel);
        self.write(seconds);
    }

    /// Whether it ever was shifted.
    pub(crate) fn did_jump(&self) -> bool {
        self.jumps.load(Ordering::Acquire) > 0
    }

    fn write(&self, seconds: i64) {
        // In place: the process has the file in its memory, and one that is cut short would kill it.
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.offset());
        std::os::unix::fs::FileExt::write_all_at(&file.unwrap(), &seconds.to_ne_bytes(), 0).unwrap();
    }

    /// What the process needs to know.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("CHAOS_CLOCK".to_owned(), text(&self.offset())),
        ]
    }
}

/// Builds the library once a run.
fn library() -> Option<PathBuf> {
    static LIBRARY: OnceLock<Option<(TempDir, PathBuf)>> = OnceLock::new();
    let built = LIBRARY.get_or_init(|| {
        if !cfg!(target_os = "linux") {
            return None;
        }
        let folder = tempfile::tempdir().ok()?;
        let (source, library) = (folder.path().join("clock.c"), folder.path().join("clock.so"));
        std::fs::write(&source, SOURCE).ok()?;
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(&source)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok()?;
        built.success().then_some((folder, library))
    });
    built.as_ref().map(|(_, library)| library.clone())
}

//! Finds the programs under test beside the test executable, and rejects those that are older than
//! their sources.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

const BUILD_HINT: &str = "build the programs that these tests run: `cargo test --workspace`, or \
                          `cargo build -p coordinator -p worker`";

/// The path of a program, or of an example of the library (`examples/NAME`). If it is missing or
/// outdated, panics with instructions.
pub fn program(name: &str) -> PathBuf {
    let sources: &[&str] = match name {
        "coordinator" => &["coordinator/src", "worker/src", "shared/src", "proto"],
        "worker" => &["worker/src", "shared/src", "proto"],
        _ => &["worker/examples", "worker/src", "shared/src", "proto"],
    };
    let test = std::env::current_exe().expect("the path of the executable is known");
    let folder = test
        .parent()
        .and_then(Path::parent)
        .expect("cargo puts tests into target/<profile>/deps");
    let path = folder.join(name);
    let Some(built) = modified(&path) else {
        panic!("{} is missing; {BUILD_HINT}", path.display())
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package is in the workspace");
    let newest = sources
        .iter()
        .filter_map(|source| newest_below(&root.join(source)))
        .max();
    if let Some((changed, file)) = newest.filter(|(changed, _)| *changed > built) {
        let older = changed.duration_since(built).unwrap_or_default();
        panic!(
            "{} is {older:?} older than {}; {BUILD_HINT}",
            path.display(),
            file.display()
        );
    }
    path
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

fn newest_below(path: &Path) -> Option<(SystemTime, PathBuf)> {
    if !path.is_dir() {
        return Some((modified(path)?, path.to_owned()));
    }
    let entries = path.read_dir().ok()?;
    entries
        .filter_map(|entry| newest_below(&entry.ok()?.path()))
        .max()
}

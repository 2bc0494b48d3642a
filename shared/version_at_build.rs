//! The version that `--version` prints: `0.1.0 (3f2a9c81d0e4)`, with `-dirty` if a source is not
//! committed. The build scripts of both programs include this file as a module.
//!
//! The commit comes from `IMAGENET_COMMIT`, for builds without a repository, otherwise from git.
//! Without either it is the version alone. Only sources of the program count as dirty, so a build
//! is repeated only for a new commit or a changed source.

use std::{env, path::Path, process::Command};

/// The parts of a package that a program is built from.
const OF_A_PACKAGE: [&str; 4] = ["src", "build.rs", "Cargo.toml", "coordinator.proto"];

/// Sets `IMAGENET_VERSION` for the package that is being built. `packages`: the package itself and
/// those that it depends on.
pub(crate) fn set_version(packages: &[&str]) {
    println!("cargo::rerun-if-env-changed=IMAGENET_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let given = env::var("IMAGENET_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty());
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    match given.or_else(|| commit(packages)) {
        Some(commit) => println!("cargo::rustc-env=IMAGENET_VERSION={version} ({commit})"),
        None => println!("cargo::rustc-env=IMAGENET_VERSION={version}"),
    }
}

fn commit(packages: &[&str]) -> Option<String> {
    // An archive of the sources may be unpacked inside another project's repository.
    let package = git(&["rev-parse", "--show-prefix"])?;
    if package != format!("{}/", env::var("CARGO_PKG_NAME").ok()?) {
        return None;
    }
    // Both files change with each commit and checkout.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let of_packages = packages
        .iter()
        .flat_map(|package| OF_A_PACKAGE.map(|part| format!("../{package}/{part}")));
    let all = of_packages.chain(["../Cargo.toml".to_owned(), "../Cargo.lock".to_owned()]);
    let sources: Vec<String> = all.filter(|source| Path::new(source).exists()).collect();
    for source in &sources {
        println!("cargo::rerun-if-changed={source}");
    }
    let status = ["status", "--porcelain", "--"]
        .into_iter()
        .chain(sources.iter().map(String::as_str));
    let dirty = if git(&status.collect::<Vec<_>>())?.is_empty() {
        ""
    } else {
        "-dirty"
    };
    Some(git(&["rev-parse", "--short=12", "HEAD"])? + dirty)
}

/// Standard output of a git command; `None` if git is missing or fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("--no-optional-locks")
        .args(arguments)
        .output()
        .ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim_end().to_owned())
}

//! Tells the worker which commit it is built from.

#[path = "../shared/version_at_build.rs"]
mod version_at_build;

fn main() {
    version_at_build::tell(&["worker", "shared", "proto"]);
}

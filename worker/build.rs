//! Sets the version and the commit of the worker at build time.

#[path = "../shared/version_at_build.rs"]
mod version_at_build;

fn main() {
    version_at_build::set_version(&["worker", "shared", "proto"]);
}

//! Passes the commit that the coordinator is built from to the compiler.

#[path = "../shared/version_at_build.rs"]
mod version_at_build;

fn main() {
    version_at_build::set_version(&["coordinator", "worker", "shared", "proto"]);
}

//! Other users of one host, who put something under the names that the programs use: nothing
//! private is read, written, removed or published, and nothing waits. Needs root, to be several
//! users.

mod fixed_names;
mod manifests;
mod rights;
mod scene;
mod staging_area;
mod written_files;

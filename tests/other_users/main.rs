//! Attacks by other users of the host, who create files under the names that the programs use: no
//! private file is read, written, removed or published, and the programs do not block. Needs root,
//! to act as several users.

mod fixed_names;
mod manifests;
mod rights;
mod shared_host;
mod staging_area;
mod written_files;

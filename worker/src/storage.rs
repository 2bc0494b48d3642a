//! The target and its staging area: all files that are read from and written to disk.
//!
//! Invariant: a class folder appears under its final name complete and with its manifest, or not at
//! all.

mod area_access;
pub(crate) mod checkpoint_timer;
pub(crate) mod comparison;
pub(crate) mod digest;
pub(crate) mod disk_space;
pub(crate) mod existing;
pub(crate) mod file_tree;
pub(crate) mod journal;
pub(crate) mod kept_tar;
pub(crate) mod manifest;
pub(crate) mod part_file;
pub(crate) mod partial_file;
pub(crate) mod publish;
pub(crate) mod set_aside;
pub(crate) mod staging;
mod staging_area;
mod staging_place;
pub(crate) mod storage_id;
pub(crate) mod target;
pub(crate) mod target_users;

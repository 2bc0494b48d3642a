//! All access of the worker to disks: the target folder has published classes, the staging area
//! unfinished ones. No network.
//!
//! Invariant: a class folder appears under its final name complete and with its manifest, by an
//! atomic rename, or not at all.
//!
//! - Unfinished classes: `staging` (the folder of one class), `staging_area` (all of a target),
//!   `staging_place` (where the area is), `area_access` (who may write to it), `journal` (the record
//!   of finished files), `partial_file` (the first bytes of an extracted file), `part_file` (a range
//!   of the tar that came over another connection), `checkpoint_timer`.
//! - Published classes: `target`, `existing` (what is under a class's name), `comparison` (a folder
//!   with its manifest), `manifest`, `kept_tar` (which tars this program wrote), `set_aside` (files of
//!   the user that are moved out of the way), `publish`, `target_users` (whose entries are believed).
//! - Both: `digest`, `disk_space`, `file_tree`, `storage_id` (tells shared storages from separate).

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

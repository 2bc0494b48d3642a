//! One class from its lease to its outcome. [`fetch_class`] makes the decisions; each other file
//! performs one step.

pub(crate) mod attempt;
mod broken_off_tar;
pub(crate) mod context;
pub(crate) mod fetch_class;
mod local_tar;
mod origin_proof;
mod receive;
pub(crate) mod resume;
pub(crate) mod unfinished;
mod unproved_folder;

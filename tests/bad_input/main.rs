//! User errors: each gets one error message, and the valid part of the input is processed.

mod arguments;
mod class_lists;
mod full_disk;
mod targets;

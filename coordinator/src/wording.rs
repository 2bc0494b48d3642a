//! Numbers and names as parts of sentences for users.

use shared::job_line::{approximate, short};

/// Maximum number of names in a sentence.
const MAX_NAMES: usize = 20;

/// A number with its noun: `one` is the singular, `more` the plural.
pub(crate) fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// Bytes with a decimal unit.
pub(crate) fn bytes(bytes: u64) -> String {
    format!("{}B", short(approximate(bytes)))
}

/// The first names, and the number of the others.
pub(crate) fn first_names<'name>(mut names: impl Iterator<Item = &'name str>) -> String {
    let first: Vec<&str> = names.by_ref().take(MAX_NAMES).collect();
    let first = first.join(", ");
    match names.count() {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

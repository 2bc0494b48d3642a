//! The ids of a CSV file.

use std::path::PathBuf;

use pyo3::{PyResult, Python, pyfunction};
use shared::class_list::ClassList;

use crate::{errors, exit};

/// Reads the ids of a CSV file with a `wnid` column; returns them, and the warning about rows that
/// are left out.
#[pyfunction]
pub(crate) fn load_part_ids_from_csv(
    py: Python<'_>,
    csv_path: PathBuf,
) -> PyResult<(Vec<String>, Option<String>)> {
    // Not the function of the library, which logs the warning: in a forked child, the locks of
    // `tracing` may be held for ever.
    let classes = exit::detach(py, move || ClassList::read(&csv_path))?
        .map_err(|error| errors::read(&error.into()))?;
    Ok((classes.part_ids().collect(), classes.warning()))
}

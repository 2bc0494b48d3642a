//! The native module of the Python package `imagenet_downloader`: runs `worker::download_batch` on
//! threads of its own, and passes on progress, log and results.
//!
//! Nothing starts when the module is imported. No thread of a batch ever waits for the interpreter:
//! the interpreter's threads fetch what there is.

use pyo3::prelude::*;

mod batch;
mod class_list;
mod errors;
mod exit;
mod log;
mod options;
mod process;
mod running;
mod wording;

/// Each function and class has its signature and its meaning in `_native.pyi`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::{
        batch::{Batch, Counts},
        class_list::load_part_ids_from_csv,
        exit::end,
        log::take_log,
        running::Snapshot,
    };

    /// URL of the classes if no other is given.
    #[pymodule_export]
    const DEFAULT_URL: &str = worker::DEFAULT_URL;

    /// Version of the package.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}

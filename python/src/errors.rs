//! The exceptions of the package, which are defined in Python, and which one an error becomes.

use pyo3::{
    Py, PyErr, PyTypeInfo as _, Python, exceptions::PyRuntimeError, sync::PyOnceLock, types::PyType,
};
use shared::threads::NoThread;
use worker::{BatchError, JobContextError, ReadError};

use crate::wording::in_python;

/// A class of `imagenet_downloader._errors`.
struct Exception {
    name: &'static str,
    class: PyOnceLock<Py<PyType>>,
}

impl Exception {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            class: PyOnceLock::new(),
        }
    }

    /// The exception with a message. Without its class, which a broken installation may lack, a
    /// `RuntimeError`.
    fn with(&self, message: &str) -> PyErr {
        let message = in_python(message);
        Python::attach(|py| {
            let class = self
                .class
                .import(py, "imagenet_downloader._errors", self.name);
            match class {
                Ok(class) => PyErr::from_type(class.clone(), message),
                Err(_) => PyErr::from_type(PyRuntimeError::type_object(py), message),
            }
        })
    }
}

static CSV: Exception = Exception::new("CsvError");
static DOWNLOAD: Exception = Exception::new("DownloadError");
static FORK: Exception = Exception::new("ForkError");
static OPTION: Exception = Exception::new("OptionError");
static ORIGIN: Exception = Exception::new("OriginError");
static TARGET: Exception = Exception::new("TargetError");

pub(crate) fn forked(message: &str) -> PyErr {
    FORK.with(message)
}

pub(crate) fn option(message: &str) -> PyErr {
    OPTION.with(message)
}

pub(crate) fn internal(message: &str) -> PyErr {
    DOWNLOAD.with(&format!("internal error, please report it: {message}"))
}

/// The system has no thread left.
pub(crate) fn no_thread(error: &NoThread) -> PyErr {
    DOWNLOAD.with(&format!("cannot {error}"))
}

pub(crate) fn no_runtime(error: &std::io::Error) -> PyErr {
    DOWNLOAD.with(&format!(
        "cannot start the download: {error}; allow the process more threads and files"
    ))
}

pub(crate) fn read(error: &ReadError) -> PyErr {
    CSV.with(&error.to_string())
}

pub(crate) fn batch(error: &BatchError) -> PyErr {
    let exception = match error {
        BatchError::Url(_) | BatchError::Zero { .. } => &OPTION,
        BatchError::Target(_) | BatchError::JobContext(JobContextError::Target(_)) => &TARGET,
        BatchError::OriginRefuses { .. } | BatchError::JobContext(JobContextError::Origin(_)) => {
            &ORIGIN
        }
        BatchError::JobContext(_) | BatchError::Cancelled { .. } => &DOWNLOAD,
    };
    exception.with(&error.to_string())
}

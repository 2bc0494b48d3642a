//! The process in which a batch runs. A fork copies only the thread that calls it, so in the child
//! the threads of a batch are missing, and locks may be held for ever.

use std::sync::atomic::{AtomicI32, Ordering};

use pyo3::PyResult;
use rustix::process::{Pid, getpid};

use crate::errors;

/// The process that began the first batch; 0 before that.
static FIRST: AtomicI32 = AtomicI32::new(0);

const FORKED: &str = "this process was made by fork() after its parent had begun a download, and \
                      cannot use the threads of its parent: start this process before the first \
                      download, or with the start method \"spawn\" or \"forkserver\" of multiprocessing";

/// The process of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(i32);

impl Process {
    /// This process, which may begin a batch unless one of its ancestors has begun one before it
    /// was forked.
    pub(crate) fn begin() -> PyResult<Self> {
        let this = this();
        match FIRST.compare_exchange(0, this, Ordering::AcqRel, Ordering::Acquire) {
            Err(first) if first != this => Err(errors::forked(FORKED)),
            _ => Ok(Self(this)),
        }
    }

    /// Returns an error in a process that was forked from that of the batch.
    pub(crate) fn check(self) -> PyResult<()> {
        if self.is_this() {
            Ok(())
        } else {
            Err(errors::forked(FORKED))
        }
    }

    /// Whether this is the process of the batch.
    pub(crate) fn is_this(self) -> bool {
        self.0 == this()
    }
}

/// Whether the locks of this process are valid: no batch was begun by an ancestor.
pub(crate) fn is_whole() -> bool {
    let first = FIRST.load(Ordering::Acquire);
    first == 0 || first == this()
}

fn this() -> i32 {
    Pid::as_raw(Some(getpid()))
}

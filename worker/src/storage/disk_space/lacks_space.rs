//! The failure of a class for which the disk has too little space.

use shared::outcome::{Failure, FailureKind};

/// The disk has too little space for one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LacksSpace {
    /// The class was not started.
    #[error(
        "not enough space for this class; it needs {needed} bytes, and {free} are free for it; free some space, or start a \
         worker with a larger disk"
    )]
    Announced {
        /// Bytes that the class takes on the disk.
        needed: u64,
        /// Free bytes that are not reserved for other classes.
        free: u64,
    },
    /// The class was started and takes more space than announced.
    #[error(
        "not enough space for this class; the origin {}, and after {used} bytes the disk has no room for more",
        length.map_or_else(
            || "does not say how long it is".to_owned(),
            |length| format!("says that it has {length} bytes, which take more on the disk")
        )
    )]
    Outgrown {
        /// Length of the tar in bytes, if it was announced.
        length: Option<u64>,
        /// Bytes that the class has taken on the disk.
        used: u64,
    },
    /// The class has more files than the file system can hold besides those of other classes.
    #[error(
        "not enough room for the files of this class; after {files} of them the disk cannot hold as many again, whatever \
         their length; start a worker with a disk that can hold more files"
    )]
    Files {
        /// Number of files of the class.
        files: u64,
    },
}

impl From<LacksSpace> for Failure {
    fn from(lacks: LacksSpace) -> Self {
        let failure = Self::new(FailureKind::StorageError, lacks);
        match lacks {
            LacksSpace::Announced { .. } => failure.lacking_space(),
            LacksSpace::Outgrown { .. } | LacksSpace::Files { .. } => failure,
        }
    }
}

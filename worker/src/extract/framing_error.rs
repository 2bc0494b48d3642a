//! Why bytes are not an archive of a class: one fact per variant, in the words of the failure log.

/// Why the bytes are not an archive of a class. Paths and snippets are short and escaped to plain
/// ASCII.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    /// The first block is not a header.
    #[error("not a tar, it looks like {looks_like}: \"{snippet}\"")]
    NotATar {
        looks_like: &'static str,
        snippet: String,
    },
    /// The bytes ended before the end marker.
    #[error("truncated archive: it ends at byte {offset}, {place}")]
    Truncated { offset: u64, place: &'static str },
    /// A complete archive without a file, or no bytes at all.
    #[error("empty archive: it holds no file")]
    EmptyArchive,
    /// A header or record that no tar program writes.
    #[error("corrupt archive: {problem}, at byte {offset}")]
    Corrupt { offset: u64, problem: &'static str },
    /// Bytes after the end marker that are not zero, or too many zeros.
    #[error("trailing data: something follows the end marker, at byte {offset}")]
    TrailingData { offset: u64 },
    /// A limit of the framing was exceeded.
    #[error("limit exceeded: more than {limit} {unit}")]
    LimitExceeded { limit: u64, unit: &'static str },
    /// The path is not a valid name of a file in the class's folder on every system.
    #[error("unsafe path \"{path}\": {problem}")]
    UnsafePath { path: String, problem: &'static str },
    /// A folder inside the class's folder, or of another class.
    #[error("unexpected layout: \"{path}\" is not directly in the class's folder")]
    UnexpectedLayout { path: String },
    /// The name of the manifest.
    #[error("reserved name \"{path}\": the manifest's")]
    ReservedName { path: String },
    /// The tar of a class: the archive consists of such tars, like the outer tar of ILSVRC2012.
    #[error("\"{path}\" is the tar of a class, so this is an archive of several classes")]
    TarOfClass { path: String },
    /// A symbolic or a hard link.
    #[error("link entry \"{path}\"")]
    LinkEntry { path: String },
    /// A device, a FIFO, a volume.
    #[error("special entry \"{path}\": neither a file nor a directory")]
    SpecialEntry { path: String },
    /// A file with holes: its header could claim terabytes.
    #[error("sparse entry \"{path}\"")]
    SparseEntry { path: String },
    /// A global PAX header, or a type that no standard defines.
    #[error("unknown entry of type '{type_flag}', at byte {offset}")]
    UnknownEntry { offset: u64, type_flag: String },
}

impl FramingError {
    /// Whether more bytes could complete the archive: it is valid so far and ends too early.
    pub(crate) fn is_truncated(&self) -> bool {
        matches!(self, Self::Truncated { .. })
    }

    /// Whether the origin sent something other than an archive.
    pub(crate) fn is_not_a_tar(&self) -> bool {
        matches!(self, Self::NotATar { .. })
    }
}

/// # Errors
/// [`FramingError::LimitExceeded`] if `number` is above the limit. `unit`: what is counted.
pub(super) fn check_limit(number: u64, limit: u64, unit: &'static str) -> Result<(), FramingError> {
    if number > limit {
        return Err(FramingError::LimitExceeded { limit, unit });
    }
    Ok(())
}

//! Why bytes are no archive of a class: one fact for each variant, in the words of the failure log.

/// Why the bytes are no archive of a class. Paths and snippets are escaped to plain ASCII and short.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    /// The first block is no header.
    #[error("not a tar, it looks like {looks_like}: \"{snippet}\"")]
    NotATar { looks_like: &'static str, snippet: String },
    /// The bytes ended before the end marker.
    #[error("truncated archive: it ends at byte {offset}, {place}")]
    Truncated { offset: u64, place: &'static str },
    /// A whole archive without a file, or no bytes at all.
    #[error("empty archive: it holds no file")]
    EmptyArchive,
    /// No tar program writes this.
    #[error("corrupt archive: {problem}, at byte {offset}")]
    Corrupt { offset: u64, problem: &'static str },
    /// After the end marker: another byte than zero, or too many zeros.
    #[error("trailing data: something follows the end marker, at byte {offset}")]
    TrailingData { offset: u64 },
    /// One of the limits of the framing.
    #[error("limit exceeded: more than {limit} {unit}")]
    LimitExceeded { limit: u64, unit: &'static str },
    /// Not the name of a file in the class's folder, on any system.
    #[error("unsafe path \"{path}\": {problem}")]
    UnsafePath { path: String, problem: &'static str },
    /// A folder inside the class's folder, or of another class.
    #[error("unexpected layout: \"{path}\" is not directly in the class's folder")]
    UnexpectedLayout { path: String },
    /// The name is taken by the manifest.
    #[error("reserved name \"{path}\": the manifest's")]
    ReservedName { path: String },
    /// The tar of a class: the archive is one of such tars, e.g. ILSVRC2012's outer one.
    #[error("\"{path}\" is the tar of a class, so this is an archive of several classes")]
    TarOfClass { path: String },
    /// A symbolic or a hard link.
    #[error("link entry \"{path}\"")]
    LinkEntry { path: String },
    /// A device, a FIFO, a volume.
    #[error("special entry \"{path}\": neither a file nor a directory")]
    SpecialEntry { path: String },
    /// A file with holes: one header could claim terabytes.
    #[error("sparse entry \"{path}\"")]
    SparseEntry { path: String },
    /// A global PAX header, or what no standard names.
    #[error("unknown entry of type '{type_flag}', at byte {offset}")]
    UnknownEntry { offset: u64, type_flag: String },
}

impl FramingError {
    /// More bytes could help: all that came was fine, and it was not all.
    pub(crate) fn is_truncated(&self) -> bool {
        matches!(self, Self::Truncated { .. })
    }

    /// The origin served something else under the archive's address.
    pub(crate) fn is_not_a_tar(&self) -> bool {
        matches!(self, Self::NotATar { .. })
    }
}

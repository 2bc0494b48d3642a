//! Outcome of a class: success, skipped, or a failure of a known kind; and its conversion to and
//! from the wire.

use std::{fmt, str::FromStr};

use crate::{refusal::Refusal, wire_enum};

/// Outcome of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Completed by this run.
    Success(Published),
    /// Was complete before this run.
    Skipped(Published),
    /// The class is not complete, for the reason in the failure.
    Failed(Failure),
}

/// Content of a published class folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Published {
    /// Images in the folder.
    pub files: u64,
    /// Length of the tar in bytes; 0 where it is not known (`--existing trust`).
    pub bytes: u64,
}

/// Maximum length of a failure's message in bytes, which keeps the log line readable.
pub const LONGEST_MESSAGE: usize = 4096;

/// Why a class failed. Displays as `Kind: message`, the form of `failed_downloads.log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind, which implies whether another attempt can help.
    pub kind: FailureKind,
    /// One line of at most [`LONGEST_MESSAGE`] bytes, without the kind, free of control characters.
    pub message: String,
    /// The likely cause.
    pub suspect: Suspect,
    /// The worker lacks disk space for the class and has not begun it; a worker with more space may
    /// succeed.
    pub lacks_space: bool,
    /// The reason for which the origin refused the class, if it did.
    pub refusal: Option<Refusal>,
}

/// The likely cause of a failure; it decides which worker tries the class again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suspect {
    /// The class itself (404, a web page, an unsafe archive): another worker would fail, too.
    Class,
    /// The origin or the network: the failure may be temporary, and affects other classes as well.
    Origin,
    /// The worker's host or storage: another worker may succeed.
    WorkerHost,
}

impl Failure {
    /// A failure of a kind. Control characters in the message (from file names or excerpts of
    /// pages) are escaped, so that they cannot control a terminal or log viewer, and a long message
    /// is truncated.
    pub fn new(kind: FailureKind, message: impl fmt::Display) -> Self {
        let message = printable_within(&message.to_string(), LONGEST_MESSAGE);
        Self {
            kind,
            message,
            suspect: kind.usual_suspect(),
            lacks_space: false,
            refusal: None,
        }
    }

    /// The same failure, with a cause that differs from the usual one of its kind.
    #[must_use]
    pub fn suspecting(self, suspect: Suspect) -> Self {
        Self { suspect, ..self }
    }

    /// The same failure, of a class that the origin refused.
    #[must_use]
    pub fn refused(self, refusal: Refusal) -> Self {
        Self {
            refusal: Some(refusal),
            ..self
        }
    }

    /// The same failure, of a class for which the worker lacks disk space.
    #[must_use]
    pub fn lacking_space(self) -> Self {
        Self {
            suspect: Suspect::WorkerHost,
            lacks_space: true,
            ..self
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.kind, self.message)
    }
}

/// Escapes unprintable characters, e.g. as `\u{1b}`, and leaves all others unchanged. All text from
/// other programs is escaped where it enters this one; truncation comes after escaping.
pub fn printable(text: &str) -> String {
    printable_within(text, usize::MAX)
}

/// The same, truncated to at most `bytes` bytes of escaped text. Escapes make a text several times
/// as long, in an HTTP/2 header ten times. The text is therefore truncated after escaping, and no
/// more than that is allocated.
pub fn printable_within(text: &str, bytes: usize) -> String {
    let mut escaped = String::with_capacity(text.len().min(bytes));
    for character in text.chars() {
        let before = escaped.len();
        if is_printable(character) {
            escaped.push(character);
        } else {
            escaped.extend(character.escape_default());
        }
        if escaped.len() > bytes {
            escaped.truncate(before);
            break;
        }
    }
    escaped
}

/// Whether a character is shown as itself and moves nothing else.
pub(crate) fn is_printable(character: char) -> bool {
    !character.is_control() && !is_invisible(character)
}

/// Direction marks, invisible characters, and other characters that change the appearance of the
/// text around them.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// The kinds of failure that a log can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The origin answered, but not with the tar.
    HttpError,
    /// The origin sent no bytes for too long, or fewer than the minimum speed.
    Timeout,
    /// The connection broke or could not be made.
    ConnectionError,
    /// The received bytes are something else: a web page, a compressed file.
    NotATar,
    /// The tar is broken, unsafe or exceeds a limit.
    TarError,
    /// The target could not be read or written.
    StorageError,
    /// Something else exists under the class's name.
    Conflict,
    /// The row of the CSV holds no WordNet id.
    InvalidWnid,
    /// The lease was lost too many times.
    LeaseLost,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::HttpError,
        Self::Timeout,
        Self::ConnectionError,
        Self::NotATar,
        Self::TarError,
        Self::StorageError,
        Self::Conflict,
        Self::InvalidWnid,
        Self::LeaseLost,
    ];

    /// The likely cause if only the kind is known. It implies whether another attempt can help: a
    /// failure of the class is final, one of the origin may be temporary, and after one of the host
    /// another host tries the class.
    pub fn usual_suspect(self) -> Suspect {
        match self {
            Self::HttpError
            | Self::NotATar
            | Self::TarError
            | Self::InvalidWnid
            | Self::LeaseLost => Suspect::Class,
            Self::Timeout | Self::ConnectionError => Suspect::Origin,
            Self::StorageError | Self::Conflict => Suspect::WorkerHost,
        }
    }
}

/// The name of the variant, with HTTP in capitals.
impl fmt::Display for FailureKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HttpError => formatter.write_str("HTTPError"),
            other => fmt::Debug::fmt(other, formatter),
        }
    }
}

/// The text is not the name of a kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("read a kind of failure that this version does not know")]
pub struct UnknownKind;

impl FromStr for FailureKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.to_string() == text)
            .ok_or(UnknownKind)
    }
}

impl From<Outcome> for proto::Outcome {
    fn from(outcome: Outcome) -> Self {
        let wire = |published: Published| proto::Published {
            files: published.files,
            bytes: published.bytes,
        };
        let kind = match outcome {
            Outcome::Success(published) => proto::outcome::Kind::Success(wire(published)),
            Outcome::Skipped(published) => proto::outcome::Kind::Skipped(wire(published)),
            Outcome::Failed(failure) => {
                let (refusal, refusal_status) = Refusal::to_wire(failure.refusal);
                proto::outcome::Kind::Failure(proto::Failure {
                    kind: proto::FailureKind::from(failure.kind).into(),
                    message: failure.message,
                    suspect: proto::Suspect::from(failure.suspect).into(),
                    lacks_space: failure.lacks_space,
                    refusal: refusal.into(),
                    refusal_status,
                })
            }
        };
        Self { kind: Some(kind) }
    }
}

/// The message has no outcome, or one of a newer protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("read an outcome of a kind this version does not know")]
pub struct UnknownOutcome;

impl TryFrom<proto::Outcome> for Outcome {
    type Error = UnknownOutcome;

    fn try_from(wire: proto::Outcome) -> Result<Self, UnknownOutcome> {
        let published = |wire: proto::Published| Published {
            files: wire.files,
            bytes: wire.bytes,
        };
        Ok(match wire.kind.ok_or(UnknownOutcome)? {
            proto::outcome::Kind::Success(wire) => Self::Success(published(wire)),
            proto::outcome::Kind::Skipped(wire) => Self::Skipped(published(wire)),
            proto::outcome::Kind::Failure(wire) => {
                let suspect = wire.suspect().into();
                Self::Failed(Failure {
                    suspect,
                    lacks_space: wire.lacks_space,
                    refusal: Refusal::from_wire(wire.refusal(), wire.refusal_status),
                    ..Failure::new(kind_of(wire.kind(), suspect), wire.message)
                })
            }
        })
    }
}

wire_enum!(Suspect: Class, Origin, WorkerHost);
wire_enum!(
    FailureKind: HttpError, Timeout, ConnectionError, NotATar, TarError, StorageError, Conflict,
    InvalidWnid, LeaseLost
);

/// The kind of a failure. A kind of a newer protocol is decoded as unspecified and becomes the most
/// general kind for its suspect, so that the other results in the same report are not refused.
fn kind_of(kind: proto::FailureKind, suspect: Suspect) -> FailureKind {
    match (kind, suspect) {
        (proto::FailureKind::Unspecified, Suspect::Class) => FailureKind::HttpError,
        (proto::FailureKind::Unspecified, Suspect::Origin) => FailureKind::ConnectionError,
        (proto::FailureKind::Unspecified, Suspect::WorkerHost) => FailureKind::StorageError,
        (kind, _) => kind.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_survives_the_wire() {
        let published = Published {
            files: 3,
            bytes: 10_240,
        };
        let failures = FailureKind::ALL.map(|kind| Outcome::Failed(Failure::new(kind, "why")));
        let refused = Failure::new(FailureKind::HttpError, "why").refused(Refusal::Status(404));
        let others = [
            Outcome::Success(published),
            Outcome::Skipped(published),
            Outcome::Failed(refused),
        ];
        for outcome in others.into_iter().chain(failures) {
            assert_eq!(
                Outcome::try_from(proto::Outcome::from(outcome.clone())),
                Ok(outcome)
            );
        }
    }

    #[test]
    fn a_kind_is_parsed_from_its_name() {
        for kind in FailureKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        let names = FailureKind::ALL.map(|kind| kind.to_string());
        assert_eq!(
            names.join(" "),
            "HTTPError Timeout ConnectionError NotATar TarError StorageError Conflict InvalidWnid \
             LeaseLost"
        );
        assert_eq!("Bad".parse::<FailureKind>(), Err(UnknownKind));
    }

    #[test]
    fn an_outcome_of_a_newer_protocol_is_refused() {
        assert_eq!(
            Outcome::try_from(proto::Outcome { kind: None }),
            Err(UnknownOutcome)
        );
    }

    #[test]
    fn a_kind_of_a_newer_protocol_is_the_general_one_of_its_suspect() {
        for (suspect, kind) in [
            (Suspect::Class, FailureKind::HttpError),
            (Suspect::Origin, FailureKind::ConnectionError),
            (Suspect::WorkerHost, FailureKind::StorageError),
        ] {
            for number in [0, 99, -1] {
                let wire = proto::Failure {
                    kind: number,
                    message: "why".to_owned(),
                    suspect: proto::Suspect::from(suspect).into(),
                    ..proto::Failure::default()
                };
                let outcome = proto::Outcome {
                    kind: Some(proto::outcome::Kind::Failure(wire)),
                };
                let expected = Failure::new(kind, "why").suspecting(suspect);
                assert_eq!(
                    Outcome::try_from(outcome),
                    Ok(Outcome::Failed(expected)),
                    "{number}"
                );
            }
        }
    }

    #[test]
    fn invisible_and_direction_changing_characters_are_escaped() {
        let ranges = [
            '\u{0}'..='\u{1f}',
            '\u{7f}'..='\u{9f}',
            '\u{ad}'..='\u{ad}',
            '\u{61c}'..='\u{61c}',
            '\u{200b}'..='\u{200f}',
            '\u{2028}'..='\u{202e}',
            '\u{2060}'..='\u{2069}',
            '\u{feff}'..='\u{feff}',
            '\u{e0001}'..='\u{e007f}',
        ];
        let mut tried = 0;
        for character in ranges.into_iter().flatten() {
            let escaped = printable(&format!("a{character}b"));
            assert!(
                escaped.bytes().all(|byte| (b' '..0x7f).contains(&byte)),
                "{escaped:?}"
            );
            tried += 1;
        }
        assert_eq!(tried, 32 + 33 + 1 + 1 + 5 + 7 + 10 + 1 + 127);
        for plain in ["n00000001", "Grüße, 世界 ✓ …", "e\u{301}"] {
            assert_eq!(printable(plain), plain);
        }
    }

    #[test]
    fn a_text_is_truncated_after_escaping_and_between_two_characters() {
        for (text, bytes, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "abc"),
            ("a\u{1}b", 6, "a\\u{1}"),
            ("a\u{1}b", 5, "a"),
            ("ü", 1, ""),
            ("", 0, ""),
        ] {
            assert_eq!(printable_within(text, bytes), expected, "{text:?} {bytes}");
        }
        let failure = Failure::new(FailureKind::TarError, "\u{202e}".repeat(LONGEST_MESSAGE));
        assert_eq!(failure.message, "\\u{202e}".repeat(LONGEST_MESSAGE / 8));
    }

    #[test]
    fn control_characters_reach_no_terminal() {
        let failure = Failure::new(
            FailureKind::TarError,
            "unsafe path \"\u{1b}[2J\u{202e}gpj\"\n",
        );
        assert_eq!(
            failure.to_string(),
            "TarError: unsafe path \"\\u{1b}[2J\\u{202e}gpj\"\\n"
        );
    }
}

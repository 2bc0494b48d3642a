//! `Header`: one 512-byte tar header. Its checksum is verified before any other field is used.
//!
//! Invariant: a number that the `tar` crate would read differently is refused and never guessed.

use std::borrow::Cow;

use super::framing_error::FramingError;

/// Block size of a tar in bytes. Headers and bodies are aligned to blocks.
pub(super) const BLOCK: usize = 512;

/// Largest number of characters of foreign content or of a path in an error message.
const MAX_SHOWN: usize = 200;

/// The accepted types of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// A PAX extended header with attributes of the next entry.
    Pax,
    /// A GNU header whose body is the name of the next entry.
    LongName,
}

/// A header with a valid checksum, type and size.
#[derive(Debug)]
pub(super) struct Header<'block> {
    fields: &'block tar::Header,
    pub(super) kind: Kind,
    /// Size of the body in bytes according to this header.
    pub(super) size: u64,
}

impl<'block> Header<'block> {
    /// Parses the block at `offset` of the tar.
    pub(super) fn read(block: &'block [u8; BLOCK], offset: u64) -> Result<Self, FramingError> {
        let fields = tar::Header::from_byte_slice(block);
        if !checksum_matches(fields) {
            // A damaged first header still has the magic number; an HTML page or a compressed file
            // does not.
            return Err(if offset == 0 && &block[257..262] != b"ustar" {
                not_a_tar(block)
            } else {
                FramingError::Corrupt {
                    offset,
                    problem: "the header's checksum does not match",
                }
            });
        }
        let kind = kind(fields, offset)?;
        let size = number(&fields.as_old().size).ok_or(FramingError::Corrupt {
            offset,
            problem: "the header's size is not a number",
        })?;
        Ok(Self { fields, kind, size })
    }

    /// The path in the header, with the prefix field if the format has one.
    pub(super) fn path(&self) -> Cow<'block, [u8]> {
        self.fields.path_bytes()
    }
}

/// The error for content that is no tar, from its first bytes.
pub(super) fn not_a_tar(beginning: &[u8]) -> FramingError {
    FramingError::NotATar {
        looks_like: recognise(beginning).unwrap_or("something else"),
        snippet: shown(beginning),
    }
}

/// Identifies content that servers often deliver instead of a tar.
pub(super) fn recognise(beginning: &[u8]) -> Option<&'static str> {
    let text = beginning
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(beginning)
        .trim_ascii_start();
    match (beginning, text) {
        ([0x1f, 0x8b, ..], _) => Some("a gzip stream: compressed tar, not .tar"),
        ([0xfd, b'7', b'z', b'X', b'Z', 0, ..], _) => {
            Some("an xz stream: compressed tar, not .tar")
        }
        ([0x28, 0xb5, 0x2f, 0xfd, ..], _) => Some("a zstd stream: compressed tar, not .tar"),
        ([b'B', b'Z', b'h', ..], _) => Some("a bzip2 stream: compressed tar, not .tar"),
        ([b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..], _) => Some("a zip archive"),
        (_, [b'<', b'?', b'x', b'm', b'l', ..]) => Some("an XML document"),
        (_, [b'<', ..]) => Some("an HTML page"),
        (_, [b'{' | b'[', ..]) => Some("JSON"),
        _ => None,
    }
}

/// The first bytes as printable ASCII, with backslash escapes for all others, so that they cannot
/// send control sequences to a terminal.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let escaped = byte.escape_ascii();
        if text.len() + escaped.len() > MAX_SHOWN {
            break;
        }
        text.extend(escaped.map(char::from));
    }
    text
}

fn kind(fields: &tar::Header, offset: u64) -> Result<Kind, FramingError> {
    let path = || shown(&fields.path_bytes());
    let has_extensions = fields.as_ustar().is_some() || fields.as_gnu().is_some();
    match fields.as_old().linkflag[0] {
        0 | b'0' => Ok(Kind::File),
        b'5' => Ok(Kind::Directory),
        b'x' if has_extensions => Ok(Kind::Pax),
        b'L' if has_extensions => Ok(Kind::LongName),
        b'1' | b'2' | b'K' => Err(FramingError::LinkEntry { path: path() }),
        b'3' | b'4' | b'6' | b'7' | b'M' | b'V' => Err(FramingError::SpecialEntry { path: path() }),
        b'S' => Err(FramingError::SparseEntry { path: path() }),
        other => Err(FramingError::UnknownEntry {
            offset,
            type_flag: shown(&[other]),
        }),
    }
}

/// Whether the checksum field is the sum of all bytes, with the checksum itself counted as spaces.
/// Historic tars summed signed bytes, which GNU tar accepts and the `tar` crate does not.
fn checksum_matches(fields: &tar::Header) -> bool {
    let bytes = fields.as_bytes();
    let Some(sum) = octal(&fields.as_old().cksum) else {
        return false;
    };
    let counted = || bytes[..148].iter().chain(&bytes[156..]).chain(b"        ");
    let unsigned: u32 = counted().map(|byte| u32::from(*byte)).sum();
    let signed = || counted().map(|byte| i64::from(byte.cast_signed())).sum();
    sum == u64::from(unsigned) || i64::try_from(sum) == Ok(signed())
}

/// Parses a size: octal text, or base 256 after the byte `0x80` for larger numbers.
///
/// Any other first byte of base 256 means a negative number or more than 64 bits. A text without a
/// digit is 0, as GNU tar, bsdtar and Python read it: .NET writes an empty file's size as NUL
/// bytes.
fn number(field: &[u8; 12]) -> Option<u64> {
    match field {
        [0x80, 0, 0, 0, number @ ..] => Some(u64::from_be_bytes(*number)),
        [0x80..=0xff, ..] => None,
        text if is_blank(text) => Some(0),
        text => octal(text),
    }
}

/// Whether a field consists of optional spaces and then NUL bytes to its end. GNU tar skips a
/// header whose size field is blank without a NUL byte, or has anything after one; those are
/// refused.
pub(super) fn is_blank(field: &[u8; 12]) -> bool {
    let terminator = field.iter().position(|byte| *byte != b' ');
    terminator.is_some_and(|terminator| field[terminator..].iter().all(|byte| *byte == 0))
}

/// Parses octal digits with leading spaces; only spaces and NUL may follow them.
fn octal(field: &[u8]) -> Option<u64> {
    let text = field.trim_ascii_start();
    let digits = text
        .iter()
        .take_while(|byte| matches!(byte, b'0'..=b'7'))
        .count();
    let (digits, rest) = text.split_at(digits);
    if digits.is_empty() || rest.iter().any(|byte| !matches!(byte, b' ' | 0)) {
        return None;
    }
    Some(
        digits
            .iter()
            .fold(0, |number, digit| number * 8 + u64::from(digit - b'0')),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(change: impl FnOnce(&mut tar::Header)) -> [u8; BLOCK] {
        let mut header = tar::Header::new_ustar();
        header.set_path("n01440764_1.JPEG").unwrap();
        header.set_size(5);
        change(&mut header);
        header.set_cksum();
        *header.as_bytes()
    }

    fn size(field: [u8; 12]) -> Option<u64> {
        Header::read(&header(|header| header.as_old_mut().size = field), 512)
            .ok()
            .map(|header| header.size)
    }

    #[test]
    fn reads_sizes_in_octal_and_in_base_256() {
        assert_eq!(size(*b"00000000012\0"), Some(10));
        assert_eq!(size(*b"        12 \0"), Some(10));
        assert_eq!(size(*b"777777777777"), Some(0o777_777_777_777));
        assert_eq!(
            size([0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]),
            Some((2 << 32) + 1)
        );
    }

    #[test]
    fn a_size_without_a_digit_is_zero() {
        for text in [
            b"\0\0\0\0\0\0\0\0\0\0\0\0",
            b" \0\0\0\0\0\0\0\0\0\0\0",
            b"           \0",
        ] {
            assert_eq!(size(*text), Some(0), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn refuses_sizes_that_are_negative_too_big_or_no_number() {
        assert_eq!(size([0xff; 12]), None, "-1");
        assert_eq!(size([0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None, "2^64");
        assert_eq!(size([0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), None);
        assert_eq!(size([0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), None);
        for text in [
            b"            ",
            b"-1\0\0\0\0\0\0\0\0\0\0",
            b"+1\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(size(*text), None, "{}", text.escape_ascii());
        }
        for text in [
            b"\x0000000000002",
            b"\0           ",
            b"\0\0\0\0\0\0\0\0\0\0\0 ",
            b"\t\0\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(size(*text), None, "{}", text.escape_ascii());
        }
        for text in [
            b"8\0\0\0\0\0\0\0\0\0\0\0",
            b"1 2\0\0\0\0\0\0\0\0\0",
            b"1\x002\0\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(size(*text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn accepts_the_historic_sum_of_signed_bytes() {
        let mut block =
            header(|header| header.as_old_mut().name[..4].copy_from_slice("éé".as_bytes()));
        assert!(Header::read(&block, 512).is_ok());
        let high = block.iter().filter(|byte| !byte.is_ascii()).count();
        let sum = octal(&block[148..156]).unwrap() - 256 * u64::try_from(high).unwrap();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(high > 0 && Header::read(&block, 512).is_ok());
        block[0] += 1;
        assert!(Header::read(&block, 512).is_err());
    }

    #[test]
    fn joins_the_ustar_prefix_and_the_name() {
        let block = header(|header| {
            header.as_ustar_mut().unwrap().prefix[..9].copy_from_slice(b"n01440764");
        });
        assert_eq!(
            Header::read(&block, 0).unwrap().path(),
            &b"n01440764/n01440764_1.JPEG"[..]
        );
    }

    #[test]
    fn extension_headers_require_a_format_that_has_them() {
        for flag in *b"xL" {
            let block = header(|header| {
                header.as_old_mut().linkflag = [flag];
                header.as_ustar_mut().unwrap().magic = *b"\0\0\0\0\0\0";
            });
            let error = Header::read(&block, 512).unwrap_err();
            assert!(
                matches!(error, FramingError::UnknownEntry { offset: 512, .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn identifies_content_that_is_served_instead_of_a_tar() {
        for (beginning, looks_like) in [
            (
                &b"\x1f\x8b\x08"[..],
                "a gzip stream: compressed tar, not .tar",
            ),
            (b"\xfd7zXZ\0", "an xz stream: compressed tar, not .tar"),
            (
                b"\x28\xb5\x2f\xfd",
                "a zstd stream: compressed tar, not .tar",
            ),
            (b"BZh9", "a bzip2 stream: compressed tar, not .tar"),
            (b"PK\x03\x04", "a zip archive"),
            (b"\xef\xbb\xbf\r\n <!DOCTYPE html>", "an HTML page"),
            (b"<?xml version='1.0'?><Error/>", "an XML document"),
            (b"{\"error\":1}", "JSON"),
        ] {
            assert_eq!(recognise(beginning), Some(looks_like));
        }
        assert_eq!(recognise(b"\xff\xd8\xff"), None);
    }

    #[test]
    fn content_in_an_error_is_short_and_printable() {
        assert_eq!(shown(b"\x1b[2J<html>\n\xff"), "\\x1b[2J<html>\\n\\xff");
        assert_eq!(shown(&[0xff; 512]).len(), 200);
    }
}

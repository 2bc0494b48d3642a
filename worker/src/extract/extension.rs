//! `Extensions`: what PAX and GNU headers state about the entry that follows; and which names an
//! entry may have.
//!
//! Invariant: no byte of an extension is stored before its size is checked against the limit.
//! Whatever two readers could interpret in two ways (a repeated key, two names, a line break inside
//! a value) is refused.

use shared::Wnid;

use super::{
    framing_error::{FramingError, check_limit},
    header::{Kind, shown},
};

/// Longest GNU long name, in bytes: `PATH_MAX`.
const MAX_LONG_NAME: u64 = 4096;

/// Longest file name in bytes that file systems support.
const MAX_NAME: usize = 255;

/// The name of the manifest in the class folder, which no image may have.
const RESERVED: &[u8] = b".manifest.json";

/// Collects the extension headers before an entry.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    body: Vec<u8>,
    path: Option<Vec<u8>>,
    size: Option<u64>,
    has_pax: bool,
    has_long_name: bool,
}

impl Extensions {
    /// Begins an extension header of this kind at `offset`, with a body of `size` bytes.
    pub(super) fn begin(
        &mut self,
        kind: Kind,
        size: u64,
        limit: u64,
        offset: u64,
    ) -> Result<(), FramingError> {
        let (seen, limit, problem) = match kind {
            Kind::LongName => (
                &mut self.has_long_name,
                limit.min(MAX_LONG_NAME),
                "two long names for one entry",
            ),
            _ => (&mut self.has_pax, limit, "two pax headers for one entry"),
        };
        if std::mem::replace(seen, true) {
            return Err(FramingError::Corrupt { offset, problem });
        }
        check_limit(size, limit, "bytes in an extension header")?;
        self.body.clear();
        Ok(())
    }

    /// Processes the next bytes of the body.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }

    /// Evaluates the complete body, which ended at `offset`.
    pub(super) fn complete(&mut self, kind: Kind, offset: u64) -> Result<(), FramingError> {
        match kind {
            Kind::LongName => {
                let name = self.body.strip_suffix(&[0]).unwrap_or(&self.body);
                set_path(&mut self.path, name, offset)
            }
            _ => self.read_pax(offset),
        }
    }

    fn read_pax(&mut self, offset: u64) -> Result<(), FramingError> {
        let corrupt = |problem| FramingError::Corrupt { offset, problem };
        let mut rest = self.body.as_slice();
        while !rest.is_empty() {
            let (key, value, behind) = split_record(rest).ok_or(corrupt("malformed pax record"))?;
            rest = behind;
            match key {
                b"path" => set_path(&mut self.path, value, offset)?,
                b"size" => {
                    let size = decimal(value).ok_or(corrupt("the pax size is not a number"))?;
                    if self.size.replace(size).is_some() {
                        return Err(corrupt("two pax sizes for one entry"));
                    }
                }
                b"hdrcharset" => return Err(corrupt("a pax header in a character set of its own")),
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(FramingError::SparseEntry {
                        path: shown(self.path().unwrap_or_default()),
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The path that replaces the one in the entry's header.
    pub(super) fn path(&self) -> Option<&[u8]> {
        self.path.as_deref()
    }

    /// The size that replaces the one in the entry's header.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether an entry must follow.
    pub(super) fn is_pending(&self) -> bool {
        self.has_pax || self.has_long_name
    }

    /// Clears the extensions after the entry to which they apply.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn set_path(path: &mut Option<Vec<u8>>, value: &[u8], offset: u64) -> Result<(), FramingError> {
    if path.replace(value.to_owned()).is_some() {
        return Err(FramingError::Corrupt {
            offset,
            problem: "two extension headers name one entry",
        });
    }
    Ok(())
}

/// Splits off the first record, `<length> <key>=<value>\n`; the length counts the whole record.
///
/// POSIX allows line breaks in values. Readers that split at line breaks, as the `tar` crate does,
/// would see other records than readers that use the lengths, and so possibly another path. Line
/// breaks are therefore refused.
fn split_record(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let digits = body.iter().position(|&byte| byte == b' ')?;
    let length = decimal(&body[..digits]).filter(|_| body[0] != b'0')?;
    let (record, rest) = body.split_at_checked(usize::try_from(length).ok()?)?;
    let content = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = content
        .iter()
        .position(|&byte| byte == b'=')
        .filter(|&equals| equals > 0)?;
    (!content.contains(&b'\n')).then_some((&content[..equals], &content[equals + 1..], rest))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

/// The name under which a file of the class may be written: its path without a leading `./` and
/// `<wnid>/`. It must be flat.
pub(super) fn flat_name<'path>(path: &'path [u8], wnid: &str) -> Result<&'path str, FramingError> {
    let refused = |problem| FramingError::UnsafePath {
        path: shown(path),
        problem,
    };
    let text = str::from_utf8(path).map_err(|_| refused("it is not utf-8"))?;
    let relative = text.strip_prefix("./").unwrap_or(text);
    let name = relative
        .strip_prefix(wnid)
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or(relative);
    let problems = [
        (
            text.chars().any(char::is_control),
            "it has a control character",
        ),
        (text.contains('\\'), "it has a backslash"),
        (text.starts_with('/'), "it is absolute"),
        (
            text.split('/').any(|part| part == ".."),
            "it leads out of the folder",
        ),
        (matches!(name, "" | "."), "it names no file"),
    ];
    if let Some((_, problem)) = problems.into_iter().find(|(applies, _)| *applies) {
        return Err(refused(problem));
    }
    if name.contains('/') {
        return Err(FramingError::UnexpectedLayout { path: shown(path) });
    }
    if name.len() > MAX_NAME {
        return Err(refused("it is longer than 255 bytes"));
    }
    // On a file system that ignores case another spelling names the same file.
    if name
        .as_bytes()
        .get(..RESERVED.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(RESERVED))
    {
        return Err(FramingError::ReservedName { path: shown(path) });
    }
    if name
        .strip_suffix(".tar")
        .is_some_and(|stem| stem.parse::<Wnid>().is_ok())
    {
        return Err(FramingError::TarOfClass { path: shown(path) });
    }
    Ok(name)
}

/// Checks that a directory is the archive's root or the class's own.
pub(super) fn check_directory(path: &[u8], wnid: &str) -> Result<(), FramingError> {
    let directory = path.strip_suffix(b"/").unwrap_or(path);
    let relative = directory.strip_prefix(b"./").unwrap_or(directory);
    if directory == b"." || relative == wnid.as_bytes() {
        return Ok(());
    }
    flat_name(path, wnid)?;
    Err(FramingError::UnexpectedLayout { path: shown(path) })
}

#[cfg(test)]
pub(super) use tests::record;

#[cfg(test)]
mod tests {
    use super::*;

    const WNID: &str = "n01440764";

    fn pax(body: &[u8]) -> Result<Extensions, FramingError> {
        let mut extensions = Extensions::default();
        extensions.begin(Kind::Pax, body.len() as u64, 65_536, 0)?;
        extensions.push(body);
        extensions.complete(Kind::Pax, 0)?;
        Ok(extensions)
    }

    /// One record of a PAX header; its length counts its own digits.
    pub(in super::super) fn record(key: &str, value: &str) -> String {
        let rest = key.len() + value.len() + 3;
        let length = (rest..rest + 9)
            .find(|length| rest + length.to_string().len() == *length)
            .unwrap();
        format!("{length} {key}={value}\n")
    }

    #[test]
    fn reads_path_and_size_and_ignores_the_rest() {
        let others = [
            ("mtime", "1350244992.5"),
            ("comment", ""),
            ("linkpath", "/x"),
            ("SCHILY.xattr.user.a", "b=c d"),
        ];
        let records: String = others
            .iter()
            .map(|(key, value)| record(key, value))
            .collect();
        let body = format!("{records}15 path=b.JPEG\n11 size=35\n{records}");
        let extensions = pax(body.as_bytes()).unwrap();
        assert_eq!(
            (extensions.path(), extensions.size()),
            (Some(&b"b.JPEG"[..]), Some(35))
        );
        assert_eq!(pax(records.as_bytes()).unwrap().path(), None);
    }

    #[test]
    fn refuses_records_that_are_not_exactly_framed() {
        for body in [
            &b"\n"[..],
            b"path=b\n",
            b" path=b\n",
            b"0 path=b\n",
            b"011 path=b\n",
            b"+11 path=b\n",
            b"-11 path=b\n",
            b"8 path=b\n",
            b"11 path=b\n",
            b"9 path=b ",
            b"9 path=b\n\0",
            b"9  ath=b\n9",
            b"99999999999999999999999 path=b\n",
            b"5 =b\n",
            b"8 pathb\n",
            b"8 path=b",
            b"1 ",
            b"2 ",
            b"3 \n",
            b"12 comment=\n\n",
        ] {
            let refused = pax(body);
            assert!(
                matches!(refused, Err(FramingError::Corrupt { .. })),
                "{} {refused:?}",
                body.escape_ascii()
            );
        }
        assert!(pax(b"9 path=b\n").is_ok());
        assert!(pax(b"").is_ok());
    }

    #[test]
    fn a_record_inside_the_value_of_another_is_refused() {
        let hidden = record("comment", &format!("\n{}", record("path", "evil.JPEG")));
        assert!(matches!(
            pax(hidden.as_bytes()),
            Err(FramingError::Corrupt { .. })
        ));
    }

    #[test]
    fn refuses_repeated_keys_and_headers() {
        assert!(pax(b"9 path=b\n9 path=b\n").is_err());
        assert!(pax(b"9 size=1\n9 size=1\n").is_err());
        let mut extensions = pax(b"9 path=b\n").unwrap();
        assert!(extensions.begin(Kind::Pax, 0, 9, 0).is_err());
        extensions.begin(Kind::LongName, 1, 9, 0).unwrap();
        extensions.push(b"b");
        assert!(
            extensions.complete(Kind::LongName, 0).is_err(),
            "a PAX path and a long name"
        );
    }

    #[test]
    fn refuses_invalid_sizes_and_other_character_sets() {
        for size in [
            "",
            "-1",
            "+1",
            " 1",
            "1 ",
            "0x1",
            "1e3",
            "18446744073709551616",
        ] {
            assert!(
                matches!(
                    pax(record("size", size).as_bytes()),
                    Err(FramingError::Corrupt { .. })
                ),
                "{size:?}"
            );
        }
        assert_eq!(
            pax(record("size", "18446744073709551615").as_bytes())
                .unwrap()
                .size(),
            Some(u64::MAX)
        );
        let charset = pax(record("hdrcharset", "BINARY").as_bytes());
        assert!(matches!(charset, Err(FramingError::Corrupt { .. })));
        let sparse = pax(record("GNU.sparse.major", "1").as_bytes());
        assert!(matches!(sparse, Err(FramingError::SparseEntry { .. })));
    }

    #[test]
    fn strips_the_prefixes_of_a_class() {
        for path in [
            "a.JPEG",
            "./a.JPEG",
            "n01440764/a.JPEG",
            "./n01440764/a.JPEG",
        ] {
            assert_eq!(flat_name(path.as_bytes(), WNID).unwrap(), "a.JPEG");
        }
        assert_eq!(flat_name(b"n01440764", WNID).unwrap(), WNID);
        assert_eq!(
            flat_name("猫 1…JPEG".as_bytes(), WNID).unwrap(),
            "猫 1…JPEG"
        );
        assert_eq!(
            flat_name("a".repeat(255).as_bytes(), WNID).unwrap().len(),
            255
        );
    }

    #[test]
    fn refuses_unsafe_paths() {
        let long = "a".repeat(256);
        for path in [
            &b""[..],
            b".",
            b"..",
            b"./",
            b"./.",
            b"./..",
            b"../x",
            b"/etc/x",
            b"/",
            b"//x",
            b"a/../../x",
            b"n01440764/",
            b"n01440764/..",
            b"n01440764/../x",
            b"C:\\x",
            b"a\\b",
            b"a\0b",
            b"a\nb",
            b"\x1b[2J",
            b"a\x7f",
            "a\u{85}".as_bytes(),
            b"a\xff",
            long.as_bytes(),
        ] {
            let refused = flat_name(path, WNID);
            assert!(
                matches!(refused, Err(FramingError::UnsafePath { .. })),
                "{} {refused:?}",
                path.escape_ascii()
            );
        }
        assert!(
            flat_name(b"/x", "").is_err(),
            "an absolute path stays absolute for any class name"
        );
    }

    #[test]
    fn refuses_nested_paths() {
        for path in [
            "a/b",
            "a/",
            "././a",
            ".//a",
            "n01440765/a",
            "n01440764//a",
            "n01440764/n01440764/a",
            "n01440764/./a",
        ] {
            let refused = flat_name(path.as_bytes(), WNID);
            assert!(
                matches!(refused, Err(FramingError::UnexpectedLayout { .. })),
                "{path} {refused:?}"
            );
        }
    }

    #[test]
    fn refuses_the_name_of_the_manifest() {
        for path in [
            ".manifest.json",
            "./.manifest.json",
            "n01440764/.manifest.json.tmp",
            ".Manifest.JSON",
        ] {
            assert!(
                matches!(
                    flat_name(path.as_bytes(), WNID),
                    Err(FramingError::ReservedName { .. })
                ),
                "{path}"
            );
        }
        assert!(flat_name(b".manifest.jso", WNID).is_ok());
    }

    #[test]
    fn refuses_an_archive_of_tars_of_classes() {
        for path in [
            "n01440764.tar",
            "./n01440765.tar",
            "n01440764/n01440764.tar",
        ] {
            assert!(
                matches!(
                    flat_name(path.as_bytes(), WNID),
                    Err(FramingError::TarOfClass { .. })
                ),
                "{path}"
            );
        }
        for path in ["n01440764.tar.JPEG", "n01440764_1.tar", "a.tar"] {
            assert!(flat_name(path.as_bytes(), WNID).is_ok(), "{path}");
        }
    }

    #[test]
    fn accepts_only_the_directories_of_the_class() {
        for path in [
            ".",
            "./",
            "n01440764",
            "n01440764/",
            "./n01440764",
            "./n01440764/",
        ] {
            check_directory(path.as_bytes(), WNID).unwrap();
        }
        for path in [
            "",
            "/",
            "..",
            "../",
            "/n01440764",
            "n01440764/../",
            "a\\",
            "a\n/",
        ] {
            let refused = check_directory(path.as_bytes(), WNID);
            assert!(
                matches!(refused, Err(FramingError::UnsafePath { .. })),
                "{path} {refused:?}"
            );
        }
        for path in ["a", "a/", "a/b/", "n01440764/a", "n01440764/a/", "./a/"] {
            let refused = check_directory(path.as_bytes(), WNID);
            assert!(
                matches!(refused, Err(FramingError::UnexpectedLayout { .. })),
                "{path} {refused:?}"
            );
        }
    }
}

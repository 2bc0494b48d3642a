//! `Framing`: finds the files in the bytes of a tar as they arrive, and verifies that the tar is
//! complete.
//!
//! Bytes are pushed into it. It performs no I/O and never copies file data: events borrow from the
//! input.
//!
//! Invariant: if an archive is accepted, the `tar` crate lists it with the same names, sizes and
//! bytes. Anything that tar readers could interpret differently, that could be written outside the
//! class's folder, or that exceeds a limit, fails the whole archive. An archive is complete only if
//! its end marker was seen and every file has all bytes of its size.
//!
//! Two harmless forms are accepted although the `tar` crate reads them differently. A size field
//! without a digit makes the crate fail; other readers read it as 0, and the crate lists the same
//! archive if that 0 is written out. A directory that is written as an empty file with a slash at
//! the end of its name is listed by the crate as an empty file.

use std::borrow::Cow;

use super::{
    extension::{Extensions, check_directory, flat_name},
    framing_error::{FramingError, check_limit},
    header::{BLOCK, Header, Kind, not_a_tar, recognise},
};

/// Upper limits for an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Files and directories.
    pub(crate) entries: u64,
    /// Bytes of one file.
    pub(crate) file_bytes: u64,
    /// Bytes of all files.
    pub(crate) total_bytes: u64,
    /// Bytes of one PAX header or long name.
    pub(crate) extension_bytes: u64,
    /// Zero bytes after the end marker.
    pub(crate) trailing_bytes: u64,
}

impl Default for Limits {
    /// Far above any class: the largest known ones have about 3,000 images, or 280 MB.
    fn default() -> Self {
        Self {
            entries: 200_000,
            file_bytes: 2 << 30,
            total_bytes: 64 << 30,
            extension_bytes: 64 << 10,
            trailing_bytes: 1 << 20,
        }
    }
}

impl Limits {
    /// The limits for a tar of this length, if it is known: its files cannot have more bytes than
    /// the tar itself.
    pub(crate) fn for_tar(length: Option<u64>) -> Self {
        let limits = Self::default();
        Self {
            total_bytes: limits.total_bytes.min(length.unwrap_or(u64::MAX)),
            ..limits
        }
    }
}

/// The next element of the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event<'framing, 'input> {
    /// A file begins.
    File {
        /// Flat and safe to create in the class's folder. Not checked for duplicates.
        name: &'framing str,
        /// Number of bytes that follow.
        size: u64,
    },
    /// Bytes of the current file, never empty. The end of the file follows the last bytes at once,
    /// without further input.
    Data(&'input [u8]),
    /// The current file is complete.
    FileEnd {
        /// Offset in the tar of the next header, after padding that may not have arrived yet. A
        /// download can resume there.
        next_header: u64,
    },
}

/// Reads one tar. Not usable after an error.
#[derive(Debug)]
pub(crate) struct Framing {
    wnid: String,
    limits: Limits,
    state: State,
    /// Bytes that are left of the current body or padding, or may follow the end marker.
    remaining: u64,
    /// Length of the padding after the current body.
    padding: u64,
    offset: u64,
    block: [u8; BLOCK],
    gathered: usize,
    extensions: Extensions,
    name: String,
    entries: u64,
    bytes: u64,
    complete_files: u64,
    zero_block_seen: bool,
}

/// The part of the tar that the next byte belongs to.
#[derive(Debug, Clone, Copy)]
enum State {
    Header,
    Extension(Kind),
    FileBegins,
    Data,
    Padding,
    AfterEndMarker,
}

impl Framing {
    /// Continues at `offset`, a `next_header` of an earlier framing of the same tar, after `files`
    /// complete files.
    pub(crate) fn resume(wnid: &str, limits: Limits, offset: u64, files: u64) -> Self {
        Self {
            wnid: wnid.to_owned(),
            limits,
            state: State::Header,
            remaining: 0,
            padding: 0,
            offset,
            block: [0; BLOCK],
            gathered: 0,
            extensions: Extensions::default(),
            name: String::new(),
            entries: files,
            bytes: offset, // an upper limit for the bytes of those files
            complete_files: files,
            zero_block_seen: false,
        }
    }

    /// Number of files so far, the current one included.
    pub(crate) fn files(&self) -> u64 {
        self.entries
    }

    /// Continues within a file of `size` bytes, `remaining` of which follow.
    pub(crate) fn within_file(mut self, size: u64, remaining: u64) -> Self {
        self.begin_body(State::Data, size);
        self.remaining = remaining;
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(remaining);
        self
    }

    /// Consumes bytes from the front of `input` and returns the next event, or `None` when the
    /// input is used up.
    pub(crate) fn next<'input>(
        &mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<Event<'_, 'input>>, FramingError> {
        loop {
            match self.state {
                State::FileBegins => {
                    self.state = State::Data;
                    return Ok(Some(Event::File {
                        name: &self.name,
                        size: self.remaining,
                    }));
                }
                State::Data if self.remaining == 0 => {
                    self.complete_files += 1;
                    self.begin_padding();
                    return Ok(Some(Event::FileEnd {
                        next_header: self.offset + self.padding,
                    }));
                }
                State::Extension(kind) if self.remaining == 0 => {
                    self.extensions.complete(kind, self.offset)?;
                    self.begin_padding();
                }
                State::Padding if self.remaining == 0 => self.state = State::Header,
                _ if input.is_empty() => return Ok(None),
                State::Data => return Ok(Some(Event::Data(self.take_remaining(input)))),
                State::Header => self.read_block(input)?,
                State::Extension(_) => {
                    let body = self.take_remaining(input);
                    self.extensions.push(body);
                }
                // Padding that is not zero is unusual, but harmless.
                State::Padding => {
                    self.take_remaining(input);
                }
                State::AfterEndMarker => self.check_trailing(input)?,
            }
        }
    }

    /// Begins a body of `size` bytes and the padding after it.
    fn begin_body(&mut self, state: State, size: u64) {
        self.state = state;
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn begin_padding(&mut self) {
        self.state = State::Padding;
        self.remaining = self.padding;
    }

    /// The number of files, if the tar is complete. Call it at the end of the transfer, when
    /// `next` has returned `None`.
    pub(crate) fn finish(&self) -> Result<u64, FramingError> {
        let place = match self.state {
            State::AfterEndMarker if self.complete_files == 0 => {
                return Err(FramingError::EmptyArchive);
            }
            State::AfterEndMarker => return Ok(self.complete_files),
            State::Header if self.offset == 0 => return Err(FramingError::EmptyArchive),
            State::Header if self.gathered > 0 => {
                let beginning = &self.block[..self.gathered];
                let is_first = self.offset == beginning.len() as u64;
                // A tar header has NUL bytes after its name; a short text error message has none.
                if is_first && (recognise(beginning).is_some() || !beginning.contains(&0)) {
                    return Err(not_a_tar(beginning));
                }
                "inside a header"
            }
            State::Header => "between entries, without the end marker",
            State::Extension(_) => "inside an extension header",
            State::FileBegins | State::Data => "inside a file",
            State::Padding => "inside padding",
        };
        Err(FramingError::Truncated {
            offset: self.offset,
            place,
        })
    }

    /// Offset in the tar after the last consumed byte.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    fn take<'input>(&mut self, input: &mut &'input [u8], most: u64) -> &'input [u8] {
        let count = usize::try_from(most).map_or(input.len(), |most| most.min(input.len()));
        let (taken, rest) = input.split_at(count);
        *input = rest;
        self.offset += count as u64;
        taken
    }

    fn take_remaining<'input>(&mut self, input: &mut &'input [u8]) -> &'input [u8] {
        let taken = self.take(input, self.remaining);
        self.remaining -= taken.len() as u64;
        taken
    }

    fn read_block(&mut self, input: &mut &[u8]) -> Result<(), FramingError> {
        if self.gathered == 0
            && let Some((block, rest)) = input.split_first_chunk()
        {
            *input = rest;
            self.offset += BLOCK as u64;
            return self.begin_entry(block);
        }
        let part = self.take(input, (BLOCK - self.gathered) as u64);
        self.block[self.gathered..][..part.len()].copy_from_slice(part);
        self.gathered += part.len();
        if self.gathered < BLOCK {
            return Ok(());
        }
        self.gathered = 0;
        let block = self.block;
        self.begin_entry(&block)
    }

    fn begin_entry(&mut self, block: &[u8; BLOCK]) -> Result<(), FramingError> {
        let offset = self.offset - BLOCK as u64;
        if all_zero(block) {
            return self.mark_end(offset);
        }
        if self.zero_block_seen {
            return Err(FramingError::Corrupt {
                offset,
                problem: "a lone zero block between entries",
            });
        }
        let header = Header::read(block, offset)?;
        match header.kind {
            Kind::File | Kind::Directory => self.begin_member(&header, offset),
            kind => {
                self.extensions
                    .begin(kind, header.size, self.limits.extension_bytes, offset)?;
                self.begin_body(State::Extension(kind), header.size);
                Ok(())
            }
        }
    }

    fn begin_member(&mut self, header: &Header<'_>, offset: u64) -> Result<(), FramingError> {
        self.entries += 1;
        check_limit(self.entries, self.limits.entries, "entries")?;
        let size = self.extensions.size().unwrap_or(header.size);
        let path = self
            .extensions
            .path()
            .map_or_else(|| header.path(), Cow::Borrowed);
        // Before POSIX a directory was written as a file whose name ends in a slash. No file can be
        // created with such a name, so all readers find the same files if the entry has no content.
        if header.kind == Kind::Directory || path.ends_with(b"/") {
            check_directory(&path, &self.wnid)?;
            if size > 0 {
                return Err(FramingError::Corrupt {
                    offset,
                    problem: "a directory with content",
                });
            }
        } else {
            let name = flat_name(&path, &self.wnid)?;
            name.clone_into(&mut self.name);
            check_limit(size, self.limits.file_bytes, "bytes in a file")?;
            self.bytes = self.bytes.saturating_add(size);
            check_limit(self.bytes, self.limits.total_bytes, "bytes in all files")?;
            self.begin_body(State::FileBegins, size);
        }
        self.extensions.clear();
        Ok(())
    }

    fn mark_end(&mut self, offset: u64) -> Result<(), FramingError> {
        if self.extensions.is_pending() {
            return Err(FramingError::Corrupt {
                offset,
                problem: "an extension header without an entry",
            });
        }
        if self.zero_block_seen {
            self.state = State::AfterEndMarker;
            self.remaining = self.limits.trailing_bytes;
        }
        self.zero_block_seen = true;
        Ok(())
    }

    fn check_trailing(&mut self, input: &mut &[u8]) -> Result<(), FramingError> {
        let zeros = input.iter().take_while(|byte| **byte == 0).count() as u64;
        let allowed = zeros.min(self.remaining);
        if allowed < input.len() as u64 {
            return Err(FramingError::TrailingData {
                offset: self.offset + allowed,
            });
        }
        self.take_remaining(input);
        Ok(())
    }
}

fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |any, byte| any | byte) == 0
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::{
        super::{extension::record, header::is_blank},
        *,
    };

    const WNID: &str = "n01440764";

    impl Framing {
        /// Reads a tar of class `wnid` from its first byte.
        pub(crate) fn new(wnid: &str, limits: Limits) -> Self {
            Self::resume(wnid, limits, 0, 0)
        }
    }

    /// A tar built by hand, so that it can contain any error.
    #[derive(Debug, Clone, Default)]
    struct Sample {
        bytes: Vec<u8>,
        headers: Vec<usize>,
    }

    impl Sample {
        fn header(mut self, header: &mut tar::Header) -> Self {
            header.set_cksum();
            self.headers.push(self.bytes.len());
            self.bytes.extend_from_slice(header.as_bytes());
            self
        }

        fn body(mut self, body: &[u8]) -> Self {
            self.bytes.extend_from_slice(body);
            self.bytes
                .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
            self
        }

        fn entry(self, flag: u8, path: &[u8], body: &[u8]) -> Self {
            self.header(&mut header(flag, path, body.len() as u64))
                .body(body)
        }

        fn file(self, name: &str, body: &[u8]) -> Self {
            self.entry(b'0', name.as_bytes(), body)
        }

        fn pax(self, records: &[(&str, &str)]) -> Self {
            let body: String = records
                .iter()
                .map(|(key, value)| record(key, value))
                .collect();
            self.entry(b'x', b"PaxHeaders/x", body.as_bytes())
        }

        fn long_name(self, name: &[u8]) -> Self {
            self.entry(b'L', b"././@LongLink", &[name, &[0]].concat())
        }

        fn end(mut self) -> Vec<u8> {
            self.bytes.extend_from_slice(&[0; 2 * BLOCK]);
            self.bytes
        }
    }

    fn header(flag: u8, path: &[u8], size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkflag = [flag];
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_350_244_992);
        header
    }

    /// An empty archive.
    fn tar() -> Sample {
        Sample::default()
    }

    /// The files and resume offsets that were read.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    struct Listing {
        files: Vec<(String, Vec<u8>)>,
        next_headers: Vec<u64>,
    }

    /// Feeds the pieces and asserts that events come in order and sizes are respected.
    fn feed<'pieces>(
        framing: &mut Framing,
        pieces: impl IntoIterator<Item = &'pieces [u8]>,
    ) -> Result<(Listing, u64), FramingError> {
        let mut listing = Listing::default();
        let mut missing = None;
        for mut piece in pieces {
            while let Some(event) = framing.next(&mut piece)? {
                match event {
                    Event::File { name, size } => {
                        assert_eq!(missing.replace(size), None);
                        listing.files.push((name.to_owned(), Vec::new()));
                    }
                    Event::Data(data) => {
                        assert!(!data.is_empty());
                        missing = Some(missing.unwrap() - data.len() as u64);
                        listing.files.last_mut().unwrap().1.extend_from_slice(data);
                    }
                    Event::FileEnd { next_header } => {
                        assert_eq!(missing.take(), Some(0));
                        listing.next_headers.push(next_header);
                    }
                }
            }
            assert!(piece.is_empty());
        }
        Ok((listing, framing.finish()?))
    }

    fn read(archive: &[u8]) -> Result<(Listing, u64), FramingError> {
        feed(&mut Framing::new(WNID, Limits::default()), [archive])
    }

    fn names(archive: &[u8]) -> Vec<String> {
        read(archive)
            .unwrap()
            .0
            .files
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    fn refusal(archive: &[u8]) -> FramingError {
        read(archive).unwrap_err()
    }

    /// The files that the reference reader (the `tar` crate) lists: the full paths of all entries
    /// but directories, with their content.
    fn reference(archive: &[u8]) -> std::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut files = Vec::new();
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            let path = entry.path_bytes().into_owned();
            let flag = entry.header().as_old().linkflag[0];
            let mut body = Vec::new();
            entry.read_to_end(&mut body)?;
            assert_eq!(entry.size(), body.len() as u64);
            if flag == b'5' || path.ends_with(b"/") {
                assert!(body.is_empty(), "a directory with content");
            } else {
                assert!(matches!(flag, 0 | b'0'));
                files.push((path, body));
            }
        }
        Ok(files)
    }

    /// The archive with the 0 written out in headers whose size has no digit, because the reference
    /// rejects those.
    fn with_sizes_in_digits(archive: &[u8]) -> Vec<u8> {
        let mut written_out = archive.to_vec();
        for block in written_out.as_chunks_mut::<BLOCK>().0 {
            let field: &mut [u8; 12] = (&mut block[124..136]).try_into().unwrap();
            if is_blank(field) && Header::read(block, 0).is_ok() {
                block[124..136].copy_from_slice(b"00000000000\0");
                set_checksum(block);
            }
        }
        written_out
    }

    /// Asserts that the reference lists the same files if the archive is accepted; returns whether
    /// it is accepted.
    fn agrees_with_the_reference(archive: &[u8]) -> bool {
        let Ok((listing, files)) = read(archive) else {
            return false;
        };
        let reference = reference(&with_sizes_in_digits(archive))
            .expect("the reference accepts what we accept");
        assert_eq!(listing.files.len(), reference.len());
        assert_eq!(files, reference.len() as u64);
        for ((name, body), (path, reference_body)) in listing.files.iter().zip(&reference) {
            let paths = [
                name.clone(),
                format!("./{name}"),
                format!("{WNID}/{name}"),
                format!("./{WNID}/{name}"),
            ];
            assert!(
                paths.iter().any(|expected| expected.as_bytes() == path),
                "{name} {}",
                path.escape_ascii()
            );
            assert!(body == reference_body, "{name}");
        }
        true
    }

    #[test]
    fn lists_files_with_their_content_and_resume_offsets() {
        let archive = tar()
            .file("a.JPEG", b"hello")
            .file("b.JPEG", b"")
            .file("c.JPEG", &[7; 512])
            .end();
        let (listing, files_in_tar) = read(&archive).unwrap();
        let files = [
            ("a.JPEG", &b"hello"[..]),
            ("b.JPEG", b""),
            ("c.JPEG", &[7; 512]),
        ];
        assert_eq!(
            listing.files,
            files.map(|(name, body)| (name.to_owned(), body.to_vec()))
        );
        assert_eq!(listing.next_headers, [1024, 1536, 2560]);
        assert_eq!(files_in_tar, 3);
        assert!(agrees_with_the_reference(&archive));
    }

    #[test]
    fn does_not_copy_file_data() {
        let archive = tar().file("a.JPEG", &[1; 700]).end();
        let mut framing = Framing::new(WNID, Limits::default());
        let mut input = archive.as_slice();
        assert_eq!(
            framing.next(&mut input),
            Ok(Some(Event::File {
                name: "a.JPEG",
                size: 700
            }))
        );
        let Some(Event::Data(data)) = framing.next(&mut input).unwrap() else {
            panic!("data follow")
        };
        assert_eq!(data.as_ptr_range(), archive[512..1212].as_ptr_range());
        assert_eq!(framing.offset(), 1212);
        assert_eq!(
            framing.next(&mut input),
            Ok(Some(Event::FileEnd { next_header: 1536 }))
        );
        assert_eq!(framing.next(&mut input), Ok(None));
        assert_eq!(framing.offset(), archive.len() as u64);
    }

    #[test]
    fn strips_the_folder_and_skips_its_entry() {
        for directory in ["./", ".", "n01440764/", "n01440764", "./n01440764/"] {
            let archive = tar()
                .entry(b'5', directory.as_bytes(), b"")
                .file("./n01440764/a", b"1")
                .file("b", b"")
                .end();
            assert_eq!(names(&archive), ["a", "b"], "{directory}");
            assert!(agrees_with_the_reference(&archive));
        }
    }

    #[test]
    fn reads_old_style_entries() {
        let mut directory = tar::Header::new_old();
        directory.as_old_mut().name[..10].copy_from_slice(b"n01440764/");
        directory.set_size(0);
        let mut file = tar::Header::new_old();
        file.as_old_mut().name.fill(b'a');
        file.set_size(1);
        let archive = tar()
            .header(&mut directory)
            .header(&mut file)
            .body(b"1")
            .entry(0, b"b", b"2")
            .end();
        assert_eq!(names(&archive), ["a".repeat(100).as_str(), "b"]);
        assert!(agrees_with_the_reference(&archive));
    }

    fn without_digits(flag: u8, path: &[u8], field: [u8; 12]) -> tar::Header {
        let mut header = header(flag, path, 0);
        header.as_old_mut().size = field;
        header
    }

    const SIZES_WITHOUT_DIGITS: [[u8; 12]; 2] = [[0; 12], *b"           \0"];

    #[test]
    fn an_empty_file_may_have_a_size_without_a_digit() {
        for (flag, field) in [0, b'0']
            .into_iter()
            .flat_map(|flag| SIZES_WITHOUT_DIGITS.map(|field| (flag, field)))
        {
            let mut empty = without_digits(flag, b"./empty.JPEG", field);
            let archive = tar()
                .file("a", b"1")
                .header(&mut empty)
                .file("b", b"2")
                .end();
            assert_eq!(names(&archive), ["a", "empty.JPEG", "b"]);
            assert!(agrees_with_the_reference(&archive));
            // Bytes after an empty file are not its content, but a header, here a damaged one.
            let archive = tar()
                .header(&mut empty)
                .body(&[b'x'; 600])
                .file("b", b"2")
                .end();
            assert!(matches!(
                refusal(&archive),
                FramingError::Corrupt { offset: 512, .. }
            ));
        }
        let mut sized = without_digits(b'0', b"a", [0; 12]);
        let archive = tar()
            .pax(&[("size", "5")])
            .header(&mut sized)
            .body(b"hello")
            .end();
        assert_eq!(
            read(&archive).unwrap().0.files,
            [("a".to_owned(), b"hello".to_vec())]
        );
        assert!(agrees_with_the_reference(&archive));
    }

    #[test]
    fn a_directory_may_be_an_empty_file_whose_name_ends_in_a_slash() {
        let sizes = SIZES_WITHOUT_DIGITS.into_iter().chain([*b"00000000000\0"]);
        for (field, flag) in sizes.flat_map(|field| [0, b'0', b'5'].map(|flag| (field, flag))) {
            for path in [&b"./"[..], b"n01440764/", b"./n01440764/"] {
                let mut directory = without_digits(flag, path, field);
                let plain = tar()
                    .header(&mut directory.clone())
                    .file("n01440764/a", b"1")
                    .end();
                let named_by_pax = tar().pax(&[("path", str::from_utf8(path).unwrap())]);
                let named_by_pax = named_by_pax
                    .header(&mut without_digits(flag, b"x", field))
                    .file("a", b"1")
                    .end();
                directory.as_old_mut().name[..path.len()].fill(0);
                let long = tar()
                    .long_name(path)
                    .header(&mut directory)
                    .file("a", b"1")
                    .end();
                for archive in [plain, named_by_pax, long] {
                    assert_eq!(names(&archive), ["a"]);
                    assert!(agrees_with_the_reference(&archive));
                }
            }
        }
        assert_eq!(
            refusal(&tar().entry(b'0', b"n01440764/", b"").end()),
            FramingError::EmptyArchive
        );
    }

    #[test]
    fn a_foreign_name_that_ends_in_a_slash_is_refused() {
        for (path, size) in [
            (&b"a.JPEG/"[..], 0),
            (b"a.JPEG/", 5),
            (b"n01440765/", 0),
            (b".//", 0),
            (b"n01440764//", 0),
        ] {
            for flag in [0, b'0', b'5'] {
                let error = refusal(
                    &tar()
                        .entry(flag, path, &vec![b'x'; size])
                        .file("a", b"")
                        .end(),
                );
                assert!(
                    matches!(error, FramingError::UnexpectedLayout { .. }),
                    "{} {error}",
                    path.escape_ascii()
                );
            }
        }
        for path in [
            &b"/"[..],
            b"//",
            b"///",
            b"/n01440764/",
            b"../",
            b"n01440764/../",
        ] {
            for flag in [0, b'0', b'5'] {
                let error = refusal(&tar().entry(flag, path, b"").file("a", b"").end());
                assert!(
                    matches!(error, FramingError::UnsafePath { .. }),
                    "{} {error}",
                    path.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn a_directory_with_content_or_of_another_name_is_refused() {
        for flag in [0, b'0', b'5'] {
            let error = refusal(&tar().entry(flag, b"./", b"x").file("a", b"").end());
            assert!(
                matches!(error, FramingError::Corrupt { offset: 0, .. }),
                "{error}"
            );
            let error = refusal(
                &tar()
                    .entry(flag, b"n01440764/sub/", b"")
                    .file("a", b"")
                    .end(),
            );
            assert!(
                matches!(error, FramingError::UnexpectedLayout { .. }),
                "{error}"
            );
            let error = refusal(&tar().entry(flag, b"../", b"").file("a", b"").end());
            assert!(matches!(error, FramingError::UnsafePath { .. }), "{error}");
        }
    }

    #[test]
    fn every_other_type_of_entry_is_refused() {
        for flag in 0..=u8::MAX {
            let result = read(
                &tar()
                    .file("a", b"")
                    .entry(flag, b"b", b"")
                    .file("c", b"")
                    .end(),
            );
            let message = result.map_or_else(|error| error.to_string(), |_| "accepted".to_owned());
            let expected = match flag {
                0 | b'0' | b'x' => "accepted",
                b'1' | b'2' | b'K' => "link entry \"b\"",
                b'3' | b'4' | b'6' | b'7' | b'M' | b'V' => {
                    "special entry \"b\": neither a file nor a directory"
                }
                b'S' => "sparse entry \"b\"",
                b'5' => "unexpected layout: \"b\" is not directly in the class's folder",
                b'L' => "unsafe path \"\": it names no file",
                other => {
                    let flag = other.escape_ascii();
                    assert_eq!(
                        message,
                        format!("unknown entry of type '{flag}', at byte 512")
                    );
                    continue;
                }
            };
            assert_eq!(message, expected, "{}", flag.escape_ascii());
        }
    }

    #[test]
    fn unsafe_paths_are_refused_in_every_field() {
        for path in ["../x", "/etc/x", "a/../../x", "C:\\x", "x\u{1b}[2J", ""] {
            let error = refusal(&tar().file(path, b"").end());
            assert!(matches!(error, FramingError::UnsafePath { .. }), "{error}");
            let error = refusal(&tar().pax(&[("path", path)]).file("a", b"").end());
            assert!(matches!(error, FramingError::UnsafePath { .. }), "{error}");
            let error = refusal(&tar().long_name(path.as_bytes()).file("a", b"").end());
            assert!(matches!(error, FramingError::UnsafePath { .. }), "{error}");
            assert!(error.to_string().is_ascii() && !error.to_string().contains('\u{1b}'));
        }
        for name in [&b"a\0b"[..], b"a\0", b"\xff"] {
            let error = refusal(&tar().long_name(name).file("a", b"").end());
            assert!(
                matches!(error, FramingError::UnsafePath { .. }),
                "{} {error}",
                name.escape_ascii()
            );
        }
        let error = refusal(&tar().pax(&[("path", "a\0b")]).file("a", b"").end());
        assert!(matches!(error, FramingError::UnsafePath { .. }), "{error}");
    }

    #[test]
    fn a_long_name_applies_to_the_next_entry_only() {
        let long = "x".repeat(200);
        let archive = tar()
            .long_name(format!("{WNID}/{long}").as_bytes())
            .file("short", b"1")
            .file("b", b"2")
            .end();
        assert_eq!(names(&archive), [long.as_str(), "b"]);
        assert!(agrees_with_the_reference(&archive));
        let unterminated = tar()
            .entry(b'L', b"././@LongLink", long.as_bytes())
            .file("short", b"1")
            .end();
        assert_eq!(names(&unterminated), [long.as_str()]);
    }

    #[test]
    fn pax_path_and_size_apply_to_the_next_entry_only() {
        let mut shrunk = header(b'0', b"short", 0);
        let archive = tar()
            .pax(&[("mtime", "1350244992.5"), ("path", "./long"), ("size", "5")])
            .header(&mut shrunk)
            .body(b"hello")
            .file("b", b"2")
            .end();
        let (listing, _) = read(&archive).unwrap();
        assert_eq!(
            listing.files,
            [
                ("long".to_owned(), b"hello".to_vec()),
                ("b".to_owned(), b"2".to_vec())
            ]
        );
        assert!(agrees_with_the_reference(&archive));
    }

    #[test]
    fn pax_size_and_long_name_combine_in_either_order() {
        let start = || header(b'0', b"short", 0);
        let pax_first = tar()
            .pax(&[("size", "1")])
            .long_name(b"long")
            .header(&mut start())
            .body(b"1")
            .end();
        let name_first = tar()
            .long_name(b"long")
            .pax(&[("size", "1")])
            .header(&mut start())
            .body(b"1")
            .end();
        for archive in [pax_first, name_first] {
            assert_eq!(names(&archive), ["long"]);
            assert!(agrees_with_the_reference(&archive));
        }
    }

    /// CVE-2025-62518: a reader that uses the header's size 0 parses the body as headers.
    #[test]
    fn a_tar_inside_a_file_is_not_read_as_entries() {
        let inner = tar().file("evil.JPEG", b"evil").end();
        let size = inner.len().to_string();
        let archive = tar()
            .pax(&[("size", &size)])
            .header(&mut header(b'0', b"a.JPEG", 0))
            .body(&inner)
            .end();
        assert_eq!(
            read(&archive).unwrap().0.files,
            [("a.JPEG".to_owned(), inner)]
        );
        assert!(agrees_with_the_reference(&archive));
    }

    /// CVE-2026-33055: a reader that uses the header's size instead of the PAX size continues at
    /// another offset.
    #[test]
    fn the_pax_size_takes_precedence_over_the_header_size() {
        let hidden = tar().file("evil.JPEG", b"").bytes;
        let mut small = header(b'0', b"a.JPEG", 512);
        let archive = tar()
            .pax(&[("size", "1024")])
            .header(&mut small)
            .body(&[1; 512])
            .body(&hidden)
            .end();
        assert_eq!(names(&archive), ["a.JPEG"]);
        assert!(agrees_with_the_reference(&archive));
    }

    #[test]
    fn extension_headers_precede_an_entry_and_do_not_repeat() {
        let sparse = refusal(
            &tar()
                .pax(&[("GNU.sparse.realsize", "1099511627776")])
                .file("a", b"")
                .end(),
        );
        assert!(
            matches!(sparse, FramingError::SparseEntry { .. }),
            "{sparse}"
        );
        for archive in [
            tar().file("a", b"").pax(&[("path", "b")]).end(),
            tar().file("a", b"").long_name(b"b").end(),
            tar()
                .pax(&[("path", "b")])
                .pax(&[("mtime", "1")])
                .file("a", b"")
                .end(),
            tar().long_name(b"b").long_name(b"b").file("a", b"").end(),
            tar()
                .long_name(b"b")
                .pax(&[("path", "b")])
                .file("a", b"")
                .end(),
            tar()
                .pax(&[("path", "b")])
                .long_name(b"b")
                .file("a", b"")
                .end(),
            tar()
                .pax(&[("path", "b"), ("path", "b")])
                .file("a", b"")
                .end(),
            tar()
                .pax(&[("size", "0"), ("size", "0")])
                .file("a", b"")
                .end(),
            tar().pax(&[("hdrcharset", "BINARY")]).file("a", b"").end(),
            tar().entry(b'x', b"x", b"9 path=b").file("a", b"").end(),
        ] {
            let error = refusal(&archive);
            assert!(matches!(error, FramingError::Corrupt { .. }), "{error}");
        }
    }

    #[test]
    fn a_huge_extension_header_is_refused_before_any_of_it_is_stored() {
        for (flag, size, limit) in [
            (b'x', 400 << 20, 65_536),
            (b'x', 65_537, 65_536),
            (b'L', 4097, 4096),
        ] {
            let bytes = tar().header(&mut header(flag, b"x", size)).bytes;
            let mut framing = Framing::new(WNID, Limits::default());
            let error = framing.next(&mut bytes.as_slice()).unwrap_err();
            assert_eq!(
                error,
                FramingError::LimitExceeded {
                    limit,
                    unit: "bytes in an extension header"
                }
            );
            assert!(format!("{:?}", framing.extensions).contains("body: [], path: None"));
        }
        let comment = "c".repeat(65_536 - 15);
        assert_eq!(
            names(&tar().pax(&[("comment", &comment)]).file("a", b"").end()),
            ["a"]
        );
    }

    #[test]
    fn limits_are_enforced() {
        let archive = tar()
            .entry(b'5', b"./", b"")
            .file("a", b"12")
            .file("b", b"34")
            .end();
        let limits = Limits {
            entries: 3,
            file_bytes: 2,
            total_bytes: 4,
            ..Limits::default()
        };
        assert!(feed(&mut Framing::new(WNID, limits), [archive.as_slice()]).is_ok());
        for (limits, limit, unit) in [
            (
                Limits {
                    entries: 2,
                    ..limits
                },
                2,
                "entries",
            ),
            (
                Limits {
                    file_bytes: 1,
                    ..limits
                },
                1,
                "bytes in a file",
            ),
            (
                Limits {
                    total_bytes: 3,
                    ..limits
                },
                3,
                "bytes in all files",
            ),
        ] {
            let error = feed(&mut Framing::new(WNID, limits), [archive.as_slice()]).unwrap_err();
            assert_eq!(error, FramingError::LimitExceeded { limit, unit });
        }
        let rest = tar().file("c", b"5").end();
        for (offset, is_within) in [(3, true), (4, false)] {
            let resumed = feed(
                &mut Framing::resume(WNID, limits, offset, 1),
                [rest.as_slice()],
            );
            assert_eq!(
                resumed.is_ok(),
                is_within,
                "the bytes before the offset count"
            );
        }
        assert_eq!(Limits::for_tar(None), Limits::default());
        assert_eq!(Limits::for_tar(Some(u64::MAX)), Limits::default());
        assert_eq!(Limits::for_tar(Some(10_240)).total_bytes, 10_240);
    }

    #[test]
    fn millions_of_empty_entries_are_refused_at_the_limit() {
        let entry = tar().file("a", b"").bytes;
        let mut framing = Framing::new(WNID, Limits::default());
        let error = feed(
            &mut framing,
            std::iter::repeat_n(entry.as_slice(), 10_000_000),
        )
        .unwrap_err();
        assert_eq!(
            error,
            FramingError::LimitExceeded {
                limit: 200_000,
                unit: "entries"
            }
        );
    }

    #[test]
    fn a_sum_of_sizes_cannot_overflow() {
        let limits = Limits {
            file_bytes: u64::MAX,
            ..Limits::default()
        };
        let archive = tar().header(&mut header(b'0', b"a", u64::MAX)).bytes;
        let error = feed(
            &mut Framing::resume(WNID, limits, 512, 1),
            [archive.as_slice()],
        )
        .unwrap_err();
        assert!(
            matches!(error, FramingError::LimitExceeded { .. }),
            "{error}"
        );
    }

    #[test]
    fn only_zeros_may_follow_the_end_marker() {
        let archive = tar().file("a", b"1").end();
        for zeros in [0, 1, 511, 8192, 1 << 20] {
            let padded = [archive.clone(), vec![0; zeros]].concat();
            assert!(read(&padded).is_ok(), "{zeros}");
            assert!(
                feed(
                    &mut Framing::new(WNID, Limits::default()),
                    padded.chunks(1000)
                )
                .is_ok()
            );
        }
        let offset = archive.len() as u64 + (1 << 20);
        let padded = [archive.clone(), vec![0; (1 << 20) + 1]].concat();
        assert_eq!(refusal(&padded), FramingError::TrailingData { offset });
        let chunks = feed(
            &mut Framing::new(WNID, Limits::default()),
            padded.chunks(1000),
        );
        assert_eq!(chunks.unwrap_err(), FramingError::TrailingData { offset });
        let second = [archive.clone(), vec![0; 100], archive.clone()].concat();
        assert_eq!(
            refusal(&second),
            FramingError::TrailingData {
                offset: archive.len() as u64 + 100
            }
        );
    }

    #[test]
    fn a_single_zero_block_is_corruption_and_not_the_end_marker() {
        let lone = tar().file("a", b"").body(&[0; 512]);
        assert_eq!(
            refusal(&lone.bytes).to_string(),
            "truncated archive: it ends at byte 1024, between entries, without the end marker"
        );
        let error = refusal(&lone.file("b", b"").end());
        assert_eq!(
            error,
            FramingError::Corrupt {
                offset: 1024,
                problem: "a lone zero block between entries"
            }
        );
        let error = refusal(&tar().body(&[0; 512]).file("b", b"").end());
        assert!(
            matches!(error, FramingError::Corrupt { offset: 512, .. }),
            "{error}"
        );
    }

    #[test]
    fn archives_without_files_are_empty() {
        for archive in [
            tar().bytes,
            tar().end(),
            tar().entry(b'5', b"./", b"").end(),
            vec![0; 10_240],
        ] {
            assert_eq!(refusal(&archive), FramingError::EmptyArchive);
        }
    }

    #[test]
    fn padding_that_is_not_zero_is_accepted() {
        let mut archive = tar().file("a", b"1").file("b", b"2").file("c", b"3").end();
        archive[513] = 1;
        archive[3071] = 1;
        for size in [1, 100, 10_000] {
            let (_, files) = feed(
                &mut Framing::new(WNID, Limits::default()),
                archive.chunks(size),
            )
            .unwrap();
            assert_eq!(files, 3);
        }
    }

    #[test]
    fn content_that_is_no_tar_is_identified() {
        let page = format!(
            "<!DOCTYPE html>\n<title>Log in \u{1b}[2J</title>{}",
            " ".repeat(600)
        );
        for bytes in [page.as_bytes(), &page.as_bytes()[..40]] {
            let error = refusal(bytes);
            assert!(error.is_not_a_tar() && !error.is_truncated());
            assert!(
                error
                    .to_string()
                    .starts_with("not a tar, it looks like an HTML page: \"<!DOCTYPE html>\\n<title>Log in \\x1b["),
                "{error}"
            );
        }
        let gzip = [&b"\x1f\x8b\x08\0\0\0\0\0\0\x03"[..], &[0xed; 1000]].concat();
        for bytes in [&gzip[..], &gzip[..10]] {
            assert!(
                refusal(bytes)
                    .to_string()
                    .contains("a gzip stream: compressed tar, not .tar")
            );
        }
        assert!(
            refusal(b"Too many requests")
                .to_string()
                .contains("something else: \"Too many requests\"")
        );
        assert!(refusal(&[0xff; 512]).is_not_a_tar());
    }

    #[test]
    fn a_damaged_header_is_reported_as_corruption() {
        for (entry, offset) in [(0, 0), (1, 512)] {
            let mut archive = tar().file("a", b"").file("b", b"").end();
            archive[entry * 512 + 1] ^= 1;
            let error = refusal(&archive);
            assert_eq!(
                error,
                FramingError::Corrupt {
                    offset,
                    problem: "the header's checksum does not match"
                }
            );
        }
    }

    #[test]
    fn every_truncation_is_an_error_with_its_offset() {
        let archive = tar()
            .file("a", &[1; 600])
            .long_name(b"b")
            .file("x", b"")
            .end();
        for length in 0..archive.len() {
            let expected = match length {
                0 => "empty archive: it holds no file".to_owned(),
                1 => "not a tar, it looks like something else: \"a\"".to_owned(),
                _ => format!(
                    "truncated archive: it ends at byte {length}, {}",
                    match length {
                        512..1112 => "inside a file",
                        1112..1536 | 2050..2560 => "inside padding",
                        1536 | 2560 | 3072 | 3584 => "between entries, without the end marker",
                        2048..2050 => "inside an extension header",
                        _ => "inside a header",
                    }
                ),
            };
            let error = refusal(&archive[..length]);
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.is_truncated(), length > 1);
        }
        assert!(read(&archive).is_ok());
    }

    #[test]
    fn resumes_at_every_next_header() {
        let archive = tar()
            .file("a", &[1; 600])
            .pax(&[("path", "long")])
            .file("b", b"")
            .file("c", &[3; 512])
            .end();
        let (whole, files) = read(&archive).unwrap();
        for (done, &offset) in (1..).zip(&whole.next_headers) {
            let mut framing = Framing::resume(
                WNID,
                Limits::for_tar(Some(archive.len() as u64)),
                offset,
                done as u64,
            );
            let rest = &archive[usize::try_from(offset).unwrap()..];
            let (listing, rest_files) = feed(&mut framing, [rest]).unwrap();
            assert_eq!(listing.files, whole.files[done..]);
            assert_eq!(listing.next_headers, whole.next_headers[done..]);
            assert_eq!(rest_files, files);
            assert_eq!(framing.offset(), archive.len() as u64);
        }
    }

    #[test]
    fn resumes_at_every_byte_within_a_file() {
        let body: Vec<u8> = (0..=255).cycle().take(700).collect();
        let archive = tar()
            .file("a", &[1; 600])
            .pax(&[("path", "long")])
            .file("b", &body)
            .file("c", &[3; 512])
            .end();
        let (whole, files) = read(&archive).unwrap();
        let begin = usize::try_from(whole.next_headers[1]).unwrap() - 1024;
        for written in 0..=body.len() {
            let limits = Limits::for_tar(Some(archive.len() as u64));
            let offset = (begin + written) as u64;
            let remaining = (body.len() - written) as u64;
            let mut framing =
                Framing::resume(WNID, limits, offset, 1).within_file(body.len() as u64, remaining);
            let mut rest = &archive[begin + written..];
            let mut data = Vec::new();
            let end = loop {
                match framing.next(&mut rest).unwrap() {
                    Some(Event::Data(more)) => data.extend_from_slice(more),
                    Some(Event::FileEnd { next_header }) => break next_header,
                    other => panic!("{other:?} within a file"),
                }
            };
            assert_eq!(
                (data.as_slice(), end),
                (&body[written..], whole.next_headers[1])
            );
            let (listing, rest_files) = feed(&mut framing, [rest]).unwrap();
            assert_eq!(
                (listing.files.as_slice(), rest_files),
                (&whole.files[2..], files)
            );
        }
    }

    fn set_checksum(block: &mut [u8]) {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }

    #[test]
    fn with_any_bit_of_a_header_flipped_an_accepted_listing_equals_the_references() {
        let sample = tar()
            .file("./a.JPEG", &[65; 600])
            .long_name(b"b")
            .file("x", b"2");
        let sample = sample
            .entry(0, b"n01440764/", b"")
            .pax(&[("path", "c"), ("size", "1")])
            .file("y", b"3");
        let archive = sample.clone().end();
        let mut accepted = 0;
        let mut refused = 0;
        for (start, field) in sample
            .headers
            .iter()
            .flat_map(|&start| (0..BLOCK).map(move |field| (start, field)))
        {
            for bit in 0..8 {
                let mut flipped = archive.clone();
                flipped[start + field] ^= 1 << bit;
                let is_checksum = (148..156).contains(&field);
                assert!(
                    !agrees_with_the_reference(&flipped) || is_checksum,
                    "byte {field} of {start}"
                );
                set_checksum(&mut flipped[start..][..BLOCK]);
                *(if agrees_with_the_reference(&flipped) {
                    &mut accepted
                } else {
                    &mut refused
                }) += 1;
            }
        }
        assert!(
            accepted > 10_000 && refused > 500,
            "{accepted} accepted, {refused} refused"
        );
    }

    /// The field that contains the path of a random entry.
    #[derive(Debug, Clone, Copy)]
    enum Writing {
        Plain,
        GnuLongName,
        Pax,
    }

    fn random_entries() -> impl Strategy<Value = Vec<(String, Vec<u8>, Writing)>> {
        let writing = prop_oneof![
            Just(Writing::Plain),
            Just(Writing::GnuLongName),
            Just(Writing::Pax)
        ];
        let size = prop_oneof![0..5_usize, 510..515_usize, 0..3000_usize];
        let body = (size, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]);
        let entry =
            ("[a-zé][a-z0-9_ .-]{0,70}", body, writing).prop_map(|(name, body, writing)| {
                match writing {
                    Writing::GnuLongName => (format!("{name}{}", "l".repeat(120)), body, writing),
                    Writing::Plain | Writing::Pax => (name, body, writing),
                }
            });
        vec(entry, 1..8)
    }

    fn build(entries: &[(String, Vec<u8>, Writing)], prefix: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, body, writing) in entries {
            let path = format!("{prefix}{name}");
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            let path = match writing {
                Writing::Plain | Writing::GnuLongName => path,
                Writing::Pax => {
                    let size = body.len().to_string();
                    let records = [
                        ("mtime", &b"1.5"[..]),
                        ("size", size.as_bytes()),
                        ("path", path.as_bytes()),
                    ];
                    builder.append_pax_extensions(records).unwrap();
                    "PaxHeader".to_owned()
                }
            };
            builder
                .append_data(&mut header, path, body.as_slice())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    proptest! {
        #[test]
        fn the_listing_does_not_depend_on_the_pieces(
            entries in random_entries(),
            prefix in prop_oneof![Just(""), Just("./"), Just("n01440764/"), Just("./n01440764/")],
            slices in vec(1..=1025_usize, 1..20),
        ) {
            let archive = build(&entries, prefix);
            let (whole, files) = read(&archive).unwrap();
            let expected: Vec<_> = entries.into_iter().map(|(name, body, _)| (name, body)).collect();
            prop_assert_eq!(&whole.files, &expected);
            prop_assert!(agrees_with_the_reference(&archive));
            let mut rest = archive.as_slice();
            let mut pieces = Vec::new();
            for size in slices.into_iter().cycle() {
                let (piece, behind) = rest.split_at(size.min(rest.len()));
                pieces.push(piece);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            for pieces in [archive.chunks(1).collect(), archive.chunks(512).collect(), pieces] {
                let sliced = feed(&mut Framing::new(WNID, Limits::default()), pieces).unwrap();
                prop_assert_eq!(&sliced, &(whole.clone(), files));
            }
        }

        #[test]
        fn resumes_at_any_file_of_any_archive(entries in random_entries(), chosen in any::<Index>()) {
            let archive = build(&entries, "");
            let (whole, files) = read(&archive).unwrap();
            let done = chosen.index(entries.len());
            let offset = whole.next_headers[done];
            let mut framing = Framing::resume(WNID, Limits::default(), offset, done as u64 + 1);
            let (rest, rest_files) = feed(&mut framing, archive[usize::try_from(offset).unwrap()..].chunks(700)).unwrap();
            prop_assert_eq!(&rest.files, &whole.files[done + 1..]);
            prop_assert_eq!(rest_files, files);
        }

        #[test]
        fn any_truncation_of_any_archive_is_an_error(entries in random_entries(), cut in any::<Index>()) {
            let archive = build(&entries, "./");
            prop_assert!(read(&archive[..cut.index(archive.len())]).is_err());
        }
    }

    /// A change to one block of an archive.
    #[derive(Debug, Clone)]
    enum Change {
        Set { field: usize, value: u8 },
        SetText { field: usize, text: &'static [u8] },
        Duplicate,
        Remove,
        Clear,
    }

    fn random_change() -> impl Strategy<Value = Change> {
        let fields = prop_oneof![
            0..20_usize,
            124..136_usize,
            148..158_usize,
            257..265_usize,
            345..360_usize,
            0..512_usize
        ];
        let values = prop_oneof![
            any::<u8>(),
            (0..21_usize).prop_map(|index| b"\0 01257xgLKS=/.\\+-\n\xff\x80"[index])
        ];
        let texts = prop::sample::select(vec![
            &b"../"[..],
            b"./",
            b"/",
            b"n01440764/",
            b"size=",
            b"path=",
            b"=",
            b"\n",
            b"19 path=evil\n",
            b"\n12 path=evil\n",
            b"00000001000\0",
            b"\0\0\0\0\0\0\0\0\0\0\0\0",
            b"           \0",
            b"\x80\0\0\0\0\0\0\0\0\0\x02\0",
            b"\xff\xff\xff\xff",
            b"ustar\x0000",
            b"ustar  \0",
            b"+9 ",
            b"09 ",
        ]);
        prop_oneof![
            8 => (fields.clone(), values).prop_map(|(field, value)| Change::Set { field, value }),
            4 => (prop_oneof![Just(0_usize), Just(124), 0..40_usize, fields], texts)
                .prop_map(|(field, text)| Change::SetText { field, text }),
            1 => Just(Change::Duplicate),
            1 => Just(Change::Remove),
            1 => Just(Change::Clear),
        ]
    }

    fn apply(archive: &mut Vec<u8>, chosen: Index, change: &Change, mend_checksum: bool) {
        let Some(blocks) = archive
            .len()
            .checked_div(BLOCK)
            .filter(|&blocks| blocks > 0)
        else {
            return;
        };
        let start = chosen.index(blocks) * BLOCK;
        let block = start..start + BLOCK;
        let is_header = tar::Header::from_byte_slice(&archive[block.clone()])
            .cksum()
            .is_ok_and(|sum| sum > 0);
        match *change {
            Change::Set { field, value } => archive[start + field] = value,
            Change::SetText { field, text } => {
                let end = (field + text.len()).min(BLOCK);
                archive[start + field..start + end].copy_from_slice(&text[..end - field]);
            }
            Change::Duplicate => archive.extend_from_within(block.clone()),
            Change::Remove => drop(archive.drain(block)),
            Change::Clear => archive[block].fill(0),
        }
        if mend_checksum
            && is_header
            && matches!(change, Change::Set { .. } | Change::SetText { .. })
        {
            set_checksum(&mut archive[start..][..BLOCK]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// Compares with the reference, except for archives in which a header may have the checksum
        /// of signed bytes, which the reference does not support.
        #[test]
        fn an_accepted_damaged_archive_is_listed_alike_by_the_reference(
            sizes in vec(0..1500_usize, 1..5),
            changes in vec((any::<Index>(), random_change(), prop::bool::weighted(0.9)), 1..4),
        ) {
            let mut sample = tar().entry(b'5', b"./", b"");
            for (index, &size) in sizes.iter().enumerate() {
                let name = format!("n01440764/{index}.JPEG");
                let body = vec![b'a'; size];
                sample = match index % 3 {
                    0 => sample.file(&name, &body),
                    1 => sample.pax(&[("mtime", "1.5"), ("size", &size.to_string()), ("path", &name)]).entry(0, b"p", &body),
                    _ => sample.long_name(name.as_bytes()).file("l", &body),
                };
            }
            let mut archive = sample.end();
            for (chosen, change, mend_checksum) in &changes {
                apply(&mut archive, *chosen, change, *mend_checksum);
            }
            let signed_checksum_possible = !archive.is_ascii() && changes.iter().any(|(_, _, mended)| !mended);
            if !signed_checksum_possible {
                agrees_with_the_reference(&archive);
            }
        }
    }
}

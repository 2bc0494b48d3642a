//! Contents that the origin serves: bytes in memory, a file, or a tar that is generated on reading.

use std::{
    fs::File,
    io::{self, Read as _},
    net::TcpStream,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use crate::{
    archives::{BLOCK, RECORD},
    raw_tar::Entry,
};

/// Bytes of known length with random access.
pub trait Content: Send + Sync {
    /// Length in bytes.
    fn length(&self) -> u64;

    /// Reads at least one byte from `offset` on; 0 at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends `count` bytes from `offset` on.
    fn send(&self, offset: u64, count: usize, to: &TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.read_at(offset + filled as u64, &mut buffer[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        io::Write::write_all(&mut &*to, &buffer)
    }

    /// All bytes; only for contents that fit into memory.
    fn to_vec(&self) -> Vec<u8> {
        let mut bytes =
            vec![0; usize::try_from(self.length()).expect("the content fits into memory")];
        let mut filled = 0;
        while filled < bytes.len() {
            let read = self
                .read_at(filled as u64, &mut bytes[filled..])
                .expect("the content can be read");
            assert!(read > 0, "the content is shorter than its length");
            filled += read;
        }
        bytes
    }
}

impl Content for Vec<u8> {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..))
            .unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn send(&self, offset: u64, count: usize, to: &TcpStream) -> io::Result<()> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..))
            .unwrap_or_default();
        io::Write::write_all(
            &mut &*to,
            rest.get(..count).ok_or(io::ErrorKind::UnexpectedEof)?,
        )
    }
}

impl<T: Content + ?Sized> Content for Arc<T> {
    fn length(&self) -> u64 {
        (**self).length()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read_at(offset, buffer)
    }

    fn send(&self, offset: u64, count: usize, to: &TcpStream) -> io::Result<()> {
        (**self).send(offset, count, to)
    }
}

/// A file on disk; no part of it is kept in memory.
#[derive(Debug)]
pub struct OnDisk {
    file: File,
    length: u64,
}

impl OnDisk {
    /// Opens a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }
}

impl Content for OnDisk {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    /// Uses `sendfile`, so that a benchmark measures the client and not this origin.
    #[cfg(target_os = "linux")]
    fn send(&self, mut offset: u64, count: usize, to: &TcpStream) -> io::Result<()> {
        let end = offset + count as u64;
        while offset < end {
            let left = usize::try_from(end - offset).expect("at most `count`");
            if rustix::fs::sendfile(to, &self.file, Some(&mut offset), left)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// A part of a content that is generated on reading.
#[derive(Debug, Clone)]
pub enum Segment {
    /// These bytes.
    Bytes(Vec<u8>),
    /// One byte, repeated.
    Fill {
        /// The byte.
        byte: u8,
        /// Number of repetitions.
        length: u64,
    },
    /// Pseudo-random bytes, determined by the seed.
    Pattern {
        /// Chooses the bytes.
        seed: u64,
        /// Number of bytes.
        length: u64,
    },
    /// Headers of empty files, each with another name.
    EmptyFiles {
        /// Number of files.
        count: u64,
    },
}

impl Segment {
    fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Fill { length, .. } | Self::Pattern { length, .. } => *length,
            Self::EmptyFiles { count } => count * BLOCK as u64,
        }
    }

    /// Fills the buffer, which must not reach beyond the segment's end.
    fn fill(&self, offset: u64, buffer: &mut [u8]) {
        match self {
            Self::Bytes(bytes) => {
                let offset = usize::try_from(offset).expect("the segment is in memory");
                buffer.copy_from_slice(&bytes[offset..offset + buffer.len()]);
            }
            Self::Fill { byte, .. } => buffer.fill(*byte),
            Self::Pattern { seed, .. } => fill_with_pattern(*seed, offset, buffer),
            Self::EmptyFiles { .. } => fill_with_headers(offset, buffer),
        }
    }
}

/// Eight bytes at a time from a mixing function (splitmix64), which gives random access without the
/// bytes before.
fn fill_with_pattern(seed: u64, offset: u64, buffer: &mut [u8]) {
    let mut position = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let mut word = seed
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(position / 8);
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let bytes = (word ^ (word >> 31)).to_le_bytes();
        let skip = usize::try_from(position % 8).expect("below eight");
        let count = rest.len().min(8 - skip);
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&bytes[skip..skip + count]);
        position += count as u64;
        rest = later;
    }
}

/// Only the digits of the name differ between headers, so the checksum is the template's plus the
/// digits' sum.
fn fill_with_headers(offset: u64, buffer: &mut [u8]) {
    const DIGITS: usize = 12;
    let template = Entry::file("e_000000000000", b"").header();
    let zeros = u32::from(b'0') * u32::try_from(DIGITS).expect("a small number");
    let stated = std::str::from_utf8(&template[148..154]).expect("octal digits");
    let base = u32::from_str_radix(stated, 8).expect("octal digits") - zeros;
    let mut position = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let mut header = template;
        let digits = format!("{:0DIGITS$}", position / BLOCK as u64);
        header[2..2 + DIGITS].copy_from_slice(digits.as_bytes());
        let sum = base + digits.bytes().map(u32::from).sum::<u32>();
        header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        let skip = usize::try_from(position % BLOCK as u64).expect("below a block");
        let count = rest.len().min(BLOCK - skip);
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&header[skip..skip + count]);
        position += count as u64;
        rest = later;
    }
}

/// A sequence of segments.
#[derive(Debug, Clone)]
pub struct Segments {
    segments: Vec<Segment>,
    /// End offset of each segment.
    ends: Vec<u64>,
}

impl Segments {
    /// Concatenates segments.
    pub fn new(segments: Vec<Segment>) -> Self {
        let ends = segments
            .iter()
            .scan(0_u64, |end, segment| {
                *end = end.saturating_add(segment.length());
                Some(*end)
            })
            .collect();
        Self { segments, ends }
    }

    /// Appends the two zero blocks that end a tar, and pads to a whole record.
    #[must_use]
    pub fn with_end_marker(self) -> Self {
        let length = self.length();
        let whole = (length + 2 * BLOCK as u64).next_multiple_of(RECORD as u64);
        let mut segments = self.segments;
        segments.push(Segment::Fill {
            byte: 0,
            length: whole - length,
        });
        Self::new(segments)
    }
}

impl Content for Segments {
    fn length(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        let mut index = self.ends.partition_point(|end| *end <= offset);
        while filled < buffer.len() && index < self.segments.len() {
            let start = if index == 0 { 0 } else { self.ends[index - 1] };
            let position = offset + filled as u64;
            let left = usize::try_from(self.ends[index] - position).unwrap_or(usize::MAX);
            let count = left.min(buffer.len() - filled);
            self.segments[index].fill(position - start, &mut buffer[filled..filled + count]);
            filled += count;
            index += 1;
        }
        Ok(filled)
    }
}

/// Reads a content from its beginning to its end.
#[derive(Debug)]
pub struct Reader<'content, C: ?Sized> {
    content: &'content C,
    offset: u64,
}

impl<'content, C: Content + ?Sized> Reader<'content, C> {
    /// A reader at the beginning.
    pub fn new(content: &'content C) -> Self {
        Self { content, offset: 0 }
    }
}

impl<C: Content + ?Sized> io::Read for Reader<'_, C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read_at(self.offset, buffer)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Panics unless a file holds exactly the content, which need not fit into memory.
#[track_caller]
pub fn assert_same(content: &(impl Content + ?Sized), file: impl io::Read) {
    assert!(
        same(Reader::new(content), file).expect("both can be read"),
        "the file is not the content"
    );
}

/// Whether two readers yield the same bytes.
pub(crate) fn same(mut one: impl io::Read, mut other: impl io::Read) -> io::Result<bool> {
    const CHUNK: usize = 256 << 10;
    let mut left = Vec::with_capacity(CHUNK);
    let mut right = Vec::with_capacity(CHUNK);
    loop {
        left.clear();
        right.clear();
        one.by_ref().take(CHUNK as u64).read_to_end(&mut left)?;
        other.by_ref().take(CHUNK as u64).read_to_end(&mut right)?;
        if left != right || left.is_empty() {
            return Ok(left == right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_headers_are_valid() {
        let tar = Segments::new(vec![Segment::EmptyFiles { count: 1000 }])
            .with_end_marker()
            .to_vec();
        let files = crate::archives::files(&tar);
        assert_eq!(files.len(), 1000);
        assert!(files.contains_key("e_000000000999"));
    }

    #[test]
    fn a_pattern_does_not_depend_on_how_it_is_read() {
        let mut whole = [0; 64];
        fill_with_pattern(3, 0, &mut whole);
        let mut part = [0; 20];
        fill_with_pattern(3, 13, &mut part);
        assert_eq!(whole[13..33], part);
    }
}

//! Malformed and unusual tars: any type, size and name, with a correct or wrong checksum.

use crate::archives::{BLOCK, pad_to_record};

/// One header and its contents.
#[derive(Debug, Clone)]
pub struct Entry {
    name: Vec<u8>,
    kind: u8,
    body: Vec<u8>,
    size_field: [u8; 12],
    link: Vec<u8>,
    prefix: Vec<u8>,
    mode: u32,
    owner: u32,
    checksum_off_by: u32,
    gnu: bool,
    at_345: Option<Vec<u8>>,
}

impl Entry {
    /// An entry of any type.
    pub fn of_kind(kind: u8, name: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            kind,
            body: Vec::new(),
            size_field: octal(0),
            link: Vec::new(),
            prefix: Vec::new(),
            mode: 0o644,
            owner: 1000,
            checksum_off_by: 0,
            gnu: false,
            at_345: None,
        }
    }

    /// A regular file.
    pub fn file(name: impl AsRef<[u8]>, body: &[u8]) -> Self {
        Self::of_kind(b'0', name).with_body(body)
    }

    /// A folder.
    pub fn folder(name: impl AsRef<[u8]>) -> Self {
        Self::of_kind(b'5', name).mode(0o755)
    }

    /// A symbolic link.
    pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::of_kind(b'2', name).link_to(target)
    }

    /// A hard link.
    pub fn hard_link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::of_kind(b'1', name).link_to(target)
    }

    /// A PAX extension header for the next entry.
    pub fn pax(records: &[(&str, &str)]) -> Self {
        Self::of_kind(b'x', "PaxHeaders.0/x").with_body(&pax_records(records))
    }

    /// A PAX extension header for all entries that follow.
    pub fn global_pax(records: &[(&str, &str)]) -> Self {
        Self::of_kind(b'g', "GlobalHead.0.0").with_body(&pax_records(records))
    }

    /// GNU's header with a long name for the next entry.
    pub fn long_name(name: impl AsRef<[u8]>) -> Self {
        let mut body = name.as_ref().to_vec();
        body.push(0);
        Self::of_kind(b'L', "././@LongLink").with_body(&body).gnu()
    }

    /// GNU's old sparse format: one stored byte that claims to be a file of `real_size` bytes.
    pub fn sparse(name: impl AsRef<[u8]>, real_size: u64) -> Self {
        let mut tail = vec![0; 167];
        // atime, ctime, offset, longnames and a pad byte precede the first sparse piece at offset
        // 386.
        tail[41..53].copy_from_slice(&octal_or_base_256(real_size - 1));
        tail[53..65].copy_from_slice(&octal(1));
        tail[138..150].copy_from_slice(&octal_or_base_256(real_size));
        let mut entry = Self::of_kind(b'S', name).with_body(b"x").gnu();
        entry.at_345 = Some(tail);
        entry
    }

    /// Sets the contents and the size.
    #[must_use]
    pub fn with_body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self.size_field = octal(body.len() as u64);
        self
    }

    /// Sets a size that may differ from that of the contents.
    #[must_use]
    pub fn stating_size(mut self, size: u64) -> Self {
        self.size_field = octal_or_base_256(size);
        self
    }

    /// Sets the raw bytes of the size field.
    #[must_use]
    pub fn with_size_field(mut self, field: [u8; 12]) -> Self {
        self.size_field = field;
        self
    }

    /// Sets the target of a link.
    #[must_use]
    pub fn link_to(mut self, target: impl AsRef<[u8]>) -> Self {
        self.link = target.as_ref().to_vec();
        self
    }

    /// Sets the ustar prefix, which readers put before the name with a slash.
    #[must_use]
    pub fn prefix(mut self, prefix: impl AsRef<[u8]>) -> Self {
        self.prefix = prefix.as_ref().to_vec();
        self
    }

    /// Sets the permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets user and group.
    #[must_use]
    pub fn owner(mut self, id: u32) -> Self {
        self.owner = id;
        self
    }

    /// Makes the checksum wrong.
    #[must_use]
    pub fn with_wrong_checksum(mut self) -> Self {
        self.checksum_off_by = 1;
        self
    }

    /// Uses GNU's magic instead of ustar's.
    #[must_use]
    pub fn gnu(mut self) -> Self {
        self.gnu = true;
        self
    }

    /// The header block alone.
    pub fn header(&self) -> [u8; BLOCK] {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, format!("{:07o}\0", self.owner).as_bytes());
        put(116, format!("{:07o}\0", self.owner).as_bytes());
        put(124, &self.size_field);
        put(136, &octal(1_300_000_000));
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(
            257,
            if self.gnu {
                b"ustar  \0"
            } else {
                b"ustar\x0000"
            },
        );
        put(345, self.at_345.as_deref().unwrap_or(&self.prefix));
        let sum = header.iter().map(|byte| u32::from(*byte)).sum::<u32>() + self.checksum_off_by;
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    fn write_to(&self, tar: &mut Vec<u8>) {
        tar.extend_from_slice(&self.header());
        tar.extend_from_slice(&self.body);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
}

/// A tar of these entries with an end marker, padded to a record.
pub fn tar_of(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut tar = without_end_marker(entries);
    tar.resize(tar.len() + 2 * BLOCK, 0);
    pad_to_record(&mut tar);
    tar
}

/// A tar of these entries without an end marker.
pub fn without_end_marker(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut tar = Vec::new();
    for entry in entries {
        entry.write_to(&mut tar);
    }
    tar
}

/// `<length> <key>=<value>\n`, where the length includes its own digits.
fn pax_records(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length = length.to_string().len() + rest;
        }
        body.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
    }
    body
}

fn octal(number: u64) -> [u8; 12] {
    let text = format!("{number:011o}\0");
    text.as_bytes()
        .try_into()
        .expect("sizes of this form are below 8 GiB")
}

fn octal_or_base_256(number: u64) -> [u8; 12] {
    if number < 1 << 33 {
        return octal(number);
    }
    let mut field = [0; 12];
    field[0] = 0x80;
    field[4..].copy_from_slice(&number.to_be_bytes());
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archives::files;

    #[test]
    fn a_well_formed_tar_reads_back() {
        let tar = tar_of([
            Entry::pax(&[("path", "long.JPEG")]),
            Entry::file("a", b"abc"),
            Entry::file("b", b""),
        ]);
        let files = files(&tar);
        assert_eq!(files["long.JPEG"], b"abc");
        assert_eq!(files["b"], b"");
    }

    #[test]
    fn malformed_headers_have_the_intended_fields() {
        let header = |entry: &Entry| tar::Header::from_byte_slice(&entry.header()).clone();
        assert_eq!(
            header(&Entry::file("a", b"").stating_size(1 << 40))
                .entry_size()
                .unwrap(),
            1 << 40
        );
        let sparse = header(&Entry::sparse("a", 1 << 32));
        assert_eq!(sparse.as_gnu().unwrap().real_size().unwrap(), 1 << 32);
        assert_eq!(sparse.as_gnu().unwrap().sparse[0].length().unwrap(), 1);
        let link = header(&Entry::symlink("a", "/etc/passwd"));
        assert_eq!(link.link_name_bytes().unwrap().as_ref(), b"/etc/passwd");
    }
}

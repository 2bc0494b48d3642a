//! Well-formed tars like those of ImageNet: flat, GNU headers, records of 10,240 bytes. The same
//! seed gives the same tar.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    ops::Range,
    path::Path,
};

use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

use crate::content::{Content, Reader, Segment, Segments, same};

/// GNU tar pads an archive to whole records of twenty blocks. Bytes.
pub const RECORD: usize = 10_240;
/// Size in bytes of a tar block: headers and contents begin at multiples of it.
pub const BLOCK: usize = 512;
/// Name of the manifest that the programs write into a class folder.
pub const MANIFEST: &str = ".manifest.json";

/// The tar of a class: `count` files `<wnid>_<n>.JPEG` with sizes in `sizes`.
pub fn images(wnid: &str, count: usize, sizes: Range<usize>, seed: u64) -> Vec<u8> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut builder = tar::Builder::new(Vec::new());
    for number in 1..=count {
        let mut image = vec![0; random.random_range(sizes.clone())];
        random.fill_bytes(&mut image);
        let magic = [0xFF, 0xD8, 0xFF, 0xE0];
        let length = magic.len().min(image.len());
        image[..length].copy_from_slice(&magic[..length]);
        let mut header = gnu_header(image.len() as u64);
        builder
            .append_data(
                &mut header,
                format!("{wnid}_{number}.JPEG"),
                image.as_slice(),
            )
            .expect("writing to a vector does not fail");
    }
    let mut tar = builder
        .into_inner()
        .expect("writing to a vector does not fail");
    pad_to_record(&mut tar);
    tar
}

/// A tar too large for memory: `count` files of `size` bytes each, generated on reading.
pub fn streamed_images(wnid: &str, count: u64, size: u64, seed: u64) -> Segments {
    let mut segments = Vec::new();
    for number in 1..=count {
        let mut header = gnu_header(size);
        header
            .set_path(format!("{wnid}_{number}.JPEG"))
            .expect("the name fits the header");
        header.set_cksum();
        segments.push(Segment::Bytes(header.as_bytes().to_vec()));
        segments.push(Segment::Pattern {
            seed: seed.wrapping_add(number),
            length: size,
        });
        segments.push(Segment::Fill {
            byte: 0,
            length: size.next_multiple_of(BLOCK as u64) - size,
        });
    }
    Segments::new(segments).with_end_marker()
}

/// Appends zero bytes up to the end of the record.
pub fn pad_to_record(tar: &mut Vec<u8>) {
    tar.resize(tar.len().next_multiple_of(RECORD), 0);
}

/// The files of a well-formed tar, by name.
pub fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("the tar is well-formed");
    entries
        .map(|entry| entry.expect("the tar is well-formed"))
        .filter(|entry| entry.header().entry_type().is_file())
        .map(|mut entry| {
            let name = entry
                .path()
                .expect("the tar is well-formed")
                .to_string_lossy()
                .into_owned();
            let mut bytes = Vec::new();
            entry
                .read_to_end(&mut bytes)
                .expect("the tar is well-formed");
            (
                name.rsplit('/').next().unwrap_or_default().to_owned(),
                bytes,
            )
        })
        .collect()
}

/// The first difference between a folder and the tar's files in names or bytes; a manifest is
/// allowed.
pub fn difference(tar: &[u8], folder: &Path) -> Option<String> {
    let mut missing = files(tar);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return Some(format!("{}: {error}", folder.display())),
    };
    for entry in entries {
        let entry = entry.expect("the folder can be listed");
        let name = entry.file_name().to_string_lossy().into_owned();
        match missing.remove(&name) {
            None if name == MANIFEST => {}
            None => return Some(format!("{name} is not in the tar")),
            Some(expected) => match std::fs::read(entry.path()) {
                Ok(found) if found == expected => {}
                Ok(found) => {
                    return Some(format!(
                        "{name} differs ({} of {} bytes)",
                        found.len(),
                        expected.len()
                    ));
                }
                Err(error) => return Some(format!("{name}: {error}")),
            },
        }
    }
    missing
        .keys()
        .next()
        .map(|name| format!("{name} and {} more are missing", missing.len() - 1))
}

/// Panics unless the folder holds exactly the tar's files, and at most a manifest in addition.
#[track_caller]
pub fn assert_class_is(tar: &[u8], folder: &Path) {
    if let Some(difference) = difference(tar, folder) {
        panic!("{} differs from its tar: {difference}", folder.display());
    }
}

/// Like [`assert_class_is`], for a tar that need not fit into memory.
#[track_caller]
pub fn assert_streamed_class_is(tar: &(impl Content + ?Sized), folder: &Path) {
    let mut archive = tar::Archive::new(Reader::new(tar));
    let mut names = BTreeSet::from([MANIFEST.to_owned()]);
    for entry in archive.entries().expect("the tar is well-formed") {
        let entry = entry.expect("the tar is well-formed");
        let name = entry
            .path()
            .expect("the tar is well-formed")
            .to_string_lossy()
            .into_owned();
        let path = folder.join(&name);
        let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(
            same(entry, file).expect("both can be read"),
            "{} differs from its tar",
            path.display()
        );
        names.insert(name);
    }
    for entry in std::fs::read_dir(folder).expect("the folder can be listed") {
        let name = entry
            .expect("the folder can be listed")
            .file_name()
            .to_string_lossy()
            .into_owned();
        assert!(
            names.contains(&name),
            "{name} is not in the tar of {}",
            folder.display()
        );
    }
}

/// Unpacks a well-formed tar as `tar -x` does: the files, and no manifest.
pub fn unpack_by_hand(tar: &[u8], folder: &Path) {
    std::fs::create_dir_all(folder).expect("the folder can be made");
    for (name, bytes) in files(tar) {
        std::fs::write(folder.join(name), bytes).expect("the file can be written");
    }
}

fn gnu_header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(1000);
    header.set_gid(1000);
    header.set_mtime(1_300_000_000);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Content;

    #[test]
    fn the_same_seed_gives_the_same_tar_in_whole_records() {
        let tar = images("n00000001", 5, 0..3000, 7);
        assert_eq!(tar, images("n00000001", 5, 0..3000, 7));
        assert_ne!(tar, images("n00000001", 5, 0..3000, 8));
        assert_eq!(tar.len() % RECORD, 0);
        assert!(files(&tar).contains_key("n00000001_5.JPEG"));
    }

    #[test]
    fn a_streamed_tar_reads_the_same_from_any_place() {
        let streamed = streamed_images("n00000001", 3, 700, 1);
        let whole = streamed.to_vec();
        assert_eq!(whole.len() % RECORD, 0);
        assert_eq!(files(&whole).len(), 3);
        for offset in [0, 1, 511, 512, 1211, 1212, 1537, whole.len() - 1] {
            let mut part = vec![0; 600];
            let read = streamed.read_at(offset as u64, &mut part).unwrap();
            assert!(read > 0);
            assert_eq!(part[..read], whole[offset..offset + read]);
        }
    }

    #[test]
    fn every_difference_is_detected() {
        let tar = images("n00000001", 3, 10..20, 1);
        let folder = tempfile::tempdir().unwrap();
        unpack_by_hand(&tar, folder.path());
        std::fs::write(folder.path().join(MANIFEST), "{}").unwrap();
        assert_class_is(&tar, folder.path());
        let victim = folder.path().join("n00000001_2.JPEG");
        let bytes = std::fs::read(&victim).unwrap();
        std::fs::write(&victim, &bytes[1..]).unwrap();
        assert!(difference(&tar, folder.path()).is_some_and(|text| text.contains("differs")));
        std::fs::remove_file(&victim).unwrap();
        assert!(difference(&tar, folder.path()).is_some_and(|text| text.contains("missing")));
        std::fs::write(folder.path().join("stray"), "").unwrap();
        assert!(
            difference(&tar, folder.path()).is_some_and(|text| text.contains("not in the tar"))
        );
    }

    #[test]
    #[should_panic(expected = "n00000001_2.JPEG differs from its tar")]
    fn a_difference_from_a_tar_that_is_streamed_is_seen() {
        let tar = streamed_images("n00000001", 3, 700, 1);
        let folder = tempfile::tempdir().unwrap();
        unpack_by_hand(&tar.to_vec(), folder.path());
        assert_streamed_class_is(&tar, folder.path());
        let victim = folder.path().join("n00000001_2.JPEG");
        let mut bytes = std::fs::read(&victim).unwrap();
        bytes[699] ^= 1;
        std::fs::write(&victim, &bytes).unwrap();
        assert_streamed_class_is(&tar, folder.path());
    }
}

use std::{fs, ops::Range, path::PathBuf, time::Duration};

use tempfile::TempDir;
use tokio::time::{advance, timeout};

use super::*;
use crate::{
    fetch::resume::{Checkpoint, take_over},
    storage::{
        part_file::{PartWriter, Version, name},
        target::Target,
    },
};

const URL: &str = "http://origin/n00000001.tar";
/// Length of the long file in bytes: enough for several journal lines for its partial content.
const LONG: usize = 20 << 20;
/// Size of the pieces in which bytes arrive from the network.
const PIECE: usize = 100_000;
/// Distance between two journal lines for a partial file, plus one piece.
const INTERVAL: u64 = (8 << 20) + PIECE as u64;

/// A target, and a tar of three files, the second of which is long.
struct Case {
    folder: TempDir,
    target: Target,
    wnid: Wnid,
    keep_tar: bool,
    source: Source,
    tar: Vec<u8>,
    /// Range of the long file's content in the tar.
    long: Range<u64>,
}

impl Case {
    fn new(keep_tar: bool) -> Self {
        Self::of(
            keep_tar,
            [
                ("first.JPEG", 1000),
                ("long.JPEG", LONG),
                ("last.JPEG", 700),
            ],
        )
    }

    fn of(keep_tar: bool, files: impl IntoIterator<Item = (impl AsRef<str>, usize)>) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        for (seed, (name, size)) in (1_u32..).zip(files) {
            // A period that is no multiple of a block, so that no two places look the same for
            // long.
            let pattern: Vec<u8> = (0..9973_u32)
                .map(|at| (at.wrapping_mul(seed * 7919) >> 8).to_le_bytes()[0])
                .collect();
            let mut body = pattern.repeat(size / pattern.len() + 1);
            body.truncate(size);
            let mut header = tar::Header::new_gnu();
            header.set_size(size as u64);
            builder
                .append_data(&mut header, name.as_ref(), body.as_slice())
                .unwrap();
        }
        let tar = builder.into_inner().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let target = Target::open(&folder.path().join("target"), None).unwrap();
        let length = Some(tar.len() as u64);
        let etag = Some("\"one\"".to_owned());
        let source = Source {
            url: URL.to_owned(),
            length,
            etag,
            ..Source::default()
        };
        let long = 512 + 1024 + 512;
        let wnid = "n00000001".parse().unwrap();
        Self {
            folder,
            target,
            wnid,
            keep_tar,
            source,
            tar,
            long: long..long + LONG as u64,
        }
    }

    /// Pushes a range of the tar, in pieces.
    fn push(&self, unpacker: &mut Unpacker, range: Range<u64>) {
        let [from, to] = [range.start, range.end].map(|place| usize::try_from(place).unwrap());
        self.tar[from..to]
            .chunks(PIECE)
            .for_each(|piece| unpacker.push(piece).unwrap());
    }

    /// An unpacker that has received the tar up to this offset.
    fn unpacked_up_to(&self, place: u64) -> (Staging, Unpacker) {
        let staging = Staging::create(&self.target, self.wnid).unwrap();
        let start = Start::of(self.source.clone());
        let mut unpacker = Unpacker::open(&staging, self.wnid, start, self.keep_tar).unwrap();
        self.push(&mut unpacker, 0..place);
        (staging, unpacker)
    }

    fn take_over(&self) -> (Staging, Option<Checkpoint>) {
        take_over(&self.target, self.wnid, URL, self.keep_tar).unwrap()
    }

    /// Takes over, and returns the offset at which a new attempt would continue.
    fn resume_offset(&self) -> u64 {
        let (_, checkpoint) = self.take_over();
        checkpoint.map_or(0, |checkpoint| checkpoint.start.offset)
    }

    /// Opens an unpacker that continues where an earlier one ended.
    fn resume(&self) -> (Staging, u64, Unpacker) {
        let (staging, checkpoint) = self.take_over();
        let Checkpoint { start, .. } = checkpoint.expect("something is left");
        let position = start.offset;
        let unpacker = Unpacker::open(&staging, self.wnid, start, self.keep_tar).unwrap();
        (staging, position, unpacker)
    }

    /// Continues to the end and verifies that the staged files and those in the journal are the
    /// tar's.
    fn finish(&self) -> u64 {
        let (staging, position, mut unpacker) = self.resume();
        self.push(&mut unpacker, position..self.tar.len() as u64);
        self.assert_whole(&staging, unpacker);
        position
    }

    fn assert_whole(&self, staging: &Staging, unpacker: Unpacker) {
        let files = unpacker.finish().unwrap();
        let mut archive = tar::Archive::new(self.tar.as_slice());
        let mut entries = staging.entries().unwrap();
        let mut count = 0;
        for file in archive.entries().unwrap() {
            let mut file = file.unwrap();
            let mut body = Vec::new();
            io::Read::read_to_end(&mut file, &mut body).unwrap();
            let entry = entries.next().unwrap();
            assert_eq!(
                (entry.size, entry.blake3),
                (body.len() as u64, blake3::hash(&body))
            );
            assert_eq!(
                entry.next_header,
                (file.raw_file_position() + entry.size).next_multiple_of(512)
            );
            count += 1;
            assert_eq!(file.path().unwrap().to_str(), Some(entry.name.as_str()));
            assert!(
                fs::read(staging.class_folder().join(&entry.name)).unwrap() == body,
                "{}",
                entry.name
            );
        }
        assert_eq!((entries.next(), count), (None, files));
        if self.keep_tar {
            assert!(
                fs::read(staging.tar()).unwrap() == self.tar,
                "the staged tar"
            );
        }
    }

    /// The long file in the only staging folder.
    fn long_file(&self) -> PathBuf {
        self.staged("class/long.JPEG")
    }

    fn staged(&self, name: &str) -> PathBuf {
        let folders = fs::read_dir(self.target.staging())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        folders
            .map(|folder| folder.join(name))
            .find(|path| path.exists())
            .expect("it is staged")
    }
}

#[test]
fn an_unpacker_stopped_at_any_byte_continues_there() {
    for keep_tar in [false, true] {
        let case = Case::new(keep_tar);
        let Range { start, end } = case.long;
        for place in [
            start,
            start + 1,
            start + 513,
            start + 5_000_001,
            end - 1,
            end,
        ] {
            let (staging, mut unpacker) = case.unpacked_up_to(place);
            assert_eq!(unpacker.checkpoint().unwrap(), place);
            drop(unpacker);
            assert_eq!(case.finish(), place, "keep_tar: {keep_tar}");
            assert!(!staging.class_folder().exists());
            case.take_over().0.remove().unwrap();
        }
    }
}

#[test]
fn an_unpacker_killed_in_a_long_file_continues_at_its_last_journal_line() {
    for keep_tar in [false, true] {
        let case = Case::new(keep_tar);
        for written in [LONG as u64 - 3_000_000, LONG as u64] {
            let killed_at = case.long.start + written;
            drop(case.unpacked_up_to(killed_at));
            let position = case.finish();
            // The journal is also written by time, so its last line may be at the last byte.
            assert!(
                (case.long.start..=killed_at).contains(&position)
                    && position + INTERVAL > killed_at,
                "{position} after {killed_at}"
            );
            case.take_over().0.remove().unwrap();
        }
    }
}

#[test]
fn an_unpacker_stopped_repeatedly_loses_nothing() {
    let case = Case::new(true);
    let (_, mut unpacker) = case.unpacked_up_to(case.long.start + 10_000_000);
    unpacker.checkpoint().unwrap();
    for more in [1, 3_000_000, 0, 6_000_000] {
        let (_, position, mut unpacker) = case.resume();
        case.push(&mut unpacker, position..position + more);
        assert_eq!(unpacker.checkpoint().unwrap(), position + more);
    }
    assert_eq!(case.finish(), case.long.start + 19_000_001);
}

/// A name, and a change that damages a staging folder.
type Spoil = (&'static str, fn(&Case));

#[test]
fn a_partial_file_that_does_not_match_its_digest_is_not_continued() {
    let behind_the_first = 512 + 1024;
    let spoil: [Spoil; 5] = [
        ("a byte has changed", |case| {
            let mut bytes = fs::read(case.long_file()).unwrap();
            bytes[1000] ^= 1;
            fs::write(case.long_file(), bytes).unwrap();
        }),
        ("the file was emptied", |case| {
            fs::write(case.long_file(), "").unwrap();
        }),
        ("it is gone", |case| {
            fs::remove_file(case.long_file()).unwrap();
        }),
        ("it is a link", |case| {
            let elsewhere = case.folder.path().join("elsewhere");
            fs::rename(case.long_file(), &elsewhere).unwrap();
            std::os::unix::fs::symlink(elsewhere, case.staged("class").join("long.JPEG")).unwrap();
        }),
        ("the tar has changed", |case| {
            let mut bytes = fs::read(case.staged("tar")).unwrap();
            bytes[10_000] ^= 1;
            fs::write(case.staged("tar"), bytes).unwrap();
        }),
    ];
    for (what, spoil) in spoil {
        let case = Case::new(true);
        drop(case.unpacked_up_to(case.long.start + 9_000_000));
        spoil(&case);
        assert_eq!(case.resume_offset(), behind_the_first, "{what}");
        assert_eq!(case.finish(), behind_the_first, "{what}");
    }
}

#[test]
fn bytes_of_a_file_beyond_its_last_journal_line_are_cut_off() {
    let case = Case::new(false);
    drop(case.unpacked_up_to(case.long.start + 9_000_000));
    let noted = case.resume_offset();
    assert_eq!(
        fs::metadata(case.long_file()).unwrap().len(),
        noted - case.long.start
    );
    assert_eq!(case.finish(), noted);
}

/// The former owner does not know yet that its lease has expired: its partial file is still open.
#[test]
fn a_former_owner_that_continues_for_a_while_does_no_harm() {
    for keep_tar in [false, true] {
        let case = Case::new(keep_tar);
        let killed_at = case.long.start + 9_000_000;
        let (_, mut former) = case.unpacked_up_to(killed_at);
        let (staging, position, mut unpacker) = case.resume();
        assert!(case.long.contains(&position) && position <= killed_at);
        case.push(&mut former, killed_at..killed_at + 2_000_000);
        case.push(&mut unpacker, position..case.long.end - 4_000_000);
        case.push(&mut former, killed_at + 2_000_000..case.long.end - 1);
        case.push(
            &mut unpacker,
            case.long.end - 4_000_000..case.tar.len() as u64,
        );
        case.assert_whole(&staging, unpacker);
    }
}

/// The killed process has moved the files to its own folder, but not the parts.
#[test]
fn a_kill_during_a_takeover_loses_neither_files_nor_parts() {
    for (files_moved, keep_tar) in [(true, false), (true, true), (false, true)] {
        let case = Case::new(keep_tar);
        let place = case.long.start + 9_000_000;
        drop(case.unpacked_up_to(place));
        let noted = if files_moved { case.resume_offset() } else { 0 };
        // The state before the takeover.
        let former = case
            .target
            .staging()
            .join(format!("{}.{:016x}.old", case.wnid, 7));
        fs::create_dir_all(former.join("class")).unwrap();
        fs::create_dir(former.join("parts")).unwrap();
        let journal = fs::read_to_string(case.staged("journal")).unwrap();
        let lines = [&journal, journal.lines().last().unwrap(), "\n"].concat();
        fs::write(former.join("journal"), lines).unwrap();
        if keep_tar {
            fs::copy(case.staged("tar"), former.join("tar")).unwrap();
        }
        let start = case.long.end - 1000;
        let mut part = PartWriter::new(
            former.join("parts").join(name(start)),
            Version::of(&case.source),
            start,
        );
        part.fill(b"of the long file");
        part.write().unwrap();

        let (_, checkpoint) = case.take_over();
        let Checkpoint {
            start: resumed,
            parts,
        } = checkpoint.unwrap();
        let position = resumed.offset;
        assert!(
            position >= noted && position > case.long.start,
            "{position}"
        );
        let ranges: Vec<_> = parts
            .iter()
            .map(|part| (part.start, part.reached))
            .collect();
        assert_eq!(ranges, [(start, start + 16)]);
        assert_eq!(case.finish(), position);
    }
}

#[test]
fn a_stop_before_any_new_byte_keeps_the_checkpoint() {
    for (keep_tar, place) in [(false, 1536), (true, 1536), (true, 9_000_000)] {
        let case = Case::new(keep_tar);
        case.unpacked_up_to(place).1.checkpoint().unwrap();
        assert_eq!(case.resume().2.checkpoint().unwrap(), place);
        assert_eq!(case.finish(), place);
    }
}

#[test]
fn the_files_before_a_partial_file_are_recorded_before_it() {
    let case = Case::of(
        false,
        [
            ("small.JPEG", 2000),
            ("long.JPEG", LONG),
            ("last.JPEG", 700),
        ],
    );
    let (_, mut unpacker) = case.unpacked_up_to(0);
    unpacker.push(&case.tar[..10_000_000]).unwrap();
    drop(unpacker);
    assert_eq!(case.finish(), 10_000_000);
}

/// Files whose sizes are close to multiples of a BLAKE3 chunk.
fn small_files() -> impl Iterator<Item = (String, usize)> {
    let sizes = (0..20).flat_map(|chunks| [1024 * chunks, 1024 * chunks + 1, 1024 * chunks + 700]);
    sizes
        .enumerate()
        .map(|(number, size)| (format!("{number}.JPEG"), size))
}

#[test]
fn digests_of_small_files_do_not_depend_on_the_size_of_the_pieces() {
    let case = Case::of(true, small_files());
    for piece in [1, 511, 5000, 16_384, 50_000, usize::MAX] {
        let (staging, mut unpacker) = case.unpacked_up_to(0);
        case.tar
            .chunks(piece)
            .for_each(|piece| unpacker.push(piece).unwrap());
        case.assert_whole(&staging, unpacker);
        staging.remove().unwrap();
    }
}

#[test]
fn small_files_before_an_error_are_complete() {
    let case = Case::of(false, small_files());
    let bad_header = (0..20).fold(0, |place, number| {
        let size = small_files().nth(number).unwrap().1;
        place + 512 + size.next_multiple_of(512)
    });
    let mut tar = case.tar.clone();
    tar[bad_header] ^= 1;
    let (staging, mut unpacker) = case.unpacked_up_to(0);
    assert!(matches!(unpacker.push(&tar), Err(UnpackError::Framing(_))));
    assert_eq!(unpacker.checkpoint().unwrap(), bad_header as u64);
    assert_eq!(staging.entries().unwrap().count(), 20);
    drop(unpacker);
    assert_eq!(case.finish(), bad_header as u64);
}

/// A tar that is too short for the checkpoints that are made after a number of bytes.
fn short_case(keep_tar: bool) -> Case {
    Case::of(
        keep_tar,
        (0..60).map(|number| (format!("{number}.JPEG"), 5000 + number * 700)),
    )
}

#[tokio::test(start_paused = true)]
async fn a_kill_of_a_slow_download_loses_at_most_the_bytes_of_one_second() {
    for keep_tar in [false, true] {
        let case = short_case(keep_tar);
        let contents_end = case.tar.len() as u64 - 1024;
        let mut unpacker = case.unpacked_up_to(0).1;
        let mut received = 0;
        loop {
            // One second at 20 KB/s.
            for _ in 0..20 {
                let more = (received + 1000).min(contents_end);
                case.push(&mut unpacker, received..more);
                received = more;
                advance(Duration::from_millis(50)).await;
            }
            drop(unpacker);
            // The last third of a second's bytes, and a header.
            let costs_little = |position| position <= received && position + 8000 > received;
            if received == contents_end {
                let position = case.finish();
                assert!(costs_little(position), "{position} of {received}");
                break;
            }
            let (_, position, next) = case.resume();
            assert!(costs_little(position), "{position} of {received}");
            (unpacker, received) = (next, position);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_received_before_a_pause_are_recorded_in_it() {
    for keep_tar in [false, true] {
        let case = short_case(keep_tar);
        let (_, mut unpacker) = case.unpacked_up_to(0);
        assert!(
            timeout(Duration::from_mins(1), unpacker.timer().due())
                .await
                .is_err(),
            "there is nothing to note"
        );
        unpacker.push(&case.tar[..300_000]).unwrap();
        timeout(Duration::from_secs(1), unpacker.timer().due())
            .await
            .expect("within a second");
        unpacker.note_progress().unwrap();
        assert!(
            timeout(Duration::from_mins(1), unpacker.timer().due())
                .await
                .is_err(),
            "all of it is noted"
        );
        drop(unpacker);
        assert!(case.finish() + 1024 > 300_000);
    }
}

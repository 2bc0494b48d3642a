//! The id of the storage behind a target. Workers that read the same id share the target,
//! independent of the paths under which they reach it.
//!
//! The id is in a file in the target, because workers that see the target under different paths may
//! have no other folder in common: their staging areas can be in different places. Folder loaders
//! ignore files.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
    thread,
    time::Duration,
};

use shared::own_file::open_regular;

use crate::storage::file_tree::{if_there, nonce, remove_if_there};

/// Name of the file in the target.
pub(crate) const FILE: &str = ".imagenet_downloader.storage";
/// Number of hexadecimal digits of an id.
const DIGITS: usize = 32;
/// Delay between two reads of a file that another process has just created.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Number of reads after which a file without an id is replaced: its creator was killed, or a power
/// cut emptied it.
const POLLS: u32 = 50;

/// A new random id.
pub(crate) fn new() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The storage's id: the one in the target, or else `proposed`, which is then written. `area` is a
/// folder on the same file system.
pub(crate) fn settle(target: &Path, area: &Path, proposed: &str) -> io::Result<String> {
    let place = target.join(FILE);
    for _ in 0..POLLS {
        if let Some(id) = read(&place)? {
            return Ok(id);
        }
        match File::create_new(&place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                thread::sleep(POLL_INTERVAL);
            }
            created => {
                created?
                    .write_all(proposed.as_bytes())
                    .inspect_err(|_| drop(fs::remove_file(&place)))?;
                return Ok(proposed.to_owned());
            }
        }
    }
    let whole = area.join(format!("storage.{}", nonce()));
    File::create_new(&whole)?.write_all(proposed.as_bytes())?;
    fs::rename(&whole, &place)?;
    read(&place)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{FILE} holds no id")))
}

/// Removes the id. Called by the last process that uses the target.
pub(crate) fn remove(target: &Path) -> io::Result<()> {
    remove_if_there(fs::remove_file(target.join(FILE)))
}

fn read(place: &Path) -> io::Result<Option<String>> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", place.display()));
    let Some(file) = if_there(open_regular(place)).map_err(named)? else {
        return Ok(None);
    };
    let mut text = Vec::new();
    file.take(DIGITS as u64 + 1).read_to_end(&mut text)?;
    let text = String::from_utf8(text).unwrap_or_default();
    let is_id = text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(is_id.then_some(text))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn processes_that_start_at_the_same_time_agree_on_one_id() {
        for _ in 0..100 {
            let folder = tempfile::tempdir().unwrap();
            let start = Barrier::new(4);
            let found = thread::scope(|scope| {
                let settle = || {
                    let id = new();
                    start.wait();
                    settle(folder.path(), folder.path(), &id).unwrap()
                };
                let threads = [(); 4].map(|()| scope.spawn(settle));
                threads.map(|thread| thread.join().unwrap())
            });
            assert!(found.iter().all(|id| *id == found[0]), "{found:?}");
            assert_eq!(
                fs::read_dir(folder.path()).unwrap().count(),
                1,
                "no other file remains"
            );
        }
    }

    #[test]
    fn a_storage_keeps_its_id_and_another_one_has_another() {
        let one = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let id = settle(one.path(), one.path(), &new()).unwrap();
        assert_eq!(settle(one.path(), one.path(), &new()).unwrap(), id);
        assert_ne!(settle(other.path(), other.path(), &new()).unwrap(), id);
    }

    #[test]
    fn a_file_that_a_power_cut_emptied_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "").unwrap();
        let id = new();
        assert_eq!(settle(folder.path(), folder.path(), &id).unwrap(), id);
        assert_eq!(settle(folder.path(), folder.path(), &new()).unwrap(), id);
    }

    #[test]
    fn a_folder_with_the_name_of_the_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(FILE)).unwrap();
        assert!(settle(folder.path(), folder.path(), &new()).is_err());
    }
}

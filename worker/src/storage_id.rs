//! The name of the storage behind a target folder: workers that find the same one share the folder, however each of them
//! has reached it.
//!
//! It is the name of the only file in `.partial/storage/`. That folder is made under another name and renamed into its place,
//! as a class is published: a rename onto a folder with something in it fails on every file system, so of those that start
//! at the same moment all end with the name that was first, and a folder that a power cut has emptied is filled again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::target::remove_if_there;

/// The folder in `.partial`.
pub(crate) const STORAGE: &str = "storage";
/// Hexadecimal digits of a name.
const DIGITS: usize = 32;

/// A name that no other storage has.
pub(crate) fn new() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The storage's name: what it has already, or `proposed` from now on.
pub(crate) fn settle(partial: &Path, proposed: &str) -> io::Result<String> {
    let place = partial.join(STORAGE);
    if let Some(id) = read(&place)? {
        return Ok(id);
    }
    let mine = prepare(partial, proposed)?;
    match fs::rename(&mine, &place) {
        Ok(()) => Ok(proposed.to_owned()),
        Err(error) => {
            remove_if_there(fs::remove_dir_all(&mine))?;
            // Another was first; anything else in the way is told as it was found.
            read(&place)?.ok_or(error)
        }
    }
}

fn prepare(partial: &Path, id: &str) -> io::Result<PathBuf> {
    let folder = partial.join(format!("{STORAGE}.{:016x}", rand::random::<u64>()));
    fs::create_dir(&folder)?;
    fs::File::create_new(folder.join(id))?;
    Ok(folder)
}

fn read(place: &Path) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.len() == DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn those_that_start_at_the_same_moment_end_with_the_same_name() {
        for _ in 0..100 {
            let folder = tempfile::tempdir().unwrap();
            let start = Barrier::new(4);
            let found = std::thread::scope(|scope| {
                let settle = || {
                    let id = new();
                    start.wait();
                    settle(folder.path(), &id).unwrap()
                };
                let threads = [(); 4].map(|()| scope.spawn(settle));
                threads.map(|thread| thread.join().unwrap())
            });
            assert!(found.iter().all(|id| *id == found[0]), "{found:?}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "what was not needed is gone");
        }
    }

    #[test]
    fn a_storage_keeps_its_name_and_two_have_two() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id = settle(one.path(), &new()).unwrap();
        assert_eq!(settle(one.path(), &new()).unwrap(), id);
        assert_ne!(settle(other.path(), &new()).unwrap(), id);
    }

    #[test]
    fn what_a_power_cut_has_emptied_is_filled_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(STORAGE)).unwrap();
        let id = new();
        assert_eq!(settle(folder.path(), &id).unwrap(), id);
        assert_eq!(settle(folder.path(), &new()).unwrap(), id);
    }

    #[test]
    fn something_else_in_the_way_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(STORAGE), "").unwrap();
        assert!(settle(folder.path(), &new()).is_err());
    }
}

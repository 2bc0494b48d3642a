//! The target folder and where things are in it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use shared::Wnid;

/// Folder of staging and checkpoints, gone when the job is done (loaders take every folder for a class).
const PARTIAL: &str = ".partial";

/// An open target folder.
#[derive(Debug)]
pub(crate) struct Target {
    root: PathBuf,
    folder: File,
}

/// The target cannot be used: not this class's fault, so the process stops and nobody's attempts are burnt.
#[derive(Debug, thiserror::Error)]
#[error("{action} in the target folder {}: {source}{}", target.display(), advice(source))]
pub struct TargetError {
    target: PathBuf,
    action: String,
    source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (free some space and run the same command again: it goes on where it stopped)"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => " (give a folder with --target)",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (give a writable folder with --target)"
        }
        io::ErrorKind::NotFound => " (is it still mounted?)",
        _ => "",
    }
}

impl Target {
    /// Opens the target, makes it if it is missing, and proves that folders can be made, filled and renamed in it.
    pub(crate) fn open(path: &Path) -> Result<Self, TargetError> {
        let error = |action: &str, source| TargetError { target: path.to_owned(), action: action.to_owned(), source };
        fs::create_dir_all(path).map_err(|source| error("make a folder", source))?;
        // A link at the root is followed once, here.
        let root = path.canonicalize().map_err(|source| error("find the way", source))?;
        let folder = File::open(&root).map_err(|source| error("look", source))?;
        let target = Self { root, folder };
        target.try_out().map_err(|source| error("write", source))?;
        Ok(target)
    }

    /// What publishing does, once, on something empty.
    fn try_out(&self) -> io::Result<()> {
        fs::create_dir_all(self.partial())?;
        let name = format!("probe.{:016x}", rand::random::<u64>());
        let (staged, published) = (self.partial().join(&name), self.root.join(format!(".{name}")));
        fs::create_dir(&staged)?;
        fs::write(staged.join("file"), b"probe")?;
        fs::rename(&staged, &published)?;
        fs::remove_dir_all(&published)
    }

    /// The folder itself, open.
    pub(crate) fn folder(&self) -> &File {
        &self.folder
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.root.join(PARTIAL)
    }

    /// Final name of a class.
    pub(crate) fn class_folder(&self, wnid: Wnid) -> PathBuf {
        self.root.join(wnid.to_string())
    }

    /// Final name of its tar.
    pub(crate) fn tar(&self, wnid: Wnid) -> PathBuf {
        self.root.join(format!("{wnid}.tar"))
    }

    /// Says that the target, and not a class, is at fault.
    pub(crate) fn error(&self, action: impl Into<String>, source: io::Error) -> TargetError {
        TargetError { target: self.root.clone(), action: action.into(), source }
    }

    /// Takes staging and checkpoints away when the job is done.
    pub(crate) fn remove_partial(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.partial()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

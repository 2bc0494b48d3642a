//! The Unix socket of a coordinator, in its target: the commands of the user who runs it use it
//! where no address is given. It exists while the coordinator runs.

use std::{
    fs::File,
    io,
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _, net},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::OFlags,
    process::{Uid, geteuid},
};
use tokio::net::UnixStream;

/// Its name in the target.
pub const SOCKET: &str = ".imagenet_downloader.sock";
/// The longest path of a socket, without the byte that ends it (`unix(7)`).
const LONGEST_PATH: usize = 107;

/// A path at which the system can bind or connect a socket. Valid as long as it lives.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    /// Of a path that is too long: its folder, by whose number the path is short.
    _folder: Option<File>,
}

impl SocketPath {
    /// The path as it is, or the same file by the number of its open folder if it is too long.
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().as_bytes().len() <= LONGEST_PATH {
            return Ok(Self { path: path.to_owned(), _folder: None });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let flags = i32::try_from(flags.bits()).expect("flags of open(2) are an int");
        let folder = File::options().read(true).custom_flags(flags).open(path.parent().unwrap_or(path))?;
        let short = format!("/proc/self/fd/{}", folder.as_raw_fd());
        Ok(Self { path: Path::new(&short).join(path.file_name().unwrap_or_default()), _folder: Some(folder) })
    }

    /// The path to use.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// No coordinator was found by its socket; fit to follow "because".
#[derive(Debug, thiserror::Error)]
pub enum NoSocket {
    /// There is none.
    #[error("there is no socket {}", path.display())]
    Missing {
        /// Where it would be.
        path: PathBuf,
    },
    /// A coordinator that was killed has left it, or it belongs to one on another host.
    #[error("no coordinator on this host answers at the socket {}", path.display())]
    Stale {
        /// The socket.
        path: PathBuf,
    },
    /// It is another user's.
    #[error("the socket {} cannot be used: {source}", path.display())]
    Unusable {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The socket of the coordinator that works in this target, if one answers there.
///
/// # Errors
/// [`NoSocket`].
pub fn find_socket(target: &Path) -> Result<PathBuf, NoSocket> {
    let path = target.join(SOCKET);
    let connected = SocketPath::of(&path).and_then(|socket| net::UnixStream::connect(socket.path()));
    match connected {
        Ok(_) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NoSocket::Missing { path }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(NoSocket::Stale { path }),
        Err(source) => Err(NoSocket::Unusable { path, source }),
    }
}

/// Whether a program of this user may be at the other end. Root may read and write all that this
/// user can.
pub fn is_trusted_peer(user: u32) -> bool {
    Uid::from_raw(user) == geteuid() || user == Uid::ROOT.as_raw()
}

/// Connects to a coordinator of this user, or of root; root connects to that of any user.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = SocketPath::of(path)?;
    let stream = UnixStream::connect(socket.path()).await?;
    let peer = stream.peer_cred()?.uid();
    if is_trusted_peer(peer) || geteuid().is_root() {
        return Ok(stream);
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {peer} answers at {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_below_a_long_path_is_found_and_one_that_nobody_listens_at_is_not() {
        let folder = tempfile::tempdir().unwrap();
        for target in [folder.path().to_owned(), folder.path().join("x".repeat(200))] {
            std::fs::create_dir_all(&target).unwrap();
            assert!(matches!(find_socket(&target), Err(NoSocket::Missing { .. })));
            let path = target.join(SOCKET);
            let listener = net::UnixListener::bind(SocketPath::of(&path).unwrap().path()).unwrap();
            assert_eq!(find_socket(&target).unwrap(), path);
            drop(listener);
            let stale = find_socket(&target).unwrap_err();
            assert!(matches!(stale, NoSocket::Stale { .. }), "{stale}");
        }
        let file = folder.path().join("x".repeat(200)).join(SOCKET);
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, "no socket").unwrap();
        assert!(matches!(find_socket(file.parent().unwrap()), Err(NoSocket::Stale { .. })));
    }

    #[test]
    fn this_user_and_root_are_trusted() {
        assert!(is_trusted_peer(geteuid().as_raw()) && is_trusted_peer(0));
        assert!(!is_trusted_peer(geteuid().as_raw() + 1));
    }
}

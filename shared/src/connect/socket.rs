//! The Unix socket of a coordinator, in its target folder. The commands of the user who runs the
//! coordinator use it if no address is given. It exists while the coordinator runs.

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

/// File name of the socket in the target folder.
pub const SOCKET: &str = ".imagenet_downloader.sock";
/// Maximum length of the path of a socket in bytes, without the terminating zero (`unix(7)`).
const LONGEST_PATH: usize = 107;

/// A path at which the system can bind or connect a socket; valid until this value is dropped.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    /// The open folder of a path that is too long. The short path contains its descriptor number.
    _folder: Option<File>,
}

impl SocketPath {
    /// The path itself, or, if it is too long, a path to the same file through the descriptor of
    /// its open folder.
    ///
    /// # Errors
    /// If the folder cannot be opened.
    pub fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().as_bytes().len() <= LONGEST_PATH {
            return Ok(Self {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let flags = i32::try_from(flags.bits()).expect("flags of open(2) are an int");
        let folder = File::options()
            .read(true)
            .custom_flags(flags)
            .open(path.parent().unwrap_or(path))?;
        let short = format!("/proc/self/fd/{}", folder.as_raw_fd());
        Ok(Self {
            path: Path::new(&short).join(path.file_name().unwrap_or_default()),
            _folder: Some(folder),
        })
    }

    /// The path to use.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Reasons for which no coordinator was found by its socket. The messages follow "because".
#[derive(Debug, thiserror::Error)]
pub enum NoSocket {
    /// The socket does not exist.
    #[error("there is no socket {}", path.display())]
    Missing {
        /// The expected path.
        path: PathBuf,
    },
    /// A killed coordinator has left the socket, or it belongs to a coordinator on another host.
    #[error("no coordinator on this host answers at the socket {}", path.display())]
    Stale {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be used, e.g. because it belongs to another user.
    #[error("the socket {} cannot be used: {source}", path.display())]
    Unusable {
        /// The socket.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Path of the socket of the coordinator that uses this target, if it accepts a connection.
///
/// # Errors
/// [`NoSocket`].
pub fn find_socket(target: &Path) -> Result<PathBuf, NoSocket> {
    let path = target.join(SOCKET);
    let connected =
        SocketPath::of(&path).and_then(|socket| net::UnixStream::connect(socket.path()));
    match connected {
        Ok(_) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NoSocket::Missing { path }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(NoSocket::Stale { path })
        }
        Err(source) => Err(NoSocket::Unusable { path, source }),
    }
}

/// Whether the process at the other end runs as a trusted user: this user, or root, who can access
/// all data of this user anyway.
pub fn is_trusted_peer(user: u32) -> bool {
    Uid::from_raw(user) == geteuid() || user == Uid::ROOT.as_raw()
}

/// Connects to a coordinator of this user or of root. Root may connect to that of any user.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = SocketPath::of(path)?;
    let stream = UnixStream::connect(socket.path()).await?;
    let peer = stream.peer_cred()?.uid();
    if is_trusted_peer(peer) || geteuid().is_root() {
        return Ok(stream);
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("user {peer} answers at {}", path.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_below_a_long_path_is_found_and_one_without_a_listener_is_not() {
        let folder = tempfile::tempdir().unwrap();
        for target in [
            folder.path().to_owned(),
            folder.path().join("x".repeat(200)),
        ] {
            std::fs::create_dir_all(&target).unwrap();
            assert!(matches!(
                find_socket(&target),
                Err(NoSocket::Missing { .. })
            ));
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
        assert!(matches!(
            find_socket(file.parent().unwrap()),
            Err(NoSocket::Stale { .. })
        ));
    }

    #[test]
    fn this_user_and_root_are_trusted() {
        assert!(is_trusted_peer(geteuid().as_raw()) && is_trusted_peer(0));
        assert!(!is_trusted_peer(geteuid().as_raw() + 1));
    }
}

//! The Unix socket in the target. Commands of the user who runs the coordinator, and of root, use
//! it without an address and a token. Only its owner can connect (mode 0600), and the kernel
//! reports the peer's user id. The caller has the operator's role ([`AuthLayer::operator`]).
//!
//! Invariant: while the socket exists under its name, this process listens on it, unless the
//! process was killed. The target's lock excludes a second coordinator.
//!
//! [`AuthLayer::operator`]: super::AuthLayer::operator

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _},
        net,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, stream};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use rustix::fs::{Mode, fchmod};
use shared::{
    connect::{SOCKET, SocketPath, is_trusted_peer},
    observed_stream::{ObservedStream, StreamObserver},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tonic::transport::server::Connected;

/// Concurrent connections; further ones wait in the kernel's accept queue.
const MAX_CONNECTIONS: usize = 32;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 32;
/// Delay after a failed accept, e.g. for want of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The socket's file. It is removed when dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode. A different file under this name is not removed.
    identity: (u64, u64),
}

/// Listens in the target. Replaces a socket that a killed coordinator has left.
///
/// # Errors
/// If another file has the name, or the file system does not support sockets.
pub fn bind_socket(target: &Path) -> io::Result<(SocketFile, UnixListener)> {
    let path = target.join(SOCKET);
    let address = SocketPath::of(&path)?;
    remove_stale(&path, address.path())?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // `bind` gives the file the mode that the socket has at that time.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&socket),
        &UnixAddr::new(address.path())?,
    )?;
    let metadata = path.symlink_metadata()?;
    let file = SocketFile {
        path,
        identity: (metadata.dev(), metadata.ino()),
    };
    listen(&socket, Backlog::new(BACKLOG)?)?;
    let listener = UnixListener::from_std(net::UnixListener::from(socket))?;
    Ok((file, listener))
}

fn remove_stale(path: &Path, address: &Path) -> io::Result<()> {
    let existing = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        existing => existing?,
    };
    if !existing.file_type().is_socket() {
        let why = "another file has its name; remove that";
        return Err(io::Error::new(ErrorKind::AlreadyExists, why));
    }
    match net::UnixStream::connect(address) {
        Ok(_) => {
            let why = "another program listens at it";
            Err(io::Error::new(ErrorKind::AddrInUse, why))
        }
        Err(_) => fs::remove_file(path),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.identity;
        if self.path.symlink_metadata().is_ok_and(is_ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "the socket stays in the target");
        }
    }
}

/// The connections of this user and of root. The stream never ends.
pub fn local_connections(
    listener: UnixListener,
) -> impl Stream<Item = io::Result<LocalConnection>> {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    stream::unfold((listener, permits), |(listener, permits)| async move {
        let connection = loop {
            let permit = Arc::clone(&permits).acquire_owned().await;
            let permit = permit.expect("it is never closed");
            let accepted = listener.accept().await;
            match accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream))) {
                Ok((user, stream)) if is_trusted_peer(user) => {
                    break LocalConnection::new(stream, LocalPeer(permit));
                }
                Ok((user, _)) => {
                    tracing::info!(
                        user,
                        "a connection of another user to the target's socket was refused"
                    );
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection to the target's socket could not be accepted");
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        };
        Some((Ok(connection), (listener, permits)))
    })
}

/// A connection over the Unix socket.
type LocalConnection = ObservedStream<UnixStream, LocalPeer>;

/// The client of a [`LocalConnection`], which takes one of its permits.
#[derive(Debug)]
pub struct LocalPeer(
    #[expect(dead_code, reason = "held until it is dropped")] OwnedSemaphorePermit,
);

impl StreamObserver for LocalPeer {}

impl Connected for LocalPeer {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use shared::connect::find_socket;

    use super::*;

    #[tokio::test]
    async fn only_the_owner_can_connect_and_the_socket_is_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        for target in [
            folder.path().to_owned(),
            folder.path().join("y".repeat(200)),
        ] {
            fs::create_dir_all(&target).unwrap();
            let path = target.join(SOCKET);
            // A socket that a killed coordinator has left.
            drop(net::UnixListener::bind(SocketPath::of(&path).unwrap().path()).unwrap());
            let (file, listener) = bind_socket(&target).unwrap();
            let metadata = path.symlink_metadata().unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
            assert_eq!(find_socket(&target).unwrap(), path);
            let second = bind_socket(&target).unwrap_err();
            assert_eq!(second.kind(), ErrorKind::AddrInUse);
            drop((file, listener));
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn other_files_under_the_name_are_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SOCKET);
        fs::write(&path, "a file").unwrap();
        assert_eq!(
            bind_socket(folder.path()).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        fs::remove_file(&path).unwrap();
        let (file, _listener) = bind_socket(folder.path()).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        fs::write(&path, "a file").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }
}

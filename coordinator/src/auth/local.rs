//! The Unix socket in the target: commands of the user who runs the coordinator, and of root,
//! reach it there without an address and without a token. Only its owner can connect (mode 0600),
//! and the system says who has connected. The caller has the operator's role ([`Gate::operator`]).
//!
//! Invariant: while the socket stands under its name, this process listens at it, unless the
//! process was killed. The target's lock keeps a second coordinator away.
//!
//! [`Gate::operator`]: super::Gate::operator

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _},
        net,
    },
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use rustix::fs::{Mode, fchmod};
use shared::connect::{SOCKET, SocketPath, is_trusted_peer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tonic::transport::server::Connected;

/// Connections at the same time; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 32;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 32;
/// After an accept that failed, e.g. for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The socket's file. Removed when dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: another file under this name stays.
    identity: (u64, u64),
}

/// Listens in the target; takes the place of a socket that a killed coordinator has left.
///
/// # Errors
/// When something else stands under the name, or the file system has no sockets.
pub fn bind_socket(target: &Path) -> io::Result<(SocketFile, UnixListener)> {
    let path = target.join(SOCKET);
    let address = SocketPath::of(&path)?;
    remove_former(&path, address.path())?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // The file gets the mode that the socket has when it is bound.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &UnixAddr::new(address.path())?)?;
    let metadata = path.symlink_metadata()?;
    let file = SocketFile { path, identity: (metadata.dev(), metadata.ino()) };
    listen(&socket, Backlog::new(BACKLOG)?)?;
    let listener = UnixListener::from_std(net::UnixListener::from(socket))?;
    Ok((file, listener))
}

fn remove_former(path: &Path, address: &Path) -> io::Result<()> {
    let former = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        former => former?,
    };
    if !former.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "another file has its name; remove that"));
    }
    match net::UnixStream::connect(address) {
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another program listens at it")),
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

/// The connections of this user and of root. Never ends.
pub fn local_connections(listener: UnixListener) -> impl Stream<Item = io::Result<LocalConnection>> {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    stream::unfold((listener, room), |(listener, room)| async move {
        let connection = loop {
            let permit = Arc::clone(&room).acquire_owned().await.expect("it is never closed");
            match listener.accept().await.and_then(|(line, _)| Ok((line.peer_cred()?.uid(), line))) {
                Ok((user, line)) if is_trusted_peer(user) => break LocalConnection { line, _permit: permit },
                Ok((user, _)) => {
                    tracing::info!(user, "a connection of another user to the target's socket was refused");
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection to the target's socket could not be accepted");
                    sleep(PAUSE).await;
                }
            }
        };
        Some((Ok(connection), (listener, room)))
    })
}

/// A connection over the socket.
#[derive(Debug)]
pub struct LocalConnection {
    line: UnixStream,
    _permit: OwnedSemaphorePermit,
}

impl Connected for LocalConnection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for LocalConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_read(context, buffer)
    }
}

impl AsyncWrite for LocalConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.line).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use shared::connect::find_socket;

    use super::*;

    #[tokio::test]
    async fn only_its_owner_can_connect_and_it_goes_with_the_coordinator() {
        let folder = tempfile::tempdir().unwrap();
        for target in [folder.path().to_owned(), folder.path().join("y".repeat(200))] {
            fs::create_dir_all(&target).unwrap();
            let path = target.join(SOCKET);
            // One that a killed coordinator has left.
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
    async fn what_is_no_socket_stays_and_neither_goes_a_file_that_came_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SOCKET);
        fs::write(&path, "a file").unwrap();
        assert_eq!(bind_socket(folder.path()).unwrap_err().kind(), ErrorKind::AlreadyExists);
        fs::remove_file(&path).unwrap();
        let (file, _listener) = bind_socket(folder.path()).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        fs::write(&path, "a file").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }
}

//! Room for what the origin sends ahead.
//!
//! Linux begins a connection with a window of about 64 KiB and opens it only while whoever reads is faster than whoever sends
//! (`tcp_rcv_space_adjust`). Here the thread that reads also unpacks, so on a fast line the window stays where it is, and each
//! time that it is full this end and the origin wait for each other. A low-water mark makes room for twice as much at once, up to
//! half of `net.ipv4.tcp_rmem`, and leaves the system free to make more (`tcp_set_rcvlowat`); `SO_RCVBUF` would end that.

use std::{
    io,
    net::SocketAddr,
    os::fd::RawFd,
    path::Path,
    sync::{Mutex, PoisonError},
};

use hyper_util::client::legacy::connect::HttpInfo;
use nix::{
    libc,
    sys::socket::{SockaddrStorage, getpeername, getsockname},
};
use reqwest::Response;
use shared::listing::list;

/// So much may be on its way, or wait to be read.
const AHEAD: libc::c_int = 2 << 20;

/// The connections of one client.
#[derive(Debug, Default)]
pub(crate) struct ReceiveWindow {
    /// Both ends of the one that was widened last; most often it is the next one too.
    last: Mutex<Option<(SocketAddr, SocketAddr)>>,
}

impl ReceiveWindow {
    /// Widens the window of the connection that an answer comes over. It only makes a transfer faster: where it cannot be done,
    /// nothing is.
    pub(crate) fn widen(&self, response: &Response) {
        let Some(info) = response.extensions().get::<HttpInfo>() else { return };
        let ends = (info.local_addr(), info.remote_addr());
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(ends);
        if last != Some(ends)
            && let Some(socket) = socket_between(ends)
            // At a mark above what is left of a body nobody would be woken.
            && let Err(error) = set_low_water_mark(socket, AHEAD).and_then(|()| set_low_water_mark(socket, 1))
        {
            tracing::debug!(%error, "the window of a connection stays as it is");
        }
    }
}

/// The number of this process's socket with these ends: the client tells them, and keeps the socket to itself.
fn socket_between((local, remote): (SocketAddr, SocketAddr)) -> Option<RawFd> {
    let (local, remote) = (SockaddrStorage::from(local), SockaddrStorage::from(remote));
    let numbers = list(Path::new("/proc/self/fd")).ok()?.filter_map(|entry| entry.ok()?.text()?.parse().ok());
    { numbers }.find(|number| getpeername(*number) == Ok(remote) && getsockname(*number) == Ok(local))
}

/// `SO_RCVLOWAT`, which no crate wraps.
#[expect(unsafe_code, reason = "neither rustix nor nix nor socket2 has this option")]
fn set_low_water_mark(socket: RawFd, bytes: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&bytes)).expect("a number is short");
    // SAFETY: the option's value is `bytes`, which is there for the call and as long as is said. If another thread has closed the
    // socket meanwhile, the system says so, or the mark is set on the one that has its number now, which does no harm either.
    let result =
        unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, (&raw const bytes).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read as _, Write as _},
        net::{TcpListener, TcpStream},
        sync::Arc,
        thread::{self, sleep},
        time::Duration,
    };

    use bytes::Bytes;
    use nix::sys::socket::{setsockopt, sockopt};
    use prometheus_client::metrics::counter::Counter;

    use crate::{
        fixture::job,
        origin::{
            Origin,
            allowed_addresses::PrivateOrigin,
            limiter::{Budget, Gate, Priority},
        },
    };

    /// Sends as much of a body as the other side has room for while it reads nothing.
    fn sent_ahead(stream: &mut TcpStream) -> usize {
        let (mut sent, mut full) = (0, 0);
        stream.set_nonblocking(true).unwrap();
        while full < 20 && sent < 64 << 20 {
            match stream.write(&[0; 16 << 10]) {
                Ok(bytes) => (sent, full) = (sent + bytes, 0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    full += 1;
                    sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("{error}"),
            }
        }
        sent
    }

    /// Opens a transfer from an origin that goes on after the head as it is told to; gives its first bytes, where they are wanted,
    /// and what the origin has done.
    async fn transfer(
        bytes_per_second: Option<u64>,
        reads: bool,
        goes_on: impl FnOnce(&mut TcpStream) -> usize + Send + 'static,
    ) -> (Option<Bytes>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x.tar", listener.local_addr().unwrap()).parse().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // What waits there counts too.
            setsockopt(&stream, sockopt::SndBuf, &(32 << 10)).unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
            (goes_on(&mut stream), stream)
        });
        let gate = Gate::open(1, Arc::default());
        let budget = Budget {
            version: 1,
            connections: 1,
            bytes_per_second,
            quiet: Duration::ZERO,
            observe_every: Duration::from_secs(1),
            resumed: 0,
        };
        gate.keep_to(&budget);
        let origin = Origin::new(&job(), PrivateOrigin::Allowed, gate, Counter::default()).unwrap();
        let mut opened = origin.open(&url, None, None, Priority::New).await.unwrap();
        let first = if reads { opened.transfer.chunk().await.unwrap() } else { None };
        let (done, _stream) = tokio::task::spawn_blocking(move || server.join().unwrap()).await.unwrap();
        (first, done)
    }

    #[tokio::test]
    async fn an_origin_may_send_ahead_unless_its_rate_is_limited() {
        let (_, free) = transfer(None, false, sent_ahead).await;
        let (_, limited) = transfer(Some(1_000_000), false, sent_ahead).await;
        assert!(free > 1 << 20, "{free} bytes");
        assert!(limited < 1 << 20, "{limited} bytes");
    }

    #[tokio::test]
    async fn however_little_comes_is_read_when_it_comes() {
        let a_little = |stream: &mut TcpStream| {
            // The other side waits for it by then.
            sleep(Duration::from_millis(200));
            stream.write(b"a little").unwrap()
        };
        let first = tokio::time::timeout(Duration::from_secs(10), transfer(None, true, a_little)).await;
        assert_eq!(first.expect("it is read").0.as_deref(), Some(&b"a little"[..]));
    }
}

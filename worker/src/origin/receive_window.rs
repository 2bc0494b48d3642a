//! Widens the TCP receive window of connections to the origin.
//!
//! Linux starts a connection with a window of about 64 KiB and enlarges it only while the reader is
//! faster than the sender (`tcp_rcv_space_adjust`). Here the thread that reads also unpacks, so on
//! a fast network the window stays small, and each time it is full the origin waits. A low-water
//! mark (`SO_RCVLOWAT`) enlarges the window at once to twice the mark, up to half of
//! `net.ipv4.tcp_rmem`, and leaves the kernel free to enlarge it further (`tcp_set_rcvlowat`);
//! `SO_RCVBUF` would disable that.

use std::{net::SocketAddr, os::fd::RawFd, path::Path, sync::Mutex};

use hyper_util::client::legacy::connect::HttpInfo;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{SockaddrStorage, getpeername, getsockname},
};
use reqwest::Response;
use shared::{listing::list, lock::lock};

/// Low-water mark in bytes: as many bytes may be in flight or wait to be read.
const LOW_WATER_MARK: libc::c_int = 2 << 20;

/// Widens the receive windows of one client's connections.
#[derive(Debug, Default)]
pub(crate) struct ReceiveWindow {
    /// Local and remote address of the connection that was widened last. Successive responses most
    /// often use the same connection.
    last: Mutex<Option<(SocketAddr, SocketAddr)>>,
}

impl ReceiveWindow {
    /// Widens the window of the connection that delivers a response. This only makes a transfer
    /// faster, so failures are ignored.
    pub(crate) fn widen(&self, response: &Response) {
        let Some(info) = response.extensions().get::<HttpInfo>() else {
            return;
        };
        let ends = (info.local_addr(), info.remote_addr());
        let last = lock(&self.last).replace(ends);
        if last != Some(ends)
            && let Some(socket) = socket_between(ends)
            // A mark above the rest of a body would delay the wake-up of the reader, so it is reset
            // at once.
            && let Err(error) = set_low_water_mark(socket, LOW_WATER_MARK).and_then(|()| set_low_water_mark(socket, 1))
        {
            tracing::debug!(%error, "the window of a connection stays as it is");
        }
    }
}

/// The file descriptor of this process's socket with these addresses. The HTTP client exposes the
/// addresses and not the socket.
fn socket_between((local, remote): (SocketAddr, SocketAddr)) -> Option<RawFd> {
    let local = SockaddrStorage::from(local);
    let remote = SockaddrStorage::from(remote);
    list(Path::new("/proc/self/fd"))
        .ok()?
        .filter_map(|entry| entry.ok()?.text()?.parse().ok())
        .find(|number| getpeername(*number) == Ok(remote) && getsockname(*number) == Ok(local))
}

/// Sets `SO_RCVLOWAT`, which no crate wraps.
#[expect(
    unsafe_code,
    reason = "neither rustix nor nix nor socket2 has this option"
)]
fn set_low_water_mark(socket: RawFd, bytes: libc::c_int) -> nix::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&bytes)).expect("a number is short");
    // SAFETY: the option's value is `bytes`, which outlives the call and has the given length. If
    // another thread has closed the socket meanwhile, the call fails, or it sets the mark of a
    // newer socket with the same descriptor, which is harmless.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            length,
        )
    };
    Errno::result(result).map(drop)
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

    use crate::{
        fixture::job,
        origin::{
            Origin,
            allowed_addresses::PrivateOrigin,
            limiter::{Budget, OriginLimiter, Priority},
        },
    };

    /// Writes a body until the send and receive buffers are full; the other side does not read.
    /// Returns the number of bytes written.
    fn sent_ahead(stream: &mut TcpStream) -> usize {
        let mut sent = 0;
        let mut full = 0;
        stream.set_nonblocking(true).unwrap();
        while full < 20 && sent < 64 << 20 {
            match stream.write(&[0; 16 << 10]) {
                Ok(bytes) => {
                    sent += bytes;
                    full = 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    full += 1;
                    sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("{error}"),
            }
        }
        sent
    }

    /// Opens a transfer from an origin that runs `after_head` after the response head. Returns the
    /// first bytes of the body if `reads` is set, and the result of `after_head`.
    async fn transfer(
        bytes_per_second: Option<u64>,
        reads: bool,
        after_head: impl FnOnce(&mut TcpStream) -> usize + Send + 'static,
    ) -> (Option<Bytes>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x.tar", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Bytes in the origin's send buffer count as sent.
            setsockopt(&stream, sockopt::SndBuf, &(32 << 10)).unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
                .unwrap();
            (after_head(&mut stream), stream)
        });
        let limiter = OriginLimiter::without_budget(1, Arc::default());
        let budget = Budget {
            version: 1,
            connections: 1,
            bytes_per_second,
            pause: Duration::ZERO,
            observe_every: Duration::from_secs(1),
            resumed: 0,
        };
        limiter.apply_budget(&budget);
        let origin = Origin::new(&job(), PrivateOrigin::Allowed, limiter).unwrap();
        let mut opened = origin.open(&url, None, None, Priority::New).await.unwrap();
        let first = if reads {
            opened.transfer.chunk().await.unwrap()
        } else {
            None
        };
        let (done, _stream) = tokio::task::spawn_blocking(move || server.join().unwrap())
            .await
            .unwrap();
        (first, done)
    }

    #[tokio::test]
    async fn an_origin_can_fill_the_window_unless_the_rate_is_limited() {
        let (_, free) = transfer(None, false, sent_ahead).await;
        let (_, limited) = transfer(Some(1_000_000), false, sent_ahead).await;
        assert!(free > 1 << 20, "{free} bytes");
        assert!(limited < 1 << 20, "{limited} bytes");
    }

    #[tokio::test]
    async fn a_few_bytes_are_read_as_soon_as_they_arrive() {
        let a_little = |stream: &mut TcpStream| {
            // By then the client waits for the body.
            sleep(Duration::from_millis(200));
            stream.write(b"a little").unwrap()
        };
        let first =
            tokio::time::timeout(Duration::from_secs(10), transfer(None, true, a_little)).await;
        assert_eq!(
            first.expect("the bytes are read").0.as_deref(),
            Some(&b"a little"[..])
        );
    }
}

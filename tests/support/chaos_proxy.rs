//! A TCP proxy between workers and a coordinator that injects network faults at run time.
//!
//! It never changes the bytes. A blocked direction holds back what is sent, as a partition does,
//! and delivers it once it is unblocked. A frozen connection never carries anything again, as if
//! the peer's host had lost power.

mod rules;

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use tokio::time::Instant;

use crate::http2_frames::Frames;
use rules::{Flapping, Rules};

/// How often an idle connection polls for changed rules.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const RESET: u8 = 2;

/// A direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server: requests.
    ToServer,
    /// From the server to the client: answers.
    ToClient,
}

/// A running proxy; stops when it is dropped.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

/// State that the proxy shares with the threads of its connections.
#[derive(Debug, Default)]
struct State {
    rules: Mutex<Rules>,
    links: Mutex<Vec<Arc<Link>>>,
    opened: AtomicU64,
    carried: [AtomicU64; 2],
    stopping: AtomicBool,
}

/// One proxied connection: its two sockets.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: TcpStream,
    end: AtomicU8,
    frozen: AtomicBool,
    goaway_pending: AtomicBool,
    last_carried: Mutex<Instant>,
}

impl ChaosProxy {
    /// Listens on loopback and forwards to a server.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State::default());
        state.rules().server = Some(server);
        let acceptor = std::thread::spawn({
            let state = Arc::clone(&state);
            move || accept(&listener, &state)
        });
        Self {
            address,
            state,
            acceptor: Some(acceptor),
        }
    }

    /// The URL that clients connect to.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Forwards new connections to this server from now on.
    pub fn forward_to(&self, server: SocketAddr) {
        self.state.rules().server = Some(server);
    }

    /// Resets new connections at once, or stops doing so.
    pub fn refuse(&self, refuses: bool) {
        self.state.rules().refuses = refuses;
    }

    /// Blocks or unblocks a direction; connections stay open.
    pub fn block(&self, direction: Direction, blocked: bool) {
        self.state.rules().blocked[direction as usize] = blocked;
    }

    /// Blocks or unblocks both directions.
    pub fn partition(&self, cut_off: bool) {
        self.state.rules().blocked = [cut_off; 2];
    }

    /// Alternates between a passing and a blocked period, beginning with the passing one, until it
    /// is called with a `blocked` of zero.
    pub fn flap(&self, passing: Duration, blocked: Duration) {
        let flapping = Flapping {
            since: Instant::now(),
            passing,
            blocked,
        };
        self.state.rules().flapping = Some(flapping).filter(|flapping| !flapping.blocked.is_zero());
    }

    /// Delays all data by `by`, plus or minus a random time of at most `give_or_take`.
    pub fn delay(&self, by: Duration, give_or_take: Duration) {
        self.state.rules().delay = (by, give_or_take);
    }

    /// Limits each connection and direction to `bytes_per_second`; 0 removes the limit.
    pub fn limit_rate(&self, bytes_per_second: u64) {
        self.state.rules().bytes_per_second = bytes_per_second;
    }

    /// Closes connections that have carried nothing for `longest`; `None` stops that.
    pub fn close_when_silent(&self, longest: Option<Duration>) {
        self.state.rules().longest_silence = longest;
    }

    /// Resets one connection, once: the one that carries the last of the next `bytes` bytes in this
    /// direction.
    pub fn reset_after(&self, direction: Direction, bytes: u64) {
        self.state.rules().resets[direction as usize] = Some(bytes);
    }

    /// Cancels calls of [`Self::reset_after`] that have not taken effect yet.
    pub fn cancel_resets(&self) {
        self.state.rules().resets = [None; 2];
    }

    /// Whether a reset by [`Self::reset_after`] is still pending.
    pub fn reset_is_pending(&self, direction: Direction) -> bool {
        self.state.rules().resets[direction as usize].is_some()
    }

    /// Resets every open connection.
    pub fn cut(&self) {
        self.state.each_link(|link| link.end(RESET));
    }

    /// Closes every open connection with a FIN.
    pub fn close(&self) {
        self.state.each_link(|link| link.end(CLOSED));
    }

    /// Keeps the open connections open but carries nothing on them any more; new connections are
    /// not affected.
    pub fn freeze(&self) {
        self.state
            .each_link(|link| link.frozen.store(true, Ordering::Relaxed));
    }

    /// Sends an HTTP/2 GOAWAY to every client: its connection accepts no new requests.
    pub fn send_goaway(&self) {
        self.state
            .each_link(|link| link.goaway_pending.store(true, Ordering::Relaxed));
    }

    /// Number of connections accepted and forwarded since the start.
    pub fn connections(&self) -> u64 {
        self.state.opened.load(Ordering::Relaxed)
    }

    /// Number of connections open now.
    pub fn open_connections(&self) -> usize {
        self.state.links().len()
    }

    /// Bytes carried in a direction since the start.
    pub fn carried(&self, direction: Direction) -> u64 {
        self.state.carried[direction as usize].load(Ordering::Relaxed)
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

impl State {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.links
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    fn each_link(&self, act: impl Fn(&Link)) {
        self.links().iter().for_each(|link| act(link));
    }

    /// How many of these bytes pass, and whether the connection is reset after them.
    fn bytes_before_reset(&self, direction: Direction, bytes: usize) -> (usize, bool) {
        let mut rules = self.rules();
        let reset = &mut rules.resets[direction as usize];
        match *reset {
            Some(left) if left <= bytes as u64 => {
                *reset = None;
                (usize::try_from(left).unwrap_or(bytes), true)
            }
            left => {
                *reset = left.map(|left| left - bytes as u64);
                (bytes, false)
            }
        }
    }
}

impl Link {
    fn end(&self, how: u8) {
        self.end.fetch_max(how, Ordering::Relaxed);
    }

    fn last_carried(&self) -> MutexGuard<'_, Instant> {
        self.last_carried
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    /// Waits until the direction is not blocked and returns the rules; `None` once the connection
    /// ends.
    fn wait_until_passing(&self, direction: Direction, state: &State) -> Option<Rules> {
        while self.end.load(Ordering::Relaxed) == OPEN && !state.stopping.load(Ordering::Relaxed) {
            let rules = state.rules().clone();
            if !self.frozen.load(Ordering::Relaxed) && !rules.is_blocked(direction) {
                return Some(rules);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        None
    }

    /// Carries bytes in one direction until the connection ends.
    fn carry(&self, direction: Direction, state: &State) -> io::Result<()> {
        let (mut from, mut to) = match direction {
            Direction::ToServer => (&self.client, &self.server),
            Direction::ToClient => (&self.server, &self.client),
        };
        let mut frames = Frames::default();
        let mut buffer = [0; 16 << 10];
        while let Some(rules) = self.wait_until_passing(direction, state) {
            if direction == Direction::ToClient
                && frames.is_between()
                && self.goaway_pending.swap(false, Ordering::Relaxed)
            {
                to.write_all(&Frames::GOAWAY)?;
            }
            // Portions of at most 20 ms at the rate limit.
            let slice = match usize::try_from(rules.bytes_per_second / 50) {
                Ok(0) | Err(_) => buffer.len(),
                Ok(slice) => slice.min(buffer.len()),
            };
            let read = match from.read(&mut buffer[..slice]) {
                Ok(read) => read,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    if rules
                        .longest_silence
                        .is_some_and(|longest| self.last_carried().elapsed() > longest)
                    {
                        self.end(CLOSED);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            if read == 0 {
                return to.shutdown(Shutdown::Write);
            }
            std::thread::sleep(rules.next_delay() + rules.time_for(read));
            // Data read before a block began is held back too.
            let Some(_) = self.wait_until_passing(direction, state) else {
                break;
            };
            let (passes, reset) = state.bytes_before_reset(direction, read);
            // Counted before the write: a peer that has received the bytes never sees a count
            // without them.
            state.carried[direction as usize].fetch_add(passes as u64, Ordering::Relaxed);
            to.write_all(&buffer[..passes])?;
            frames.advance(&buffer[..passes]);
            *self.last_carried() = Instant::now();
            if reset {
                self.end(RESET);
            }
        }
        Ok(())
    }
}

/// Two threads for each connection; all are joined when the proxy stops.
fn accept(listener: &TcpListener, state: &Arc<State>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for client in listener.incoming() {
        if state.stopping.load(Ordering::Relaxed) {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        let Rules {
            refuses, server, ..
        } = state.rules().clone();
        // Dropping the client's socket ends its connection, both on refusal and if the server is
        // unreachable.
        let Some(link) = client
            .ok()
            .filter(|_| !refuses)
            .and_then(|client| open(client, server?))
        else {
            continue;
        };
        let link = Arc::new(link);
        state.opened.fetch_add(1, Ordering::Relaxed);
        state.links().push(Arc::clone(&link));
        let state = Arc::clone(state);
        threads.push(std::thread::spawn(move || {
            std::thread::scope(|scope| {
                for direction in [Direction::ToServer, Direction::ToClient] {
                    let link = &link;
                    let state = &state;
                    scope.spawn(move || {
                        if link.carry(direction, state).is_err() {
                            link.end(RESET);
                        }
                    });
                }
            });
            if link.end.load(Ordering::Relaxed) == RESET {
                for stream in [&link.client, &link.server] {
                    set_socket_linger(stream, Some(Duration::ZERO))
                        .expect("a socket has a linger option");
                }
            }
            state.links().retain(|other| !Arc::ptr_eq(other, &link));
        }));
    }
    // Unblocks writes whose peer does not read.
    state.each_link(|link| {
        drop(link.client.shutdown(Shutdown::Both));
        drop(link.server.shutdown(Shutdown::Both));
    });
    for thread in threads {
        drop(thread.join());
    }
}

fn open(client: TcpStream, server: SocketAddr) -> Option<Link> {
    let server = TcpStream::connect_timeout(&server, Duration::from_secs(1)).ok()?;
    for stream in [&client, &server] {
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(POLL_INTERVAL)).ok()?;
    }
    Some(Link {
        client,
        server,
        end: AtomicU8::new(OPEN),
        frozen: AtomicBool::new(false),
        goaway_pending: AtomicBool::new(false),
        last_carried: Mutex::new(Instant::now()),
    })
}

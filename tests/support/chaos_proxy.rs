//! A bad line: passes TCP on between workers and a coordinator, and does to it what a test says at run time.
//!
//! It changes no byte. A line that is dark holds back what is sent, as a partition does, and delivers it when it is light
//! again; a frozen connection never carries anything again, as if the host at its other end had been pulled.

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

use rand::RngExt;
use rustix::net::sockopt::set_socket_linger;
use tokio::time::Instant;

use crate::http2_frames::Frames;

/// How often a line that has nothing to carry looks whether anything has changed.
const GLANCE: Duration = Duration::from_millis(5);
const OPEN: u8 = 0;
const CLOSED: u8 = 1;
const RESET: u8 = 2;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Requests.
    ToServer,
    /// Answers.
    ToClient,
}

/// A running proxy; stops when it is dropped.
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    rules: Mutex<Rules>,
    links: Mutex<Vec<Arc<Link>>>,
    opened: AtomicU64,
    carried: [AtomicU64; 2],
    stopping: AtomicBool,
}

/// What happens to all connections from now on.
#[derive(Debug, Clone, Default)]
struct Rules {
    server: Option<SocketAddr>,
    refuses: bool,
    dark: [bool; 2],
    flapping: Option<Flapping>,
    delay: (Duration, Duration),
    bytes_per_second: u64,
    longest_silence: Option<Duration>,
    resets: [Option<u64>; 2],
}

#[derive(Debug, Clone, Copy)]
struct Flapping {
    since: Instant,
    light: Duration,
    dark: Duration,
}

/// Two connections that are one.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: TcpStream,
    end: AtomicU8,
    frozen: AtomicBool,
    farewell: AtomicBool,
    last_carried: Mutex<Instant>,
}

impl ChaosProxy {
    /// Listens on loopback before a server.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State::default());
        state.rules().server = Some(server);
        let acceptor = std::thread::spawn({
            let state = Arc::clone(&state);
            move || accept(&listener, &state)
        });
        Self { address, state, acceptor: Some(acceptor) }
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// New connections are led to this server from now on.
    pub fn lead_to(&self, server: SocketAddr) {
        self.state.rules().server = Some(server);
    }

    /// New connections are reset at once, or no longer.
    pub fn refuse(&self, refuses: bool) {
        self.state.rules().refuses = refuses;
    }

    /// Nothing gets through in this direction, or it does again; connections stay open.
    pub fn darken(&self, way: Way, dark: bool) {
        self.state.rules().dark[way as usize] = dark;
    }

    /// Nothing gets through in either direction, or it does again.
    pub fn partition(&self, cut_off: bool) {
        self.state.rules().dark = [cut_off; 2];
    }

    /// Light and dark take turns, beginning with light; for ever if it is not called again with no darkness.
    pub fn flap(&self, light: Duration, dark: Duration) {
        let flapping = Flapping { since: Instant::now(), light, dark };
        self.state.rules().flapping = Some(flapping).filter(|flapping| !flapping.dark.is_zero());
    }

    /// Whatever is carried comes so much later, give or take the second time.
    pub fn delay(&self, by: Duration, give_or_take: Duration) {
        self.state.rules().delay = (by, give_or_take);
    }

    /// Carries no more than so many bytes per second on each connection and direction; 0 lifts the limit.
    pub fn limit_rate(&self, bytes_per_second: u64) {
        self.state.rules().bytes_per_second = bytes_per_second;
    }

    /// Closes connections on which nothing was carried for so long.
    pub fn close_when_silent(&self, longest: Option<Duration>) {
        self.state.rules().longest_silence = longest;
    }

    /// After so many bytes more in this direction the connection that carries the last of them is reset: once.
    pub fn reset_after(&self, way: Way, bytes: u64) {
        self.state.rules().resets[way as usize] = Some(bytes);
    }

    /// Takes back what [`Self::reset_after`] was asked for and has not done.
    pub fn reset_no_more(&self) {
        self.state.rules().resets = [None; 2];
    }

    /// Whether a reset that was asked for is still to come.
    pub fn reset_is_pending(&self, way: Way) -> bool {
        self.state.rules().resets[way as usize].is_some()
    }

    /// Resets every connection that is open now.
    pub fn cut(&self) {
        self.state.each_link(|link| link.end(RESET));
    }

    /// Closes every connection that is open now in an orderly way.
    pub fn close(&self) {
        self.state.each_link(|link| link.end(CLOSED));
    }

    /// The connections that are open now stay so and never carry anything again; new ones do.
    pub fn freeze(&self) {
        self.state.each_link(|link| link.frozen.store(true, Ordering::Relaxed));
    }

    /// Tells every client in HTTP/2's words (GOAWAY) that its connection takes no new request.
    pub fn say_goodbye(&self) {
        self.state.each_link(|link| link.farewell.store(true, Ordering::Relaxed));
    }

    /// Connections that were ever accepted and led on.
    pub fn connections(&self) -> u64 {
        self.state.opened.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.state.links().len()
    }

    /// Bytes carried in a direction.
    pub fn carried(&self, way: Way) -> u64 {
        self.state.carried[way as usize].load(Ordering::Relaxed)
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
        self.rules.lock().expect("nothing panics while it holds this lock")
    }

    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.links.lock().expect("nothing panics while it holds this lock")
    }

    fn each_link(&self, act: impl Fn(&Link)) {
        self.links().iter().for_each(|link| act(link));
    }

    /// How many of these bytes still get through, and whether the connection is reset behind them.
    fn spring(&self, way: Way, bytes: usize) -> (usize, bool) {
        let mut rules = self.rules();
        let reset = &mut rules.resets[way as usize];
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

impl Rules {
    fn is_dark(&self, way: Way) -> bool {
        let flaps = self.flapping.is_some_and(|Flapping { since, light, dark }| {
            since.elapsed().as_nanos() % (light + dark).as_nanos() >= light.as_nanos()
        });
        self.dark[way as usize] || flaps
    }

    fn late(&self) -> Duration {
        let (by, give_or_take) = self.delay;
        (by + give_or_take.mul_f64(2.0 * rand::rng().random::<f64>())).saturating_sub(give_or_take)
    }

    fn time_for(&self, bytes: usize) -> Duration {
        (bytes as u64 * 1_000_000).checked_div(self.bytes_per_second).map(Duration::from_micros).unwrap_or_default()
    }
}

impl Link {
    fn end(&self, how: u8) {
        self.end.fetch_max(how, Ordering::Relaxed);
    }

    fn last_carried(&self) -> MutexGuard<'_, Instant> {
        self.last_carried.lock().expect("nothing panics while it holds this lock")
    }

    /// The rules by which something is carried next; `None` at the end.
    fn wait_for_light(&self, way: Way, state: &State) -> Option<Rules> {
        while self.end.load(Ordering::Relaxed) == OPEN && !state.stopping.load(Ordering::Relaxed) {
            let rules = state.rules().clone();
            if !self.frozen.load(Ordering::Relaxed) && !rules.is_dark(way) {
                return Some(rules);
            }
            std::thread::sleep(GLANCE);
        }
        None
    }

    /// Carries bytes one way until the connection ends.
    fn carry(&self, way: Way, state: &State) -> io::Result<()> {
        let (mut from, mut to) = match way {
            Way::ToServer => (&self.client, &self.server),
            Way::ToClient => (&self.server, &self.client),
        };
        let mut frames = Frames::default();
        let mut buffer = [0; 16 << 10];
        while let Some(rules) = self.wait_for_light(way, state) {
            if way == Way::ToClient && frames.is_between() && self.farewell.swap(false, Ordering::Relaxed) {
                to.write_all(&Frames::GOAWAY)?;
            }
            // A fiftieth of a second's worth at once.
            let slice = match usize::try_from(rules.bytes_per_second / 50) {
                Ok(0) | Err(_) => buffer.len(),
                Ok(slice) => slice.min(buffer.len()),
            };
            let read = match from.read(&mut buffer[..slice]) {
                Ok(read) => read,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if rules.longest_silence.is_some_and(|longest| self.last_carried().elapsed() > longest) {
                        self.end(CLOSED);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            if read == 0 {
                return to.shutdown(Shutdown::Write);
            }
            std::thread::sleep(rules.late() + rules.time_for(read));
            // What was under way when it became dark.
            let Some(_) = self.wait_for_light(way, state) else { break };
            let (passes, reset) = state.spring(way, read);
            // Noted first: once the other side has the bytes, nobody can look at a count without them.
            state.carried[way as usize].fetch_add(passes as u64, Ordering::Relaxed);
            to.write_all(&buffer[..passes])?;
            frames.saw(&buffer[..passes]);
            *self.last_carried() = Instant::now();
            if reset {
                self.end(RESET);
            }
        }
        Ok(())
    }
}

/// Two threads a connection; all are waited for when the proxy stops.
fn accept(listener: &TcpListener, state: &Arc<State>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for client in listener.incoming() {
        if state.stopping.load(Ordering::Relaxed) {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        let Rules { refuses, server, .. } = state.rules().clone();
        // Whether it is refused or the server is not there, the client sees the end of its connection.
        let Some(link) = client.ok().filter(|_| !refuses).and_then(|client| open(client, server?)) else { continue };
        let link = Arc::new(link);
        state.opened.fetch_add(1, Ordering::Relaxed);
        state.links().push(Arc::clone(&link));
        let state = Arc::clone(state);
        threads.push(std::thread::spawn(move || {
            std::thread::scope(|scope| {
                for way in [Way::ToServer, Way::ToClient] {
                    let (link, state) = (&link, &state);
                    scope.spawn(move || {
                        if link.carry(way, state).is_err() {
                            link.end(RESET);
                        }
                    });
                }
            });
            if link.end.load(Ordering::Relaxed) == RESET {
                for stream in [&link.client, &link.server] {
                    set_socket_linger(stream, Some(Duration::ZERO)).expect("a socket can be told not to linger");
                }
            }
            state.links().retain(|other| !Arc::ptr_eq(other, &link));
        }));
    }
    // Ends a write that nobody reads.
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
        stream.set_read_timeout(Some(GLANCE)).ok()?;
    }
    Some(Link {
        client,
        server,
        end: AtomicU8::new(OPEN),
        frozen: AtomicBool::new(false),
        farewell: AtomicBool::new(false),
        last_carried: Mutex::new(Instant::now()),
    })
}

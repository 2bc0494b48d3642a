//! A stand-in for ImageNet's server with a script of faults per class and a log of all requests.
//!
//! Faults are counted, not random: each scripted answer is given once, then the correct one again.

mod scripted;

use std::{
    collections::{HashMap, VecDeque},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

pub use crate::request_log::Request;
use crate::{
    answer::Answer, connection, content::Content, request_log::RequestLog, traffic::Traffic,
};
pub use scripted::Scripted;

/// A running server; stops when dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

/// Which headers identify the version of a tar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Validators {
    /// A strong `ETag` and `Last-Modified`.
    #[default]
    Strong,
    /// A weak `ETag` only.
    Weak,
    /// `Last-Modified` only.
    Date,
    /// Neither.
    None,
}

/// A served class: its tar and its script.
pub(crate) struct Class {
    pub(crate) content: Arc<dyn Content>,
    pub(crate) version: u32,
    pub(crate) validators: Validators,
    script: VecDeque<Answer>,
    forever: Option<Answer>,
    /// Answer to `HEAD` requests only.
    heads: Option<Answer>,
}

/// State that the origin shares with the threads of its connections.
#[derive(Default)]
pub(crate) struct State {
    classes: Mutex<HashMap<String, Class>>,
    requests: Mutex<RequestLog>,
    connections: Mutex<HashMap<u64, TcpStream>>,
    /// Answers to the GET requests with these numbers, for any class.
    numbered: Mutex<HashMap<u64, Answer>>,
    gets: AtomicU64,
    most_connections: AtomicU64,
    sent: AtomicU64,
    stalls_are_over: AtomicBool,
    pub(crate) traffic: Traffic,
    pub(crate) stopping: AtomicBool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("State").finish_non_exhaustive()
    }
}

impl Origin {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::listen("127.0.0.1:0").expect("a free port on loopback")
    }

    /// Listens on an address.
    pub fn listen(address: &str) -> std::io::Result<Self> {
        let listener = Arc::new(TcpListener::bind(address)?);
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let acceptor = std::thread::spawn({
            let listener = Arc::clone(&listener);
            let state = Arc::clone(&state);
            move || accept(&listener, &state)
        });
        Ok(Self {
            address,
            listener,
            state,
            acceptor: Some(acceptor),
        })
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves a class, with correct answers until a script changes that.
    pub fn class(&self, wnid: &str, content: impl Content + 'static) -> Scripted<'_> {
        let class = Class {
            content: Arc::new(content),
            version: 1,
            validators: Validators::default(),
            script: VecDeque::new(),
            forever: None,
            heads: None,
        };
        self.state.classes().insert(wnid.to_owned(), class);
        Scripted {
            origin: self,
            wnid: wnid.to_owned(),
        }
    }

    /// The script of a class that is already served.
    pub fn script_of(&self, wnid: &str) -> Option<Scripted<'_>> {
        let known = self.state.classes().contains_key(wnid);
        known.then(|| Scripted {
            origin: self,
            wnid: wnid.to_owned(),
        })
    }

    /// Sets the answer to the GET request with this number, for any class. Counted from 1, answered
    /// requests only.
    pub fn answer_request(&self, number: u64, answer: Answer) {
        self.state.numbered().insert(number, answer);
    }

    /// Limits each connection to `bytes_per_second`, from the next answer on; 0 removes the
    /// limit.
    pub fn limit_rate(&self, bytes_per_second: u64) {
        self.state
            .traffic
            .rate
            .store(bytes_per_second, Ordering::Relaxed);
    }

    /// Limits all connections together to `bytes_per_second`; 0 removes the limit.
    pub fn limit_total_rate(&self, bytes_per_second: u64) {
        self.state
            .traffic
            .total_rate
            .store(bytes_per_second, Ordering::Relaxed);
    }

    /// Simulates overload: as soon as more than `transfers` bodies are being sent at once, resets
    /// all of them. For the time of `silence` all requests then wait and their connections close
    /// without an answer.
    pub fn break_above(&self, transfers: usize, silence: Duration) {
        self.state.traffic.break_above(transfers, silence);
    }

    /// How often all transfers were reset because there were too many.
    pub fn overloads(&self) -> u64 {
        self.state.traffic.overloads()
    }

    /// Closes every stalled connection, now and in the future.
    pub fn end_stalls(&self) {
        self.state.stalls_are_over.store(true, Ordering::Relaxed);
    }

    /// All requests for a class, in order of arrival.
    pub fn requests(&self, wnid: &str) -> Vec<Request> {
        self.all_requests()
            .into_iter()
            .filter(|request| request.wnid == wnid)
            .collect()
    }

    /// The GET requests for a class.
    pub fn gets(&self, wnid: &str) -> Vec<Request> {
        self.requests(wnid)
            .into_iter()
            .filter(|request| request.method == "GET")
            .collect()
    }

    /// All requests.
    pub fn all_requests(&self) -> Vec<Request> {
        self.state.requests().requests.clone()
    }

    /// Clears the request log.
    pub fn forget_requests(&self) {
        self.state.requests().forget();
    }

    /// Bytes of bodies sent.
    pub fn bytes_sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// Bytes of tars that were sent more than once, according to the request log: for each class
    /// the bytes sent beyond the length of its tar.
    pub fn bytes_sent_again(&self) -> u64 {
        self.state.sent_again()
    }

    /// Number of connections open now.
    pub fn open_connections(&self) -> usize {
        self.state.connections().len()
    }

    /// Maximum number of bodies that were being sent at once.
    pub fn most_transfers(&self) -> u64 {
        self.state.traffic.most()
    }

    /// Maximum number of connections that were open at once.
    pub fn most_connections(&self) -> u64 {
        self.state.most_connections()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Relaxed);
        // Wakes the acceptor, which then closes the connections and joins their threads. On Linux
        // that works without a connection, which this thread may be unable to make: the origin may
        // be in another network namespace.
        if rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both).is_err() {
            drop(TcpStream::connect(self.address));
        }
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

impl State {
    fn classes(&self) -> MutexGuard<'_, HashMap<String, Class>> {
        self.classes
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    pub(crate) fn requests(&self) -> MutexGuard<'_, RequestLog> {
        self.requests
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, TcpStream>> {
        self.connections
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    fn numbered(&self) -> MutexGuard<'_, HashMap<u64, Answer>> {
        self.numbered
            .lock()
            .expect("nothing panics while it holds this lock")
    }

    pub(crate) fn most_connections(&self) -> u64 {
        self.most_connections.load(Ordering::Relaxed)
    }

    pub(crate) fn sent_again(&self) -> u64 {
        let log = self.requests();
        let classes = self.classes();
        let again = |(wnid, sent): (&str, u64)| {
            Some(sent.saturating_sub(classes.get(wnid)?.content.length()))
        };
        log.sent().into_iter().filter_map(again).sum()
    }

    /// Takes the next answer of a class and passes it with the class's current state to `look`;
    /// `None` if there is no such class.
    pub(crate) fn take_answer<T>(
        &self,
        wnid: &str,
        is_get: bool,
        look: impl FnOnce(Answer, &Class) -> T,
    ) -> Option<T> {
        let mut classes = self.classes();
        let class = classes.get_mut(wnid)?;
        let scripted = if is_get {
            self.take_numbered().or_else(|| class.script.pop_front())
        } else {
            None
        };
        let head = class.heads.clone().filter(|_| !is_get);
        let mut answer = scripted
            .or(head)
            .or_else(|| class.forever.clone())
            .unwrap_or_default();
        let replaced_by = answer.replaced_by.take();
        let seen = look(answer, class);
        if let Some(content) = replaced_by {
            class.content = content;
            class.version += 1;
        }
        Some(seen)
    }

    fn take_numbered(&self) -> Option<Answer> {
        let number = self.gets.fetch_add(1, Ordering::Relaxed) + 1;
        self.numbered().remove(&number)
    }

    /// Records a request and returns its number.
    pub(crate) fn record(&self, request: Request) -> usize {
        self.requests().record(request)
    }

    /// Records what was sent for the request with this number.
    pub(crate) fn note(&self, number: usize, status: u16, sent: u64) {
        self.sent.fetch_add(sent, Ordering::Relaxed);
        self.requests().note(number, status, sent);
    }

    /// Whether stalled answers stay stalled.
    pub(crate) fn stalls(&self) -> bool {
        !self.stalls_are_over.load(Ordering::Relaxed)
    }

    fn opened(&self, id: u64, stream: TcpStream) {
        let mut connections = self.connections();
        connections.insert(id, stream);
        self.most_connections
            .fetch_max(connections.len() as u64, Ordering::Relaxed);
    }
}

/// One thread per connection; all are joined when the origin stops.
fn accept(listener: &TcpListener, state: &Arc<State>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for id in 1.. {
        let accepted = listener.accept();
        if state.stopping.load(Ordering::Relaxed) {
            break;
        }
        let Ok((stream, _)) = accepted else { continue };
        let Ok(second) = stream.try_clone() else {
            continue;
        };
        state.opened(id, second);
        threads.retain(|thread| !thread.is_finished());
        let state = Arc::clone(state);
        threads.push(std::thread::spawn(move || {
            connection::serve(&stream, id, &state);
            drop(stream);
            state.connections().remove(&id);
        }));
    }
    for stream in state.connections().values() {
        drop(stream.shutdown(Shutdown::Both));
    }
    for thread in threads {
        drop(thread.join());
    }
}

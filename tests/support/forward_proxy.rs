//! A forward proxy for plain HTTP: takes one request per connection in absolute form and passes it
//! to a server. Only the proxy resolves the server's name.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// A running proxy; stops when it is dropped.
#[derive(Debug)]
pub struct ForwardProxy {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

/// State that the proxy shares with its thread.
#[derive(Debug, Default)]
struct State {
    stopping: AtomicBool,
    request_lines: Mutex<Vec<String>>,
}

impl ForwardProxy {
    /// Listens on loopback. Forwards a request for one of these authorities (`host:port`) to the
    /// server beside it; answers all others with 502.
    pub fn start(hosts: &[(&str, SocketAddr)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State::default());
        let hosts: Vec<_> = hosts
            .iter()
            .map(|(host, server)| (format!("http://{host}"), *server))
            .collect();
        let acceptor = std::thread::spawn({
            let state = Arc::clone(&state);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if state.stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    // An error on one connection, such as an early close by the client, does not
                    // affect others.
                    drop(pass_on(stream, &hosts, &state));
                }
            }
        });
        Self {
            address,
            state,
            acceptor: Some(acceptor),
        }
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The request lines so far.
    pub fn request_lines(&self) -> Vec<String> {
        self.state
            .request_lines
            .lock()
            .expect("nothing panics while it holds this lock")
            .clone()
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

fn pass_on(client: TcpStream, hosts: &[(String, SocketAddr)], state: &State) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = client.try_clone()?;
    let mut client = BufReader::new(client);
    let mut line = String::new();
    client.read_line(&mut line)?;
    state
        .request_lines
        .lock()
        .expect("nothing panics while it holds this lock")
        .push(line.trim_end().to_owned());
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    let path_on = |host: &str| {
        target
            .strip_prefix(host)
            .filter(|path| path.starts_with('/'))
    };
    let Some((path, server)) = hosts
        .iter()
        .find_map(|(host, server)| Some((path_on(host)?, server)))
    else {
        return answer.write_all(
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    };
    let mut server = TcpStream::connect(server)?;
    write!(server, "{method} {path} HTTP/1.1\r\n")?;
    line.clear();
    while client.read_line(&mut line)? > 2 {
        if !line.to_ascii_lowercase().starts_with("connection:") {
            server.write_all(line.as_bytes())?;
        }
        line.clear();
    }
    server.write_all(b"Connection: close\r\n\r\n")?;
    io::copy(&mut server, &mut answer).map(drop)
}

//! The door of the cluster: who may connect, and who may say what.
//!
//! [`incoming`] accepts a connection, registers it as pending in `connections` and does the
//! handshake; [`Gate`] looks at each call before its body is read; the first call with a valid
//! credential ends the pending state. A client without a credential can therefore hold a bounded
//! number of connections for a bounded time, `frame_cost` bounds the memory behind them, and
//! nothing that it sends is decoded. A credential that is revoked ends its calls (`call`), and its
//! connection is pending again.

mod call;
mod connection;
mod connections;
mod door;
mod frame_cost;
mod gate;
mod incoming;
mod init;
mod local;
mod role;
mod server_tls;
mod sparing;
mod tokens;

pub use connection::{Connection, Peer};
pub use door::{Door, DoorFiles, TlsFiles};
pub use gate::{Caller, Gate};
pub use incoming::incoming;
pub use init::{InitArgs, InitError, init};
pub use local::{SocketFile, bind_socket, local_connections};
pub use role::Role;

/// Calls at the same time on one connection. HTTP/2 recommends at least 100, and hyper's clients
/// open as many before they have seen this number; a worker has about five.
pub const MAX_STREAMS: u32 = 100;

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
mod frame_cost;
mod incoming;
mod layer;
mod local;
mod log_limiter;
mod role;
mod server_credentials;
mod server_tls;
mod tokens;

pub use connection::{Connection, Peer};
pub use incoming::incoming;
pub use layer::{Caller, Gate};
pub use local::{SocketFile, bind_socket, local_connections};
pub use role::Role;
pub use server_credentials::{Door, DoorFiles, TlsFiles};

/// Calls at the same time on one connection. HTTP/2 recommends at least 100, and hyper's clients
/// open as many before they have seen this number; a worker has about five.
pub const MAX_STREAMS: u32 = 100;

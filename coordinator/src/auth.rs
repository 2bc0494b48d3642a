//! Authentication and authorization: which clients may connect, and which calls they may make.
//!
//! [`incoming`] accepts a connection, registers it as pending in `connections` and performs the TLS
//! handshake. [`AuthLayer`], the auth layer, checks each call before its body is read. The first
//! call with a valid credential ends the pending state. A client without a credential can therefore
//! hold a bounded number of connections for a bounded time; `frame_cost` bounds their memory, and
//! none of their messages is decoded. Revoking a credential ends its calls (`call`) and makes its
//! connection pending again.

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
pub(crate) use layer::ShownToken;
pub use layer::{AuthLayer, Caller, authenticated};
pub use local::{SocketFile, bind_socket, local_connections};
pub use role::Role;
pub use server_credentials::{ServerCredentialFiles, ServerCredentials};

/// Concurrent calls on one connection. HTTP/2 recommends at least 100 (RFC 9113 §6.5.2), and
/// hyper's clients open as many before they have received this setting; a worker makes about five.
pub const MAX_STREAMS: u32 = 100;

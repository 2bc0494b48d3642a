//! The door of the cluster: who may connect, and who may say what.
//!
//! A connection passes in this order: [`incoming`] accepts it, seats it in the lobby and does the handshake; [`Gate`] looks
//! at each call before its body is read; the first call with a valid credential takes the connection out of the lobby.
//! Strangers can therefore hold a bounded number of connections for a bounded time, and nothing that they send is decoded.

mod connection;
mod door;
mod gate;
mod incoming;
mod init;
mod lobby;
mod role;
mod server_tls;
mod sparing;
mod throttle;
mod tokens;

pub use connection::{Connection, Peer};
pub use door::{Door, DoorFiles, TlsFiles};
pub use gate::{Caller, Gate};
pub use incoming::incoming;
pub use init::{InitArgs, InitError, init};
pub use role::Role;

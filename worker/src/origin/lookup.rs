//! Looks up host names for all HTTP clients of the process on one runtime, because the runtime of
//! a slot may have no thread for blocking lookups.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs as _},
};

use tokio::runtime::Handle;

/// The system's resolver found no address of a host, or did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name {host} cannot be looked up ({why})")]
pub(crate) struct LookupFailed {
    /// The host's name.
    pub(crate) host: String,
    /// The error of the resolver.
    pub(crate) why: String,
}

/// Calls the system's resolver in the blocking pool of one runtime.
#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    runtime: Handle,
}

impl Lookup {
    /// A lookup on the current runtime.
    pub(crate) fn on_current_runtime() -> Self {
        Self {
            runtime: Handle::current(),
        }
    }

    /// The addresses of a host, with port 0.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Vec<SocketAddr>, LookupFailed> {
        let name = host.to_owned();
        let found = self
            .runtime
            .spawn_blocking(move || (name.as_str(), 0).to_socket_addrs())
            .await
            .map_err(io::Error::other)
            .flatten();
        found.map(Iterator::collect).map_err(|error| LookupFailed {
            host: host.to_owned(),
            why: error.to_string(),
        })
    }
}

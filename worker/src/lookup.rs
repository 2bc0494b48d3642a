//! Looks up the addresses of hosts on one runtime for all clients of the process: the runtime of a
//! slot may have no thread for that.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs as _},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::runtime::Handle;

/// Asks the system's resolver in the blocking pool of one runtime.
#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    runtime: Handle,
}

impl Lookup {
    /// Looks up on the runtime that this is called on.
    pub(crate) fn on_current_runtime() -> Self {
        Self { runtime: Handle::current() }
    }

    /// The addresses of a host, with port 0.
    pub(crate) async fn addresses(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        let host = host.to_owned();
        let found = self.runtime.spawn_blocking(move || (host.as_str(), 0).to_socket_addrs());
        Ok(found.await.map_err(io::Error::other)??.collect())
    }
}

impl Resolve for Lookup {
    fn resolve(&self, name: Name) -> Resolving {
        let lookup = self.clone();
        Box::pin(async move {
            let found = lookup.addresses(name.as_str()).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

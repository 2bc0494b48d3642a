//! The addresses on which workers and commands reach the coordinator.

use std::net::SocketAddr;

use shared::{connect::SOCKET, http::ListenError, job_line::Screen, worker_name::host_name};
use tokio::net::TcpListener;

use super::{CoordinatorError, Job};
use crate::{
    auth::{self, AuthLayer, ServerCredentials},
    config::Exposure,
};

/// Prints the address and the command that starts a worker.
pub(super) fn announce(
    screen: &Screen,
    address: SocketAddr,
    credentials: &ServerCredentials,
    exposure: Exposure,
) {
    let has_tls = credentials.has_tls();
    let scheme = if has_tls { "https" } else { "http" };
    // With TLS, workers verify the name. An unspecified address is not one to connect to.
    let advertised = credentials.advertised_name();
    let advertised = advertised.filter(|_| !address.ip().is_loopback());
    let name = advertised.or_else(|| address.ip().is_unspecified().then(host_name));
    let host = name.map_or_else(
        || address.to_string(),
        |name| format!("{name}:{}", address.port()),
    );
    let note = match exposure {
        Exposure::Loopback => " (local only)",
        Exposure::Closed => "",
        Exposure::Insecure => " (INSECURE)",
    };
    let flags = credentials.worker_flags(exposure == Exposure::Loopback);
    screen.write_line(&format!("listening on {address}{note}; start workers with: worker --connect {scheme}://{host}{flags}"));
    if exposure == Exposure::Insecure {
        let wire = if has_tls { "encrypted" } else { "plaintext" };
        let who = if credentials.requires_credential() {
            "with a credential"
        } else {
            "that reaches the port"
        };
        tracing::warn!(
            "--insecure: any program {who} can join at {address}, and the wire is {wire}; see `coordinator init`"
        );
    }
}

/// Binds an address, if there is one. Returns it with its actual port.
pub(super) async fn listen(
    address: Option<SocketAddr>,
) -> Result<Option<(TcpListener, SocketAddr)>, CoordinatorError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address).await;
    let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (bound, listener) = bound.map_err(|source| ListenError::at(address, "--listen", source))?;
    Ok(Some((listener, bound)))
}

impl Job {
    /// Listens on the socket in the target, for commands of this user. If that fails, the job runs
    /// without it; commands then need `--listen`.
    pub(super) fn listen_in_target(&mut self) {
        match auth::bind_socket(&self.target) {
            Ok((socket, listener)) => {
                self.socket = Some(socket);
                self.serve(AuthLayer::operator(), auth::local_connections(listener));
            }
            Err(error) => {
                let line = format!(
                    "no socket {SOCKET} in the target: {error}; for `coordinator status` and other commands, start this \
                     program with --listen and give them --connect"
                );
                if self.is_open {
                    tracing::info!("{line}");
                } else {
                    tracing::warn!("{line}");
                }
            }
        }
    }
}

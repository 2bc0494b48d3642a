//! The addresses on which workers and commands reach the coordinator.

use std::{io, net::SocketAddr, path::Path};

use shared::{connect::SOCKET, job::JobOptions, job_line::Screen, shutdown::Shutdown};
use tokio::net::TcpListener;

use super::Job;
use crate::job::CoordinatorError;
use crate::{
    auth::{self, AuthLayer, ServerCredentials},
    config::Exposure,
    rpc::service::LeaseTerms,
};

/// Prints the address and the command that starts a worker.
pub(super) fn announce(
    screen: &Screen,
    address: SocketAddr,
    door: &ServerCredentials,
    exposure: Exposure,
) {
    let scheme = if door.has_tls() { "https" } else { "http" };
    // With TLS, workers verify the name. An unspecified address is not one to connect to.
    let advertised = door
        .advertised_name()
        .filter(|_| !address.ip().is_loopback());
    let host = match advertised {
        Some(name) => format!("{name}:{}", address.port()),
        None if address.ip().is_unspecified() => {
            format!("{}:{}", shared::worker_name::host_name(), address.port())
        }
        None => address.to_string(),
    };
    let note = match exposure {
        Exposure::Loopback => " (local only)",
        Exposure::Closed => "",
        Exposure::Insecure => " (INSECURE)",
    };
    let flags = door.worker_flags(exposure == Exposure::Loopback);
    screen.say(&format!("listening on {address}{note}; start workers with: worker --connect {scheme}://{host}{flags}"));
    if exposure == Exposure::Insecure {
        let wire = if door.has_tls() {
            "encrypted"
        } else {
            "plaintext"
        };
        let who = if door.requires_credential() {
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
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Some((listener, address)))
    };
    bound
        .await
        .map_err(|source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => CoordinatorError::AddressInUse(address),
            _ => CoordinatorError::Listen { address, source },
        })
}

impl Job {
    /// Listens on the socket in the target, for commands of this user. If that fails, the job runs
    /// without it; commands then need `--listen`.
    pub(super) fn listen_in(
        &mut self,
        target: &Path,
        options: &JobOptions,
        terms: LeaseTerms,
        stop: Shutdown,
        has_address: bool,
    ) {
        match auth::bind_socket(target) {
            Ok((socket, listener)) => {
                self.socket = Some(socket);
                self.serve(
                    options,
                    terms,
                    AuthLayer::operator(),
                    auth::local_connections(listener),
                    stop,
                );
            }
            Err(error) => {
                let line = format!(
                    "no socket {SOCKET} in the target: {error}; for `coordinator status` and other commands, start this \
                     program with --listen and give them --connect"
                );
                if has_address {
                    tracing::info!("{line}");
                } else {
                    tracing::warn!("{line}");
                }
            }
        }
    }
}

//! How a program reaches the coordinator: the worker, and the coordinator's own commands.

use std::{str::FromStr, time::Duration};

use clap::Args;
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, sync::mpsc};
use tonic::transport::{Channel, Endpoint, Uri};
use url::Url;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes in flight on an in-process connection.
const IN_PROCESS_BUFFER: usize = 64 << 10;

/// Where the coordinator is.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// Address of the coordinator, e.g. `http://127.0.0.1:50051`
    #[arg(long, env = "IMAGENET_CONNECT", hide_env_values = true, value_name = "URL")]
    pub connect: Address,
}

impl ConnectArgs {
    /// The way to the coordinator that the arguments name.
    ///
    /// # Errors
    /// [`ConnectError`], one sentence that names the flag.
    pub fn connector(&self) -> Result<Connector, ConnectError> {
        let endpoint = Endpoint::from_shared(self.connect.0.to_string()).map_err(|_| ConnectError::Address)?;
        Ok(Connector::Tcp(Box::new(kept_alive(endpoint))))
    }
}

/// The address of a coordinator, `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Url);

/// The text is no address of a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no address like http://127.0.0.1:50051")]
pub struct InvalidAddress;

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let url = Url::parse(text).map_err(|_| InvalidAddress)?;
        if url.scheme() != "http" || url.host().is_none() {
            return Err(InvalidAddress);
        }
        Ok(Self(url))
    }
}

/// Why the arguments lead to no coordinator.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not of the kind that HTTP takes.
    #[error("use the value of --connect: {InvalidAddress}")]
    Address,
}

/// How to reach the coordinator.
#[derive(Debug, Clone)]
pub enum Connector {
    /// Over TCP.
    Tcp(Box<Endpoint>),
    /// In the same process: each connection is handed to the coordinator through this channel.
    InProcess(mpsc::Sender<DuplexStream>),
}

/// What a generated client stands on: `CoordinatorClient::new(connector.channel())`. Clones share one connection.
pub type CoordinatorChannel = Channel;

impl Connector {
    /// Connects at the first call, and again whenever the connection is lost. Calls need a deadline of their own: tonic's
    /// does not cover connecting (grpc-rust issue 1635).
    pub fn channel(&self) -> CoordinatorChannel {
        match self {
            Self::Tcp(endpoint) => endpoint.connect_lazy(),
            Self::InProcess(coordinator) => {
                let coordinator = coordinator.clone();
                let connect = tower::service_fn(move |_: Uri| {
                    let coordinator = coordinator.clone();
                    async move {
                        let (near, far) = tokio::io::duplex(IN_PROCESS_BUFFER);
                        let gone = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                        coordinator.send(far).await.map_err(gone)?;
                        Ok::<_, std::io::Error>(TokioIo::new(near))
                    }
                });
                Endpoint::from_static("http://in-process").connect_with_connector_lazy(connect)
            }
        }
    }
}

fn kept_alive(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_with_a_host() {
        for wrong in ["127.0.0.1:50051", "ftp://h", "http://", ""] {
            assert_eq!(wrong.parse::<Address>(), Err(InvalidAddress), "{wrong}");
        }
        assert!("http://127.0.0.1:50051".parse::<Address>().is_ok());
    }
}

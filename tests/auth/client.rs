//! An independent client of all services.

use std::{net::SocketAddr, time::Duration};

use bytes::{Buf as _, BufMut as _};
use proto::{admin_client::AdminClient, coordinator_client::CoordinatorClient};
use tokio::runtime::Runtime;
use tonic::{
    Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// A client with or without a credential, over plaintext on loopback.
pub(crate) struct Client {
    pub(crate) runtime: Runtime,
    address: SocketAddr,
    bearer: Option<String>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, token: Option<&str>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        Self {
            runtime,
            address,
            bearer: token.map(|token| format!("Bearer {token}")),
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        let address = format!("http://{}", self.address);
        let _guard = self.runtime.enter();
        Channel::from_shared(address)
            .expect("an address")
            .connect_lazy()
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(Duration::from_secs(20));
        if let Some(bearer) = &self.bearer {
            request
                .metadata_mut()
                .insert("authorization", bearer.parse().expect("visible characters"));
        }
        request
    }

    pub(crate) fn register(&self, name: &str) -> Result<proto::RegisterReply, Status> {
        self.register_as(name, name.as_bytes())
    }

    /// Registers as this process (`instance`) of a worker.
    pub(crate) fn register_as(
        &self,
        name: &str,
        instance: &[u8],
    ) -> Result<proto::RegisterReply, Status> {
        let request = self.request(proto::RegisterRequest {
            protocol_version: 1,
            worker_name: name.to_owned(),
            instance_nonce: instance.to_vec(),
            slots: 1,
            ..Default::default()
        });
        let call = async {
            CoordinatorClient::new(self.channel())
                .register(request)
                .await
        };
        self.runtime.block_on(call).map(tonic::Response::into_inner)
    }

    pub(crate) fn report(
        &self,
        request: proto::ReportRequest,
    ) -> Result<proto::ReportReply, Status> {
        let request = self.request(request);
        let call = async {
            CoordinatorClient::new(self.channel())
                .max_encoding_message_size(usize::MAX)
                .report(request)
                .await
        };
        self.runtime.block_on(call).map(tonic::Response::into_inner)
    }

    /// Calls a method with these bytes as its message.
    pub(crate) fn raw(&self, path: &'static str, message: Vec<u8>) -> Result<(), Status> {
        let request = self.request(message);
        let path = path.parse().expect("a path");
        let call = async {
            let mut client = tonic::client::Grpc::new(self.channel());
            client
                .ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            client.unary(request, path, RawCodec).await
        };
        self.runtime.block_on(call).map(drop)
    }

    /// Whether the coordinator knows the session and renews it.
    pub(crate) fn renews(&self, session_id: u64) -> bool {
        let request = self.request(proto::RenewRequest {
            session_id,
            ..Default::default()
        });
        let call = async { CoordinatorClient::new(self.channel()).renew(request).await };
        let reply = self.runtime.block_on(call).map(tonic::Response::into_inner);
        reply.is_ok_and(|reply| reply.directive() == proto::Directive::Continue)
    }

    pub(crate) fn renew(&self, session_id: u64) -> Result<(), Status> {
        let request = self.request(proto::RenewRequest {
            session_id,
            ..Default::default()
        });
        let call = async { CoordinatorClient::new(self.channel()).renew(request).await };
        self.runtime.block_on(call).map(drop)
    }

    pub(crate) fn watch(&self) -> Result<(), Status> {
        let request = self.request(proto::WatchRequest {});
        let call = async { CoordinatorClient::new(self.channel()).watch(request).await };
        self.runtime.block_on(call).map(drop)
    }

    pub(crate) fn fleet(&self) -> Result<(), Status> {
        let request = self.request(proto::GetFleetRequest {});
        let call = async { AdminClient::new(self.channel()).get_fleet(request).await };
        self.runtime.block_on(call).map(drop)
    }

    /// Calls once and leaves the connection open; dropping the channel closes it.
    pub(crate) fn fleet_and_stay(&self) -> Result<Channel, Status> {
        let channel = self.channel();
        let request = self.request(proto::GetFleetRequest {});
        let mut client = AdminClient::new(channel.clone());
        self.runtime.block_on(client.get_fleet(request))?;
        Ok(channel)
    }

    pub(crate) fn retry(&self) -> Result<(), Status> {
        let request = self.request(proto::RetryFailedRequest {
            wnids: vec!["n99999999".to_owned()],
        });
        let call = async { AdminClient::new(self.channel()).retry_failed(request).await };
        self.runtime.block_on(call).map(drop)
    }

    pub(crate) fn drain(&self) -> Result<(), Status> {
        let request = self.request(proto::DrainWorkerRequest {
            worker_name: "absent".to_owned(),
        });
        let call = async { AdminClient::new(self.channel()).drain_worker(request).await };
        self.runtime.block_on(call).map(drop)
    }

    pub(crate) fn calls(&self) -> [Result<(), Status>; 6] {
        [
            self.register("raw").map(drop),
            self.renew(1),
            self.watch(),
            self.fleet(),
            self.retry(),
            self.drain(),
        ]
    }
}

/// A codec that sends messages as raw bytes.
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}

//! Permissions of each role (S15, S18), tested with an independent client.

use std::{net::SocketAddr, time::Duration};

use bytes::{Buf as _, BufMut as _};
use proto::{admin_client::AdminClient, coordinator_client::CoordinatorClient};
use tests::{
    cluster::Table,
    log::{has_line, lines_with},
    wait::{wait_for, wait_until},
};
use tokio::runtime::Runtime;
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use super::Cluster;

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

    fn renew(&self, session_id: u64) -> Result<(), Status> {
        let request = self.request(proto::RenewRequest {
            session_id,
            ..Default::default()
        });
        let call = async { CoordinatorClient::new(self.channel()).renew(request).await };
        self.runtime.block_on(call).map(drop)
    }

    fn watch(&self) -> Result<(), Status> {
        let request = self.request(proto::WatchRequest {});
        let call = async { CoordinatorClient::new(self.channel()).watch(request).await };
        self.runtime.block_on(call).map(drop)
    }

    fn fleet(&self) -> Result<(), Status> {
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

    fn retry(&self) -> Result<(), Status> {
        let request = self.request(proto::RetryFailedRequest {
            wnids: vec!["n99999999".to_owned()],
        });
        let call = async { AdminClient::new(self.channel()).retry_failed(request).await };
        self.runtime.block_on(call).map(drop)
    }

    fn drain(&self) -> Result<(), Status> {
        let request = self.request(proto::DrainWorkerRequest {
            worker_name: "absent".to_owned(),
        });
        let call = async { AdminClient::new(self.channel()).drain_worker(request).await };
        self.runtime.block_on(call).map(drop)
    }

    fn calls(&self) -> [Result<(), Status>; 6] {
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

/// The status codes of denied calls; `None` for a call that was permitted, even if it failed for
/// another reason.
fn denied(client: &Client) -> [Option<Code>; 6] {
    client.calls().map(|result| {
        result.err().map(|status| status.code()).filter(|code| {
            matches!(
                code,
                Code::Unauthenticated | Code::PermissionDenied | Code::ResourceExhausted
            )
        })
    })
}

#[test]
fn each_role_may_do_its_own_and_no_more() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let secrets = ["worker.token", "viewer.token", "admin.token"].map(|name| cluster.secret(name));
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let forbidden = Some(Code::PermissionDenied);
    // Register, Renew, Watch, GetFleet, RetryFailed, DrainWorker.
    let allowed = [
        [None, None, forbidden, forbidden, forbidden, forbidden],
        [forbidden, forbidden, None, None, forbidden, forbidden],
        [forbidden, forbidden, None, None, None, None],
    ];
    for (secret, allowed) in secrets.iter().zip(allowed) {
        assert_eq!(
            denied(&Client::new(coordinator.address, Some(secret))),
            allowed
        );
    }
    coordinator.running.kill();
}

#[test]
fn without_a_valid_token_every_call_gets_the_same_answer() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let secret = cluster.secret("worker.token");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let session = Client::new(coordinator.address, Some(&secret))
        .register("known")
        .expect("the token is valid")
        .session_id;
    // A known and an unknown session, a worker's call and an admin's, a token with one wrong
    // letter: all get the same answer.
    let (front, back) = secret.split_at(secret.len() - 10);
    let almost = format!(
        "{front}{}{}",
        if back.starts_with('a') { 'b' } else { 'a' },
        &back[1..]
    );
    for token in [None, Some("0123456789abcdef"), Some(almost.as_str())] {
        let client = Client::new(coordinator.address, token);
        let answers: Vec<(Code, String)> = [
            client.renew(session),
            client.renew(session + 1),
            client.retry(),
        ]
        .into_iter()
        .map(|result| result.expect_err("there is no valid token"))
        .map(|status| (status.code(), status.message().to_owned()))
        .collect();
        assert!(
            answers
                .iter()
                .all(|(code, _)| *code == Code::Unauthenticated),
            "{answers:?}"
        );
        assert!(
            answers.iter().all(|(_, message)| *message == answers[0].1),
            "{answers:?}"
        );
    }
    coordinator.running.kill();
}

#[test]
fn a_probe_needs_no_token_and_other_services_do() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let unauthenticated = Client::new(coordinator.address, None);
    assert!(
        unauthenticated
            .raw("/grpc.health.v1.Health/Check", Vec::new())
            .is_ok()
    );
    for path in [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health",
        "/",
        "/x/Check",
    ] {
        assert_eq!(
            unauthenticated
                .raw(path, Vec::new())
                .expect_err("no token")
                .code(),
            Code::Unauthenticated,
            "{path}"
        );
    }
    coordinator.running.kill();
}

/// A crowd of wrong tokens is told a few times and counted, and keeps no valid one out.
#[test]
fn wrong_tokens_do_not_fill_the_log_and_valid_ones_pass() {
    let cluster = Cluster::of(1);
    let tokens = cluster.path("tokens");
    let secret = cluster.secret("worker.token");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let (wrong, valid) = (
        Client::new(coordinator.address, Some("0123456789abcdef")),
        Client::new(coordinator.address, Some(&secret)),
    );
    for _ in 0..50 {
        assert_eq!(
            wrong.renew(1).expect_err("it is wrong").code(),
            Code::Unauthenticated
        );
    }
    assert!(valid.renew(1).is_ok());
    let lines = || lines_with(&job.log(), &["a call was refused"]).len();
    wait_for("a refusal is in the log", Duration::from_secs(20), || {
        lines() > 0
    });
    coordinator.running.kill();
    let lines = lines();
    // Five a minute; a minute may end meanwhile.
    assert!((1..=10).contains(&lines), "{lines} lines");
}

#[test]
fn tokens_are_read_again_when_their_file_changes() {
    let cluster = Cluster::of(1);
    let file = cluster.file("tokens");
    let secret = cluster.secret("worker.token");
    let tokens = cluster.path("tokens");
    let job = cluster.job.args(["--token-file", &tokens]);
    let coordinator = job.start_coordinator();
    let old = Client::new(coordinator.address, Some(&secret));
    let new = Client::new(coordinator.address, Some("a-new-token-0123"));
    assert!(old.renew(1).is_ok());
    let within = |is_so: &dyn Fn() -> bool| {
        wait_until(Duration::from_secs(10), || is_so().then_some(())).is_some()
    };
    std::fs::write(&file, format!("worker {secret}\nworker a-new-token-0123\n"))
        .expect("the folder is ours");
    assert!(
        within(&|| new.renew(1).is_ok()) && old.renew(1).is_ok(),
        "both are valid"
    );
    std::fs::write(&file, "worker a-new-token-0123\n").expect("the folder is ours");
    assert!(
        within(&|| old.renew(1).is_err()) && new.renew(1).is_ok(),
        "only the new one is valid"
    );
    std::fs::write(&file, "no token\n").expect("the folder is ours");
    let rejected = || has_line(&job.log(), &["the old content stays in use"]);
    assert!(within(&rejected), "the invalid file is logged");
    assert!(
        new.renew(1).is_ok(),
        "with an invalid file the old tokens stay valid"
    );
    coordinator.running.kill();
}

#[test]
fn without_any_credential_loopback_is_open() {
    let cluster = Cluster::of(1);
    let coordinator = cluster.job.start_coordinator();
    let client = Client::new(coordinator.address, None);
    assert_eq!(denied(&client), [None; 6]);
    let worker = cluster
        .job
        .start_worker("w1", &coordinator, cluster.job.target_path());
    assert_eq!(worker.wait().code, Some(0));
    cluster
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(1, 0, 0));
}

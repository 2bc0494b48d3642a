//! The hostile worker and its attacks.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use futures_util::stream;
use proto::{coordinator_client::CoordinatorClient, outcome::Kind};
use tokio::time::sleep;
use tonic::{Status, transport::Channel};

/// The attack that the hostile worker repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attack {
    /// Reports every class as failed, with a hundred guessed tokens each.
    GuessTokens,
    /// Requests thousands of leases and holds the granted ones for 50 ms.
    HoardLeases,
    /// Claims to hold all classes, with tokens of earlier coordinators.
    ClaimOldTokens,
    /// Registers with a new name and reports a class as failed with the origin as the suspect.
    FailWithNewNames,
    /// Reports a `Retry-After` of 15 minutes from the origin, and leaves.
    ReportRetryAfter,
    /// Registers storages that the coordinator does not know.
    RegisterStorages,
    /// Reports a failure with a long message of control characters.
    SendEscapes,
}

impl Attack {
    pub(super) const ALL: [Self; 7] = [
        Self::GuessTokens,
        Self::HoardLeases,
        Self::ClaimOldTokens,
        Self::FailWithNewNames,
        Self::ReportRetryAfter,
        Self::RegisterStorages,
        Self::SendEscapes,
    ];
}

/// A client of the protocol that is not our worker.
pub(super) struct HostileWorker {
    pub(super) client: CoordinatorClient<Channel>,
    wnids: Vec<String>,
    /// Number of names that it has registered with.
    names: u64,
    /// Classes that it has reported as failed.
    failed: HashSet<String>,
}

impl HostileWorker {
    /// Connects at the first call; `wnids` are the classes that it attacks.
    pub(super) fn new(address: SocketAddr, wnids: Vec<String>) -> Self {
        let channel = Channel::from_shared(format!("http://{address}")).expect("an address");
        let client = CoordinatorClient::new(channel.connect_lazy());
        Self {
            client: client.max_encoding_message_size(usize::MAX),
            wnids,
            names: 0,
            failed: HashSet::new(),
        }
    }

    pub(super) async fn register(
        &mut self,
        slots: u32,
        held: Vec<proto::Held>,
        storage: bool,
    ) -> Result<u64, Status> {
        self.names += 1;
        let name = format!("hostile {}", self.names);
        let request = proto::RegisterRequest {
            protocol_version: 1,
            worker_name: name.clone(),
            instance_nonce: name.clone().into_bytes(),
            slots,
            held,
            storage_id: if storage { name } else { String::new() },
            ..Default::default()
        };
        Ok(self.client.register(request).await?.into_inner().session_id)
    }

    /// Returns the leases that are granted within 200 ms.
    pub(super) async fn acquire(&mut self, session_id: u64, max: u32) -> Vec<proto::Lease> {
        let request = proto::AcquireRequest {
            session_id,
            max,
            held: vec![],
        };
        let call = tokio::time::timeout(Duration::from_millis(200), self.client.acquire(request));
        call.await.map_or(vec![], |reply| {
            reply.map_or(vec![], |reply| reply.into_inner().leases)
        })
    }

    pub(super) async fn fail(
        &mut self,
        session_id: u64,
        leases: impl Iterator<Item = (String, u64)>,
        message: &str,
        suspect: proto::Suspect,
    ) -> Result<(), Status> {
        let failure = proto::Failure {
            kind: proto::FailureKind::Timeout.into(),
            message: message.to_owned(),
            suspect: suspect.into(),
            ..proto::Failure::default()
        };
        let outcome = Some(proto::Outcome {
            kind: Some(Kind::Failure(failure)),
        });
        let result = |(wnid, token)| proto::Result {
            wnid,
            token,
            outcome: outcome.clone(),
            traceparent: String::new(),
            needs_lease: false,
        };
        let request = proto::ReportRequest {
            session_id,
            results: leases.map(result).collect(),
            ..Default::default()
        };
        self.client.report(request).await.map(drop)
    }

    async fn leave(&mut self, session_id: u64) -> Result<(), Status> {
        self.client
            .leave(proto::LeaveRequest {
                session_id,
                ..Default::default()
            })
            .await
            .map(drop)
    }

    async fn report_retry_after(&mut self, session_id: u64) -> Result<(), Status> {
        let observation = proto::Observation {
            session_id,
            refusals: 1,
            retry_after_ms: 15 * 60 * 1000,
            ..Default::default()
        };
        let mut budgets = self
            .client
            .pace(stream::iter([observation]))
            .await?
            .into_inner();
        let budget = budgets.message().await?.unwrap_or_default();
        assert!(
            budget.pause_ms > 800_000 || budget.pause_ms == 0,
            "{budget:?}"
        );
        Ok(())
    }

    /// Runs the attack once; returns the number of attempts.
    async fn attack(&mut self, attack: Attack) -> Result<u64, Status> {
        match attack {
            Attack::GuessTokens => self.guess_tokens().await,
            Attack::HoardLeases => self.hoard_leases().await,
            Attack::ClaimOldTokens => self.claim_old_tokens().await,
            Attack::FailWithNewNames => self.fail_with_new_names().await,
            Attack::ReportRetryAfter => self.pause_origin().await,
            Attack::RegisterStorages => self.register_storage().await,
            Attack::SendEscapes => self.send_escapes().await,
        }
    }

    async fn guess_tokens(&mut self) -> Result<u64, Status> {
        let session = self.register(1, vec![], false).await?;
        for guess in 1..=100 {
            let token = (1 << 32) + guess;
            let leases: Vec<_> = self
                .wnids
                .iter()
                .map(|wnid| (wnid.clone(), token))
                .collect();
            self.fail(
                session,
                leases.into_iter(),
                "guessed",
                proto::Suspect::Class,
            )
            .await?;
        }
        self.leave(session).await?;
        Ok(100 * self.wnids.len() as u64)
    }

    async fn hoard_leases(&mut self) -> Result<u64, Status> {
        let session = self.register(1, vec![], false).await?;
        let leases = self.acquire(session, 4096).await;
        let more = self.acquire(session, 4096).await;
        assert!(
            leases.len() + more.len() <= 1,
            "{} and {}",
            leases.len(),
            more.len()
        );
        sleep(Duration::from_millis(50)).await;
        self.leave(session).await?;
        Ok(2)
    }

    async fn claim_old_tokens(&mut self) -> Result<u64, Status> {
        for token in [1, (1 << 32) - 1, 1 << 32] {
            let held = self.wnids.iter().map(|wnid| proto::Held {
                wnid: wnid.clone(),
                token,
                ..Default::default()
            });
            let session = self.register(1000, held.collect(), false).await?;
            self.leave(session).await?;
        }
        Ok(3)
    }

    async fn fail_with_new_names(&mut self) -> Result<u64, Status> {
        // 14 failures would open the circuit breaker; more would only make the test longer.
        if self.names >= 14 {
            sleep(Duration::from_millis(50)).await;
            return Ok(0);
        }
        let session = self.register(1, vec![], false).await?;
        let granted = self.acquire(session, 1).await;
        // Two failures settle a class as failed. A second failure of the same class would
        // count as one of another worker, because the names differ.
        let new = granted
            .into_iter()
            .filter(|lease| self.failed.insert(lease.wnid.clone()));
        let leases: Vec<_> = new.map(|lease| (lease.wnid, lease.token)).collect();
        self.fail(
            session,
            leases.into_iter(),
            "no answer",
            proto::Suspect::Origin,
        )
        .await?;
        self.leave(session).await?;
        Ok(1)
    }

    async fn pause_origin(&mut self) -> Result<u64, Status> {
        let session = self.register(1, vec![], false).await?;
        self.report_retry_after(session).await?;
        self.leave(session).await?;
        sleep(Duration::from_millis(500)).await;
        Ok(1)
    }

    async fn register_storage(&mut self) -> Result<u64, Status> {
        self.register(1, vec![], true).await?;
        sleep(Duration::from_millis(50)).await;
        Ok(1)
    }

    async fn send_escapes(&mut self) -> Result<u64, Status> {
        let session = self.register(1, vec![], false).await?;
        let message = "\u{1}\u{202e}".repeat(500_000);
        let guessed = std::iter::once((self.wnids[0].clone(), 1));
        self.fail(session, guessed, &message, proto::Suspect::WorkerHost)
            .await?;
        let refused = self
            .fail(
                session,
                std::iter::once((message, 1)),
                "",
                proto::Suspect::WorkerHost,
            )
            .await;
        let refused = refused.expect_err("the class id is invalid");
        assert!(
            refused.message().len() < 1000,
            "{} bytes",
            refused.message().len()
        );
        self.leave(session).await?;
        sleep(Duration::from_millis(50)).await;
        Ok(2)
    }
}

/// The thread of the running hostile worker.
pub(super) struct RunningAttack {
    stop: Arc<AtomicBool>,
    tries: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl RunningAttack {
    pub(super) fn start(attack: Attack, address: SocketAddr, wnids: Vec<String>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let tries = Arc::<AtomicU64>::default();
        let until = Arc::clone(&stop);
        let counted = Arc::clone(&tries);
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let mut hostile = HostileWorker::new(address, wnids);
                while !until.load(Ordering::Relaxed) {
                    match hostile.attack(attack).await {
                        Ok(times) => drop(counted.fetch_add(times, Ordering::Relaxed)),
                        // The coordinator has not started yet or has ended.
                        Err(_) => sleep(Duration::from_millis(20)).await,
                    }
                }
            });
        });
        Self {
            stop,
            tries,
            thread,
        }
    }

    pub(super) fn tries(&self) -> u64 {
        self.tries.load(Ordering::Relaxed)
    }

    #[track_caller]
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .expect("the answers to the attack are as expected");
    }
}

/// A runtime for one thread.
pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

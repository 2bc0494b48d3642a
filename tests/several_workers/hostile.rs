//! One hostile worker beside honest ones: it speaks the protocol and repeats one attack. The others
//! do all classes, and it settles none of theirs.
//!
//! `RATES=3 cargo test -p tests --test several_workers hostile::rates -- --nocapture` runs longer
//! jobs, three pairs for each attack, and prints how fast the honest workers are beside it, as a
//! part of their rate without it.

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
use tests::{cluster::Table, fleet::Fleet, running::Running};
use tokio::time::{Instant, sleep};
use tonic::{Status, transport::Channel};

/// Bytes per second and connection; a class has some 75 KB.
const RATE: u64 = 100_000;
const SLOTS: u32 = 4;

/// What the hostile worker does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attack {
    /// Reports every class as failed, under a hundred guessed tokens each.
    Guesses,
    /// Asks for thousands of leases, and holds what it gets for a moment.
    Hoards,
    /// Claims all classes under tokens of former coordinators.
    Claims,
    /// Fails a class under a new name, as the origin's fault.
    FailsUnderNewNames,
    /// Says that the origin has asked for a quarter of an hour, and leaves.
    AsksToWait,
    /// Registers storages of which nothing is known.
    Storages,
    /// Fails its own class with a message of escapes.
    Escapes,
}

impl Attack {
    const ALL: [Self; 7] = [
        Self::Guesses,
        Self::Hoards,
        Self::Claims,
        Self::FailsUnderNewNames,
        Self::AsksToWait,
        Self::Storages,
        Self::Escapes,
    ];
}

/// A client of the protocol that is none of ours.
struct Hostile {
    client: CoordinatorClient<Channel>,
    wnids: Vec<String>,
    names: u64,
    /// Classes that it has failed.
    failed: HashSet<String>,
}

impl Hostile {
    async fn register(&mut self, slots: u32, held: Vec<proto::Held>, storage: bool) -> Result<u64, Status> {
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

    /// Leases that are there at once.
    async fn acquire(&mut self, session_id: u64, max: u32) -> Vec<proto::Lease> {
        let request = proto::AcquireRequest { session_id, max, held: vec![] };
        let call = tokio::time::timeout(Duration::from_millis(200), self.client.acquire(request));
        call.await.map_or(vec![], |reply| reply.map_or(vec![], |reply| reply.into_inner().leases))
    }

    async fn fail(
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
        let outcome = Some(proto::Outcome { kind: Some(Kind::Failure(failure)) });
        let result = |(wnid, token)| proto::Result {
            wnid,
            token,
            outcome: outcome.clone(),
            traceparent: String::new(),
            needs_lease: false,
        };
        let request = proto::ReportRequest { session_id, results: leases.map(result).collect(), ..Default::default() };
        self.client.report(request).await.map(drop)
    }

    async fn leave(&mut self, session_id: u64) -> Result<(), Status> {
        self.client.leave(proto::LeaveRequest { session_id, ..Default::default() }).await.map(drop)
    }

    async fn asks_to_wait(&mut self, session_id: u64) -> Result<(), Status> {
        let says = proto::Observation { session_id, refusals: 1, retry_after_ms: 15 * 60 * 1000, ..Default::default() };
        let mut budgets = self.client.pace(stream::iter([says])).await?.into_inner();
        let told = budgets.message().await?.unwrap_or_default();
        assert!(told.quiet_ms > 800_000 || told.quiet_ms == 0, "{told:?}");
        Ok(())
    }

    /// Does its worst once; gives how often it has tried.
    async fn attack(&mut self, attack: Attack) -> Result<u64, Status> {
        match attack {
            Attack::Guesses => {
                let session = self.register(1, vec![], false).await?;
                for guess in 1..=100 {
                    let token = (1 << 32) + guess;
                    let leases: Vec<_> = self.wnids.iter().map(|wnid| (wnid.clone(), token)).collect();
                    self.fail(session, leases.into_iter(), "guessed", proto::Suspect::Class).await?;
                }
                self.leave(session).await?;
                Ok(100 * self.wnids.len() as u64)
            }
            Attack::Hoards => {
                let session = self.register(1, vec![], false).await?;
                let leases = self.acquire(session, 4096).await;
                let more = self.acquire(session, 4096).await;
                assert!(leases.len() + more.len() <= 1, "{} and {}", leases.len(), more.len());
                sleep(Duration::from_millis(50)).await;
                self.leave(session).await?;
                Ok(2)
            }
            Attack::Claims => {
                for token in [1, (1 << 32) - 1, 1 << 32] {
                    let held =
                        self.wnids.iter().map(|wnid| proto::Held { wnid: wnid.clone(), token, ..Default::default() });
                    let session = self.register(1000, held.collect(), false).await?;
                    self.leave(session).await?;
                }
                Ok(3)
            }
            Attack::FailsUnderNewNames => {
                // As many as would open the breaker; more would only make the test longer.
                if self.names >= 14 {
                    sleep(Duration::from_millis(50)).await;
                    return Ok(0);
                }
                let session = self.register(1, vec![], false).await?;
                let granted = self.acquire(session, 1).await;
                // A class that two workers have failed has failed; these would be the same one.
                let new = granted.into_iter().filter(|lease| self.failed.insert(lease.wnid.clone()));
                let leases: Vec<_> = new.map(|lease| (lease.wnid, lease.token)).collect();
                self.fail(session, leases.into_iter(), "no answer", proto::Suspect::Origin).await?;
                self.leave(session).await?;
                Ok(1)
            }
            Attack::AsksToWait => {
                let session = self.register(1, vec![], false).await?;
                self.asks_to_wait(session).await?;
                self.leave(session).await?;
                sleep(Duration::from_millis(500)).await;
                Ok(1)
            }
            Attack::Storages => {
                self.register(1, vec![], true).await?;
                sleep(Duration::from_millis(50)).await;
                Ok(1)
            }
            Attack::Escapes => {
                let session = self.register(1, vec![], false).await?;
                let message = "\u{1}\u{202e}".repeat(500_000);
                let guessed = std::iter::once((self.wnids[0].clone(), 1));
                self.fail(session, guessed, &message, proto::Suspect::Host).await?;
                let refused = self.fail(session, std::iter::once((message, 1)), "", proto::Suspect::Host).await;
                let refused = refused.expect_err("that is no class");
                assert!(refused.message().len() < 1000, "{} bytes", refused.message().len());
                self.leave(session).await?;
                sleep(Duration::from_millis(50)).await;
                Ok(2)
            }
        }
    }
}

/// The hostile worker at work, until it is stopped.
struct Attacking {
    stop: Arc<AtomicBool>,
    tries: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Attacking {
    fn start(attack: Attack, address: SocketAddr, wnids: Vec<String>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let tries = Arc::<AtomicU64>::default();
        let until = Arc::clone(&stop);
        let counted = Arc::clone(&tries);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
                let client = CoordinatorClient::new(channel).max_encoding_message_size(usize::MAX);
                let mut hostile = Hostile { client, wnids, names: 0, failed: HashSet::new() };
                while !until.load(Ordering::Relaxed) {
                    match hostile.attack(attack).await {
                        Ok(times) => drop(counted.fetch_add(times, Ordering::Relaxed)),
                        // The coordinator is not there yet, or not any more.
                        Err(_) => sleep(Duration::from_millis(20)).await,
                    }
                }
            });
        });
        Self { stop, tries, thread }
    }

    fn tries(&self) -> u64 {
        self.tries.load(Ordering::Relaxed)
    }

    #[track_caller]
    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("what it was told is as it must be");
    }
}

/// Two honest workers do all classes beside an attack. Gives how long that takes, and how often the
/// attack was tried.
#[track_caller]
fn job(classes: u64, attack: Option<Attack>) -> (Duration, u64) {
    let fleet = Fleet::new(classes, 5, 10_000..20_000, &["--max-connections", "8"]);
    fleet.origin.limit_rate(RATE);
    let mut coordinator = fleet.start_coordinator();
    coordinator.wait_for_http();
    let wnids = fleet.tars.iter().map(|(wnid, _)| wnid.clone()).collect();
    let attacking = attack.filter(|attack| *attack != Attack::Storages);
    let attacking = attacking.map(|attack| Attacking::start(attack, fleet.address(), wnids));
    let begun = Instant::now();
    let workers = ["one", "other"].map(|name| fleet.start_worker(name, SLOTS));
    // Those put off the first grant, within a bound of minutes. Once there is one they put off
    // nothing.
    let attacking = attacking.or_else(|| {
        let attack = attack?;
        fleet.wait_for_gets(&fleet.tars[0].0, 1, Duration::from_mins(1));
        let wnids = fleet.tars.iter().map(|(wnid, _)| wnid.clone()).collect();
        Some(Attacking::start(attack, fleet.address(), wnids))
    });
    for worker in workers {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{attack:?}: {}", finished.stderr);
    }
    let took = begun.elapsed();
    let tries = attacking.as_ref().map_or(0, Attacking::tries);
    attacking.into_iter().for_each(Attacking::stop);
    assert_ended(&fleet, coordinator, classes);
    (took, tries)
}

#[track_caller]
fn assert_ended(fleet: &Fleet, coordinator: Running, classes: u64) {
    fleet.job.assert_ended(&coordinator.wait(), 0, Table::of(classes, 0, 0));
    assert_eq!(fleet.job.failures(), Vec::<String>::new());
    fleet.assert_nothing_came_twice();
}

#[track_caller]
fn honest_workers_do_all_classes_beside(attack: Attack) {
    let (_, tries) = job(24, Some(attack));
    assert!(tries > 0, "the attack was never tried");
}

#[test]
fn failures_with_guessed_tokens_settle_nothing() {
    honest_workers_do_all_classes_beside(Attack::Guesses);
}

#[test]
fn a_worker_with_one_slot_that_asks_for_thousands_of_leases_holds_one() {
    honest_workers_do_all_classes_beside(Attack::Hoards);
}

#[test]
fn classes_that_are_claimed_under_old_tokens_stay_with_the_others() {
    honest_workers_do_all_classes_beside(Attack::Claims);
}

#[test]
fn failures_under_new_names_pause_nobody() {
    honest_workers_do_all_classes_beside(Attack::FailsUnderNewNames);
}

#[test]
fn a_wait_of_a_worker_that_leaves_holds_nobody_up() {
    honest_workers_do_all_classes_beside(Attack::AsksToWait);
}

#[test]
fn new_storages_hold_up_no_fleet_that_is_at_work() {
    honest_workers_do_all_classes_beside(Attack::Storages);
}

#[test]
fn messages_of_escapes_are_cut_short() {
    honest_workers_do_all_classes_beside(Attack::Escapes);
}

#[test]
fn rates() {
    let pairs = std::env::var("RATES").ok().and_then(|pairs| pairs.parse::<usize>().ok());
    let Some(pairs) = pairs.filter(|pairs| *pairs > 0) else {
        println!("skipped: RATES=3 measures the honest workers' rate beside each attack, as the median of three pairs");
        return;
    };
    let classes = 64;
    for attack in Attack::ALL {
        let pair = |_| {
            let (alone, _) = job(classes, None);
            let (beside, tries) = job(classes, Some(attack));
            (alone.as_secs_f64() / beside.as_secs_f64(), tries)
        };
        let mut ratios: Vec<(f64, u64)> = (0..pairs).map(pair).collect();
        ratios.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (ratio, tries) = ratios[pairs / 2];
        println!("{attack:?}: {:.1} % of the rate without it (median of {pairs} pairs), {tries} tries", ratio * 100.0);
    }
}

/// Leases all classes, names them with every renewal, and receives nothing. Returns when it was told
/// to give all of them up.
async fn hoards(address: SocketAddr, classes: u64, all_are_leased: &AtomicBool) -> Result<(), Status> {
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
    let mut hostile =
        Hostile { client: CoordinatorClient::new(channel), wnids: vec![], names: 0, failed: HashSet::new() };
    let session_id = hostile.register(1000, vec![], false).await?;
    let leases = hostile.acquire(session_id, 1000).await;
    assert_eq!(leases.len() as u64, classes);
    let name = |lease: proto::Lease| proto::Held { wnid: lease.wnid, token: lease.token, ..Default::default() };
    let mut held: Vec<proto::Held> = leases.into_iter().map(name).collect();
    all_are_leased.store(true, Ordering::Relaxed);
    while !held.is_empty() {
        let request = proto::RenewRequest { session_id, held: held.clone(), ..Default::default() };
        let renewed = hostile.client.renew(request).await?.into_inner();
        held.retain(|held| renewed.drop_leases.iter().all(|lease| lease.token != held.token));
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[test]
fn a_worker_that_leases_every_class_and_receives_nothing_keeps_none_of_them() {
    let classes = 12;
    let fleet = Fleet::new(classes, 5, 10_000..20_000, &["--timeout", "1s", "--lease-ttl", "3s"]);
    let mut coordinator = fleet.start_coordinator();
    coordinator.wait_for_http();
    let (address, all_are_leased) = (fleet.address(), Arc::<AtomicBool>::default());
    let is_told = Arc::clone(&all_are_leased);
    let hostile = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(hoards(address, classes, &is_told))
    });
    tests::wait::wait_for("the hostile worker has all classes", Duration::from_mins(1), || {
        all_are_leased.load(Ordering::Relaxed)
    });
    let worker = fleet.start_worker("honest", SLOTS).wait();
    assert_eq!(worker.code, Some(0), "{}", worker.stderr);
    assert_ended(&fleet, coordinator, classes);
    // The coordinator may have ended before the last renewal.
    drop(hostile.join().expect("it was granted all classes"));
}

/// Classes that have failed, and those of them that one report says are there after all.
const FAILED: u32 = 20_400;
const CORRECTED: usize = 4096;

/// Beside it another worker renews; gives how long the report took, and the slowest renewal
/// meanwhile.
async fn corrections(address: SocketAddr) -> Result<(Duration, Duration), Status> {
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
    let client = CoordinatorClient::new(channel);
    let mut worker = Hostile { client: client.clone(), wnids: vec![], names: 0, failed: HashSet::new() };
    let [session, other] = [worker.register(1000, vec![], false).await?, worker.register(1, vec![], false).await?];
    let mut failed = Vec::new();
    while failed.len() < FAILED as usize {
        let left = u32::try_from(FAILED as usize - failed.len()).unwrap_or(0);
        let leases: Vec<_> =
            worker.acquire(session, left.min(1000)).await.into_iter().map(|lease| (lease.wnid, lease.token)).collect();
        failed.extend(leases.iter().map(|(wnid, _)| wnid.clone()));
        worker.fail(session, leases.into_iter(), "404 Client Error", proto::Suspect::Class).await?;
    }
    let there = Some(proto::Outcome { kind: Some(Kind::Skipped(proto::Published::default())) });
    let result = |wnid: &String| proto::Result { wnid: wnid.clone(), outcome: there.clone(), ..Default::default() };
    let results = failed.iter().take(CORRECTED).map(result).collect();
    let begun = Instant::now();
    let mut reporting = client.clone();
    let mut report =
        std::pin::pin!(reporting.report(proto::ReportRequest { session_id: session, results, ..Default::default() }));
    let mut renewing = client;
    let mut slowest = Duration::ZERO;
    loop {
        let before = Instant::now();
        tokio::select! {
            biased;
            reported = &mut report => {
                assert_eq!(reported?.into_inner().acked.len(), CORRECTED);
                return Ok((begun.elapsed(), slowest));
            }
            renewed = renewing.renew(proto::RenewRequest { session_id: other, ..Default::default() }) => drop(renewed?),
        }
        slowest = slowest.max(before.elapsed());
    }
}

#[test]
fn a_report_of_thousands_of_corrections_is_answered() {
    let wnids: Vec<String> = (1..=FAILED + 1).map(|number| format!("n{number:08}")).collect();
    let origin = tests::origin::Origin::start();
    let job = tests::cluster::Job::new().classes(wnids.iter().map(String::as_str)).origin(&origin);
    let coordinator = job.start_coordinator();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (took, slowest) = runtime.block_on(corrections(coordinator.address)).expect("it is answered");
    println!("{CORRECTED} corrections of {FAILED} failures: {took:?}; slowest renewal meanwhile: {slowest:?}");
    assert_eq!(job.failures().len(), FAILED as usize - CORRECTED);
    coordinator.running.kill();
}

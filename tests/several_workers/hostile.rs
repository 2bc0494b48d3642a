//! One hostile worker in parallel with honest ones. It uses the protocol correctly and repeats one
//! attack. The honest workers complete all classes, and the hostile one settles none of theirs.
//!
//! `RATES=3 cargo test -p tests --test several_workers hostile::rates -- --nocapture` runs longer
//! jobs, three pairs for each attack, and prints the rate of the honest workers during the attack
//! as a percentage of their rate without it.

mod worker;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use proto::outcome::Kind;
use tests::{cluster::Table, fleet::Fleet, running::Running};
use tokio::time::{Instant, sleep};
use tonic::Status;
use worker::{Attack, HostileWorker, RunningAttack, runtime};

/// Bytes per second and connection; a class has about 75 KB.
const RATE: u64 = 100_000;
const SLOTS: u32 = 4;

/// Two honest workers complete all classes during an attack. Returns the duration and the number of
/// attempts of the attack.
#[track_caller]
fn run_job(classes: u64, attack: Option<Attack>) -> (Duration, u64) {
    let fleet = Fleet::new(classes, 5, 10_000..20_000, &["--max-connections", "8"]);
    fleet.origin.limit_rate(RATE);
    let mut coordinator = fleet.start_coordinator();
    coordinator.wait_for_http();
    let wnids = fleet.tars.iter().map(|(wnid, _)| wnid.clone()).collect();
    let attacking = attack.filter(|attack| *attack != Attack::RegisterStorages);
    let attacking = attacking.map(|attack| RunningAttack::start(attack, fleet.address(), wnids));
    let begun = Instant::now();
    let workers = ["one", "other"].map(|name| fleet.start_worker(name, SLOTS));
    // Registrations of new storages delay the first grant, by at most some minutes. After the first
    // grant they delay nothing.
    let attacking = attacking.or_else(|| {
        let attack = attack?;
        fleet.wait_for_gets(&fleet.tars[0].0, 1, Duration::from_mins(1));
        let wnids = fleet.tars.iter().map(|(wnid, _)| wnid.clone()).collect();
        Some(RunningAttack::start(attack, fleet.address(), wnids))
    });
    for worker in workers {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{attack:?}: {}", finished.stderr);
    }
    let took = begun.elapsed();
    let tries = attacking.as_ref().map_or(0, RunningAttack::tries);
    attacking.into_iter().for_each(RunningAttack::stop);
    assert_ended(&fleet, coordinator, classes);
    (took, tries)
}

#[track_caller]
fn assert_ended(fleet: &Fleet, coordinator: Running, classes: u64) {
    fleet
        .job
        .assert_ended(&coordinator.wait(), 0, Table::of(classes, 0, 0));
    assert_eq!(fleet.job.failures(), Vec::<String>::new());
    fleet.assert_no_repeated_request();
}

#[track_caller]
fn assert_honest_workers_complete_all_classes_during(attack: Attack) {
    let (_, tries) = run_job(24, Some(attack));
    assert!(tries > 0, "the attack made no attempt");
}

#[test]
fn failures_with_guessed_tokens_settle_nothing() {
    assert_honest_workers_complete_all_classes_during(Attack::GuessTokens);
}

#[test]
fn a_worker_with_one_slot_that_requests_thousands_of_leases_holds_one() {
    assert_honest_workers_complete_all_classes_during(Attack::HoardLeases);
}

#[test]
fn claims_with_old_tokens_do_not_take_classes_from_other_workers() {
    assert_honest_workers_complete_all_classes_during(Attack::ClaimOldTokens);
}

#[test]
fn failures_reported_with_new_names_do_not_pause_the_job() {
    assert_honest_workers_complete_all_classes_during(Attack::FailWithNewNames);
}

#[test]
fn a_retry_after_reported_by_a_worker_that_leaves_delays_no_other_worker() {
    assert_honest_workers_complete_all_classes_during(Attack::ReportRetryAfter);
}

#[test]
fn new_storages_do_not_delay_a_running_fleet() {
    assert_honest_workers_complete_all_classes_during(Attack::RegisterStorages);
}

#[test]
fn messages_of_control_characters_are_truncated() {
    assert_honest_workers_complete_all_classes_during(Attack::SendEscapes);
}

#[test]
fn rates() {
    let pairs = std::env::var("RATES")
        .ok()
        .and_then(|pairs| pairs.parse::<usize>().ok());
    let Some(pairs) = pairs.filter(|pairs| *pairs > 0) else {
        println!(
            "skipped: RATES=3 measures the honest workers' rate beside each attack, as the median \
             of \
             three pairs"
        );
        return;
    };
    let classes = 64;
    for attack in Attack::ALL {
        let pair = |_| {
            let (alone, _) = run_job(classes, None);
            let (beside, tries) = run_job(classes, Some(attack));
            (alone.as_secs_f64() / beside.as_secs_f64(), tries)
        };
        let mut ratios: Vec<(f64, u64)> = (0..pairs).map(pair).collect();
        ratios.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (ratio, tries) = ratios[pairs / 2];
        println!(
            "{attack:?}: {:.1} % of the rate without it (median of {pairs} pairs), {tries} tries",
            ratio * 100.0
        );
    }
}

/// Leases all classes, reports them as held in every renewal, and receives no bytes. Returns when
/// the coordinator has revoked all of the leases.
async fn hold_all_leases(
    address: SocketAddr,
    classes: u64,
    all_are_leased: &AtomicBool,
) -> Result<(), Status> {
    let mut hostile = HostileWorker::new(address, vec![]);
    let session_id = hostile.register(1000, vec![], false).await?;
    let leases = hostile.acquire(session_id, 1000).await;
    assert_eq!(leases.len() as u64, classes);
    let name = |lease: proto::Lease| proto::Held {
        wnid: lease.wnid,
        token: lease.token,
        ..Default::default()
    };
    let mut held: Vec<proto::Held> = leases.into_iter().map(name).collect();
    all_are_leased.store(true, Ordering::Relaxed);
    while !held.is_empty() {
        let request = proto::RenewRequest {
            session_id,
            held: held.clone(),
            ..Default::default()
        };
        let renewed = hostile.client.renew(request).await?.into_inner();
        held.retain(|held| {
            renewed
                .drop_leases
                .iter()
                .all(|lease| lease.token != held.token)
        });
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[test]
fn a_worker_that_leases_every_class_and_receives_nothing_loses_all_leases() {
    let classes = 12;
    let fleet = Fleet::new(
        classes,
        5,
        10_000..20_000,
        &["--timeout", "1s", "--lease-ttl", "3s"],
    );
    let mut coordinator = fleet.start_coordinator();
    coordinator.wait_for_http();
    let address = fleet.address();
    let all_are_leased = Arc::<AtomicBool>::default();
    let leased = Arc::clone(&all_are_leased);
    let hostile =
        std::thread::spawn(move || runtime().block_on(hold_all_leases(address, classes, &leased)));
    tests::wait::wait_for(
        "the hostile worker holds all leases",
        Duration::from_mins(1),
        || all_are_leased.load(Ordering::Relaxed),
    );
    let worker = fleet.start_worker("honest", SLOTS).wait();
    assert_eq!(worker.code, Some(0), "{}", worker.stderr);
    assert_ended(&fleet, coordinator, classes);
    // The coordinator may have ended before the last renewal.
    drop(
        hostile
            .join()
            .expect("the hostile worker was granted all classes"),
    );
}

/// Number of classes that have failed.
const FAILED: u32 = 20_400;
/// Number of failed classes that one report corrects to complete.
const CORRECTED: usize = 4096;

/// Sends a report of corrections while another worker renews. Returns the duration of the report
/// and that of the slowest renewal during it.
async fn send_corrections(address: SocketAddr) -> Result<(Duration, Duration), Status> {
    let mut worker = HostileWorker::new(address, vec![]);
    let [session, other] = [
        worker.register(1000, vec![], false).await?,
        worker.register(1, vec![], false).await?,
    ];
    let mut failed = Vec::new();
    while failed.len() < FAILED as usize {
        let left = u32::try_from(FAILED as usize - failed.len()).unwrap_or(0);
        let request = proto::AcquireRequest {
            session_id: session,
            max: left.min(1000),
            held: vec![],
        };
        let granted = worker.client.acquire(request).await?.into_inner().leases;
        let leases: Vec<_> = granted
            .into_iter()
            .map(|lease| (lease.wnid, lease.token))
            .collect();
        assert!(!leases.is_empty(), "no class was granted");
        failed.extend(leases.iter().map(|(wnid, _)| wnid.clone()));
        worker
            .fail(
                session,
                leases.into_iter(),
                "404 Client Error",
                proto::Suspect::Class,
            )
            .await?;
    }
    let there = Some(proto::Outcome {
        kind: Some(Kind::Skipped(proto::Published::default())),
    });
    let result = |wnid: &String| proto::Result {
        wnid: wnid.clone(),
        outcome: there.clone(),
        ..Default::default()
    };
    let results = failed.iter().take(CORRECTED).map(result).collect();
    let begun = Instant::now();
    let mut reporting = worker.client.clone();
    let mut report = std::pin::pin!(reporting.report(proto::ReportRequest {
        session_id: session,
        results,
        ..Default::default()
    }));
    let mut renewing = worker.client;
    let renewal = proto::RenewRequest {
        session_id: other,
        ..Default::default()
    };
    let mut slowest = Duration::ZERO;
    loop {
        let before = Instant::now();
        tokio::select! {
            biased;
            reported = &mut report => {
                assert_eq!(reported?.into_inner().acked.len(), CORRECTED);
                return Ok((begun.elapsed(), slowest));
            }
            renewed = renewing.renew(renewal.clone()) => drop(renewed?),
        }
        slowest = slowest.max(before.elapsed());
    }
}

#[test]
fn a_report_of_thousands_of_corrections_is_answered() {
    let wnids: Vec<String> = (1..=FAILED + 1)
        .map(|number| format!("n{number:08}"))
        .collect();
    let origin = tests::origin::Origin::start();
    let job = tests::cluster::Job::new()
        .classes(wnids.iter().map(String::as_str))
        .origin(&origin)
        // The hostile worker renews no lease, and on a busy machine this can take longer than 30 s.
        .args(["--lease-ttl", "5m"]);
    let coordinator = job.start_coordinator();
    let (took, slowest) = runtime()
        .block_on(send_corrections(coordinator.address))
        .expect("the report is answered");
    println!(
        "{CORRECTED} corrections of {FAILED} failures: {took:?}; slowest renewal meanwhile: \
         {slowest:?}"
    );
    assert_eq!(job.failures().len(), FAILED as usize - CORRECTED);
    coordinator.running.kill();
}

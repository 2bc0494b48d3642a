//! Tests of the limiter with a paused clock.

use std::sync::atomic::AtomicU32;

use tokio::{
    task::{JoinSet, yield_now},
    time::timeout,
};

use super::*;

const MOMENT: Duration = Duration::from_millis(1);

/// The limiter of a worker with twenty slots.
fn limiter(connections: u32) -> Arc<OriginLimiter> {
    let limiter = OriginLimiter::new(20, Arc::default());
    limiter.change(|state| state.permits.set_limit(connections));
    limiter
}

fn budget(version: u64, connections: u32) -> Budget {
    Budget {
        version,
        connections,
        bytes_per_second: None,
        pause: Duration::ZERO,
        observe_every: Duration::from_secs(1),
        resumed: 0,
    }
}

fn refused(retry_after: Option<u64>) -> DownloadError {
    DownloadError::Status {
        code: 429,
        url: String::new(),
        retry_after: retry_after.map(Duration::from_secs),
    }
}

/// Whether a request is admitted now.
async fn admits(limiter: &Arc<OriginLimiter>) -> bool {
    timeout(MOMENT, limiter.permit(Priority::New)).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn the_number_of_open_connections_never_exceeds_the_budget() {
    let limiter = limiter(3);
    let open = Arc::new(AtomicU32::new(0));
    let most = Arc::new(AtomicU32::new(0));
    let mut transfers = JoinSet::new();
    for number in 0..50_u64 {
        let limiter = Arc::clone(&limiter);
        let open = Arc::clone(&open);
        let most = Arc::clone(&most);
        transfers.spawn(async move {
            let priority = if number % 3 == 0 {
                Priority::GoingOn
            } else {
                Priority::New
            };
            let _permit = limiter.permit(priority).await;
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(Duration::from_millis(10 + number)).await;
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
    sleep(Duration::from_millis(200)).await;
    assert_eq!(most.swap(0, Ordering::SeqCst), 3);
    limiter.apply_budget(&budget(1, 1));
    assert_eq!(limiter.observation().open, 3, "open connections stay open");
    sleep(Duration::from_millis(200)).await;
    most.store(0, Ordering::SeqCst);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(most.swap(0, Ordering::SeqCst), 1);
    limiter.apply_budget(&budget(2, 5));
    transfers.join_all().await;
    assert_eq!(most.load(Ordering::SeqCst), 5);
    let report = limiter.observation();
    assert_eq!(
        (
            report.open,
            report.wanted,
            report.requests,
            report.budget_version
        ),
        (0, 0, 50, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn no_request_is_admitted_before_the_first_budget_of_a_session() {
    let limiter = limiter(0);
    assert!(!admits(&limiter).await);
    limiter.apply_budget(&budget(7, 1));
    let permit = limiter.permit(Priority::New).await;
    limiter.close();
    assert_eq!(
        (
            limiter.observation().open,
            limiter.observation().budget_version
        ),
        (1, 0)
    );
    drop(permit);
    assert!(!admits(&limiter).await);
    limiter.apply_budget(&budget(1, 1));
    assert!(admits(&limiter).await);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_of_one_response_delays_all_requests_by_its_duration() {
    let limiter = limiter(2);
    let body = limiter.permit(Priority::New).await;
    limiter.failed(&refused(Some(5)));
    let start = Instant::now();
    let due = timeout(MOMENT, limiter.report_due()).await;
    let report = limiter.take_report();
    assert!(due.is_ok());
    assert_eq!(
        (report.refusals, report.retry_after.as_secs()),
        (1, 5),
        "the refusal is reported at once"
    );
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let limiter = Arc::clone(&limiter);
        waiting.spawn(async move { drop(limiter.permit(Priority::GoingOn).await) });
    }
    sleep(Duration::from_secs(1)).await;
    drop(body);
    // A shorter `Retry-After`, and a budget without a pause, do not shorten the wait.
    limiter.failed(&refused(Some(1)));
    limiter.apply_budget(&budget(1, 2));
    assert_eq!(limiter.observation().wanted, 4);
    waiting.join_all().await;
    assert_eq!(start.elapsed().as_secs(), 5);
    assert!(limiter.observation().retry_after.is_zero());
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_when_a_pause_begins_continue_when_it_ends() {
    let limiter = limiter(1);
    let permit = limiter.permit(Priority::New).await;
    let mut waiting = JoinSet::new();
    let other = Arc::clone(&limiter);
    waiting.spawn(async move { drop(other.permit(Priority::New).await) });
    yield_now().await;
    let start = Instant::now();
    limiter.apply_budget(&Budget {
        pause: Duration::from_secs(3),
        ..budget(1, 1)
    });
    drop(permit);
    assert_eq!(
        limiter.observation().retry_after,
        Duration::ZERO,
        "the origin sent this worker no `Retry-After`"
    );
    waiting.join_all().await;
    assert_eq!(start.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_budget_ends_the_pause_of_an_earlier_budget_and_not_a_retry_after() {
    let limiter = limiter(1);
    limiter.apply_budget(&Budget {
        pause: Duration::from_mins(15),
        ..budget(1, 1)
    });
    sleep(Duration::from_secs(1)).await;
    assert!(!admits(&limiter).await);
    limiter.apply_budget(&budget(2, 1));
    assert!(admits(&limiter).await);
    limiter.failed(&refused(Some(600)));
    limiter.apply_budget(&Budget {
        pause: Duration::from_mins(15),
        ..budget(3, 1)
    });
    limiter.apply_budget(&budget(4, 1));
    assert!(
        !admits(&limiter).await,
        "the origin sent this process a `Retry-After`"
    );
    limiter.apply_budget(&Budget {
        resumed: 1,
        ..budget(5, 1)
    });
    assert!(
        admits(&limiter).await,
        "an administrator has ended the wait"
    );
    assert!(limiter.observation().retry_after.is_zero());
    limiter.failed(&refused(Some(5)));
    let start = Instant::now();
    limiter.apply_budget(&Budget {
        resumed: 1,
        ..budget(6, 1)
    });
    drop(limiter.permit(Priority::New).await);
    assert_eq!(
        start.elapsed().as_secs(),
        5,
        "an administrator's command ends one wait only"
    );
}

#[tokio::test(start_paused = true)]
async fn no_wait_is_longer_than_the_longest_retry_after() {
    let limiter = limiter(1);
    limiter.failed(&refused(Some(86_400)));
    let start = Instant::now();
    drop(limiter.permit(Priority::New).await);
    assert_eq!(start.elapsed().as_secs(), MAX_RETRY_AFTER.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_does_not_delay_others() {
    let limiter = limiter(1);
    let first = limiter.permit(Priority::New).await;
    assert!(!admits(&limiter).await);
    assert_eq!(
        limiter.observation().wanted,
        1,
        "the cancelled request has left the queue"
    );
    let other = Arc::clone(&limiter);
    let late = Arc::clone(&limiter);
    let mut admitted = Box::pin(async move { other.permit(Priority::New).await });
    assert!(timeout(MOMENT, &mut admitted).await.is_err());
    drop(first);
    // The request is admitted, and is dropped before it takes its permit.
    drop(admitted);
    assert_eq!(late.observation().open, 0);
    assert!(admits(&late).await);
}

#[tokio::test(start_paused = true)]
async fn all_bodies_together_keep_to_the_rate_of_the_budget() {
    let limiter = limiter(10);
    limiter.apply_budget(&Budget {
        bytes_per_second: Some(100_000),
        ..budget(1, 10)
    });
    let start = Instant::now();
    let mut transfers = JoinSet::new();
    for _ in 0..10 {
        let limiter = Arc::clone(&limiter);
        transfers.spawn(async move {
            for _ in 0..25 {
                let place = limiter.came(4000).expect("there is a rate");
                limiter.room_after(place).await;
            }
        });
    }
    transfers.join_all().await;
    // A million bytes, less the burst that the token bucket permits.
    let took = start.elapsed();
    assert!((9900..10_100).contains(&took.as_millis()), "{took:?}");
    limiter.came(100_000);
    let start = Instant::now();
    limiter.permit(Priority::New).await;
    let took = start.elapsed();
    assert!(
        (950..1050).contains(&took.as_millis()),
        "a new request waits too: {took:?}"
    );
    limiter.apply_budget(&budget(2, 10));
    assert_eq!(limiter.came(4000), None);
    limiter.permit(Priority::New).await;
}

#[tokio::test(start_paused = true)]
async fn failures_that_signal_overload_are_counted_and_reported_and_others_are_not() {
    let limiter = limiter(1);
    limiter.failed(&DownloadError::Cut {
        received: 1,
        length: None,
    });
    assert!(timeout(MOMENT, limiter.report_due()).await.is_ok());
    assert_eq!(
        (limiter.take_report().cuts, limiter.take_report().refusals),
        (1, 0)
    );
    limiter.failed(&refused(None));
    assert!(timeout(MOMENT, limiter.report_due()).await.is_ok());
    assert_eq!(
        (
            limiter.take_report().refusals,
            limiter.take_report().retry_after
        ),
        (1, Duration::ZERO)
    );
    assert!(
        admits(&limiter).await,
        "a refusal without `Retry-After` starts no wait"
    );
    limiter.take_report();
    limiter.failed(&DownloadError::Status {
        code: 404,
        url: String::new(),
        retry_after: None,
    });
    assert!(timeout(MOMENT, limiter.report_due()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn connections_are_reused_only_if_the_budget_covers_all_slots() {
    let limiter = limiter(19);
    assert!(!limiter.keeps_connections());
    limiter.allow_all_slots();
    assert!(limiter.keeps_connections());
}

#[tokio::test(start_paused = true)]
async fn a_request_delayed_by_the_rate_also_waits_for_a_retry_after() {
    let limiter = limiter(3);
    limiter.apply_budget(&Budget {
        bytes_per_second: Some(1000),
        ..budget(1, 3)
    });
    limiter.came(3000);
    let began = Instant::now();
    let refused_meanwhile = async {
        sleep(Duration::from_secs(1)).await;
        limiter.failed(&refused(Some(5)));
    };
    let (_permit, ()) = tokio::join!(limiter.permit(Priority::New), refused_meanwhile);
    assert!(
        began.elapsed() >= Duration::from_secs(6),
        "sent after {:?}",
        began.elapsed()
    );
    assert_eq!(
        (limiter.observation().open, limiter.observation().requests),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn only_the_first_bytes_of_a_job_are_reported_at_once() {
    let limiter = limiter(1);
    limiter.take_report();
    let step = usize::try_from(EARLY_STEP).unwrap();
    for (bytes, is_due) in [(step - 1, false), (1, true)]
        .into_iter()
        .chain([(step, true); 7])
        .chain([(step, false)])
    {
        limiter.came(bytes);
        assert_eq!(
            timeout(MOMENT, limiter.report_due()).await.is_ok(),
            is_due,
            "{bytes} further bytes"
        );
        limiter.take_report();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_reported_after_its_wait_has_ended_carries_a_wait() {
    let limiter = limiter(1);
    limiter.failed(&refused(Some(2)));
    sleep(Duration::from_secs(3)).await;
    let report = limiter.take_report();
    assert_eq!(
        (report.refusals, report.retry_after),
        (1, MOMENT),
        "without a wait the coordinator would count it as a cut"
    );
    assert_eq!(limiter.take_report().retry_after, Duration::ZERO);
    limiter.failed(&refused(None));
    assert_eq!(
        limiter.take_report().retry_after,
        Duration::ZERO,
        "the origin sent no `Retry-After`"
    );
}

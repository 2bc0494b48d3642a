//! The gate under a paused clock.

use std::sync::atomic::AtomicU32;

use tokio::{
    task::{JoinSet, yield_now},
    time::timeout,
};

use super::*;

const MOMENT: Duration = Duration::from_millis(1);

/// Of a worker with twenty slots.
fn gate(connections: u32) -> Arc<Gate> {
    let gate = Gate::shut(20, Arc::default());
    gate.change(|state| state.permits.set_limit(connections));
    gate
}

fn budget(version: u64, connections: u32) -> Budget {
    Budget {
        version,
        connections,
        bytes_per_second: None,
        quiet: Duration::ZERO,
        observe_every: Duration::from_secs(1),
        resumed: 0,
    }
}

fn refused(retry_after: Option<u64>) -> DownloadError {
    DownloadError::Status { code: 429, url: String::new(), retry_after: retry_after.map(Duration::from_secs) }
}

/// Whether a request is let in now.
async fn admits(gate: &Arc<Gate>) -> bool {
    timeout(MOMENT, gate.permit(Priority::New)).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn however_many_ask_never_more_are_open_than_the_budget_says() {
    let gate = gate(3);
    let (open, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut transfers = JoinSet::new();
    for number in 0..50_u64 {
        let (gate, open, most) = (Arc::clone(&gate), Arc::clone(&open), Arc::clone(&most));
        transfers.spawn(async move {
            let priority = if number % 3 == 0 { Priority::GoingOn } else { Priority::New };
            let _permit = gate.permit(priority).await;
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(Duration::from_millis(10 + number)).await;
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
    sleep(Duration::from_millis(200)).await;
    assert_eq!(most.swap(0, Ordering::SeqCst), 3);
    gate.keep_to(&budget(1, 1));
    assert_eq!(gate.observation().open, 3, "nothing is broken off");
    sleep(Duration::from_millis(200)).await;
    most.store(0, Ordering::SeqCst);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(most.swap(0, Ordering::SeqCst), 1);
    gate.keep_to(&budget(2, 5));
    transfers.join_all().await;
    assert_eq!(most.load(Ordering::SeqCst), 5);
    let told = gate.observation();
    assert_eq!((told.open, told.wanted, told.requests, told.seen), (0, 0, 50, 2));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_before_the_first_budget_of_a_session() {
    let gate = gate(0);
    assert!(!admits(&gate).await);
    gate.keep_to(&budget(7, 1));
    let permit = gate.permit(Priority::New).await;
    gate.close();
    assert_eq!((gate.observation().open, gate.observation().seen), (1, 0));
    drop(permit);
    assert!(!admits(&gate).await);
    gate.keep_to(&budget(1, 1));
    assert!(admits(&gate).await);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_one_request_is_asked_for_holds_back_all_and_no_longer() {
    let gate = gate(2);
    let body = gate.permit(Priority::New).await;
    gate.failed(&refused(Some(5)));
    let start = Instant::now();
    let (news, told) = (timeout(MOMENT, gate.news()).await, gate.tell());
    assert!(news.is_ok());
    assert_eq!((told.refusals, told.retry_after.as_secs()), (1, 5), "which is told at once");
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let gate = Arc::clone(&gate);
        waiting.spawn(async move { drop(gate.permit(Priority::GoingOn).await) });
    }
    sleep(Duration::from_secs(1)).await;
    drop(body);
    // A shorter one, and a budget that knows nothing of it, change nothing.
    gate.failed(&refused(Some(1)));
    gate.keep_to(&budget(1, 2));
    assert_eq!(gate.observation().wanted, 4);
    waiting.join_all().await;
    assert_eq!(start.elapsed().as_secs(), 5);
    assert!(gate.observation().retry_after.is_zero());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_time_that_begins_while_others_wait_ends_for_them_too() {
    let gate = gate(1);
    let permit = gate.permit(Priority::New).await;
    let mut waiting = JoinSet::new();
    let other = Arc::clone(&gate);
    waiting.spawn(async move { drop(other.permit(Priority::New).await) });
    yield_now().await;
    let start = Instant::now();
    gate.keep_to(&Budget { quiet: Duration::from_secs(3), ..budget(1, 1) });
    drop(permit);
    assert_eq!(gate.observation().retry_after, Duration::ZERO, "the origin has not asked this worker");
    waiting.join_all().await;
    assert_eq!(start.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_budget_ends_a_wait_that_another_one_told_and_none_that_the_origin_asked_for() {
    let gate = gate(1);
    gate.keep_to(&Budget { quiet: Duration::from_mins(15), ..budget(1, 1) });
    sleep(Duration::from_secs(1)).await;
    assert!(!admits(&gate).await);
    gate.keep_to(&budget(2, 1));
    assert!(admits(&gate).await);
    gate.failed(&refused(Some(600)));
    gate.keep_to(&Budget { quiet: Duration::from_mins(15), ..budget(3, 1) });
    gate.keep_to(&budget(4, 1));
    assert!(!admits(&gate).await, "the origin has asked this process");
    gate.keep_to(&Budget { resumed: 1, ..budget(5, 1) });
    assert!(admits(&gate).await, "an admin has ended that");
    assert!(gate.observation().retry_after.is_zero());
    gate.failed(&refused(Some(5)));
    let start = Instant::now();
    gate.keep_to(&Budget { resumed: 1, ..budget(6, 1) });
    drop(gate.permit(Priority::New).await);
    assert_eq!(start.elapsed().as_secs(), 5, "which counts once");
}

#[tokio::test(start_paused = true)]
async fn no_wait_is_longer_than_a_quarter_of_an_hour() {
    let gate = gate(1);
    gate.failed(&refused(Some(86_400)));
    let start = Instant::now();
    drop(gate.permit(Priority::New).await);
    assert_eq!(start.elapsed().as_secs(), LONGEST_RETRY_AFTER.as_secs());
}

#[tokio::test(start_paused = true)]
async fn who_stops_waiting_holds_up_nobody() {
    let gate = gate(1);
    let first = gate.permit(Priority::New).await;
    assert!(!admits(&gate).await);
    assert_eq!(gate.observation().wanted, 1, "it has gone");
    let (other, late) = (Arc::clone(&gate), Arc::clone(&gate));
    let mut admitted = Box::pin(async move { other.permit(Priority::New).await });
    assert!(timeout(MOMENT, &mut admitted).await.is_err());
    drop(first);
    // It has its leave now, and goes before it takes it.
    drop(admitted);
    assert_eq!(late.observation().open, 0);
    assert!(admits(&late).await);
}

#[tokio::test(start_paused = true)]
async fn bodies_come_no_faster_than_the_budget_says_all_together() {
    let gate = gate(10);
    gate.keep_to(&Budget { bytes_per_second: Some(100_000), ..budget(1, 10) });
    let start = Instant::now();
    let mut transfers = JoinSet::new();
    for _ in 0..10 {
        let gate = Arc::clone(&gate);
        transfers.spawn(async move {
            for _ in 0..25 {
                let place = gate.came(4000).expect("there is a rate");
                gate.room_after(place).await;
            }
        });
    }
    transfers.join_all().await;
    // A million bytes, less what may come at once.
    let took = start.elapsed();
    assert!((9900..10_100).contains(&took.as_millis()), "{took:?}");
    gate.came(100_000);
    let start = Instant::now();
    gate.permit(Priority::New).await;
    let took = start.elapsed();
    assert!((950..1050).contains(&took.as_millis()), "a body that would begin waits too: {took:?}");
    gate.keep_to(&budget(2, 10));
    assert_eq!(gate.came(4000), None);
    gate.permit(Priority::New).await;
}

#[tokio::test(start_paused = true)]
async fn what_breaks_is_counted_and_told_and_what_anybody_would_hear_is_not() {
    let gate = gate(1);
    gate.failed(&DownloadError::Cut { received: 1, length: None });
    assert!(timeout(MOMENT, gate.news()).await.is_ok());
    assert_eq!((gate.tell().cuts, gate.tell().refusals), (1, 0));
    gate.failed(&refused(None));
    assert!(timeout(MOMENT, gate.news()).await.is_ok());
    assert_eq!((gate.tell().refusals, gate.tell().retry_after), (1, Duration::ZERO));
    assert!(admits(&gate).await, "it has not said for how long");
    gate.tell();
    gate.failed(&DownloadError::Status { code: 404, url: String::new(), retry_after: None });
    assert!(timeout(MOMENT, gate.news()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn connections_stay_only_where_each_slot_may_have_its_own() {
    let gate = gate(19);
    assert!(!gate.permit(Priority::New).await.keeps_connection());
    gate.open_to_all();
    assert!(gate.permit(Priority::New).await.keeps_connection());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_rate_does_not_ask_while_the_origin_is_left_alone() {
    let gate = gate(3);
    gate.keep_to(&Budget { bytes_per_second: Some(1000), ..budget(1, 3) });
    gate.came(3000);
    let began = Instant::now();
    let refused_meanwhile = async {
        sleep(Duration::from_secs(1)).await;
        gate.failed(&refused(Some(5)));
    };
    let (_permit, ()) = tokio::join!(gate.permit(Priority::New), refused_meanwhile);
    assert!(began.elapsed() >= Duration::from_secs(6), "asked after {:?}", began.elapsed());
    assert_eq!((gate.observation().open, gate.observation().requests), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_first_bytes_of_a_job_are_news_and_those_that_follow_are_not() {
    let gate = gate(1);
    gate.tell();
    let step = usize::try_from(EARLY_STEP).unwrap();
    for (bytes, is_news) in [(step - 1, false), (1, true)].into_iter().chain([(step, true); 7]).chain([(step, false)]) {
        gate.came(bytes);
        assert_eq!(timeout(MOMENT, gate.news()).await.is_ok(), is_news, "{bytes} bytes more");
        gate.tell();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_told_after_its_wait_has_ended_is_told_with_a_wait() {
    let gate = gate(1);
    gate.failed(&refused(Some(2)));
    sleep(Duration::from_secs(3)).await;
    let told = gate.tell();
    assert_eq!((told.refusals, told.retry_after), (1, MOMENT), "without a wait it would count as a cut");
    assert_eq!(gate.tell().retry_after, Duration::ZERO);
    gate.failed(&refused(None));
    assert_eq!(gate.tell().retry_after, Duration::ZERO, "the origin has named none");
}

//! Streams of events and single snapshots.

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use super::{
    super::{MAX_VIEWERS, QueryError},
    *,
};

#[tokio::test]
async fn a_viewer_follows_the_job_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let job = Watched::start(folder.path(), 2, 2).await;
    let mut stream = job.dashboard.subscribe().unwrap();
    let (name, id, mut seen) = event(&mut stream).await.unwrap();
    assert_eq!(name, "snapshot");
    assert_eq!(seen["classes"]["states"], "2ri");
    assert_eq!(seen["job"]["leased"], 2);
    assert_eq!(id, format!("1.{}", seen["seq"]));
    job.report(job.leases[0], success()).await;
    job.report(job.leases[1], missing(job.leases[1].wnid)).await;
    while seen["job"]["done"] != true || seen["failures"]["groups"][0].is_null() {
        let (name, _, update) = event(&mut stream).await.unwrap();
        assert_eq!(name, "update");
        for (key, value) in update.as_object().unwrap() {
            seen[key] = value.clone();
        }
    }
    let group = &seen["failures"]["groups"][0];
    assert_eq!(group["message"], "404 Client Error: Not Found");
    assert_eq!(group["worker"], "host");
    assert_eq!(group["retryable"], false);
    assert_eq!(group["classes"][0], job.leases[1].wnid.to_string());
    assert_eq!(seen["failures"]["total"], 1);
    assert_eq!(seen["failures"]["invalid_rows"], 1);
    assert_eq!(seen["state"]["phase"], "done");
    assert!(seen["job"]["ended_at_ms"].is_u64());
    // The stream is dropped when its last event was read.
    let rest = async move { while event(&mut stream).await.is_some() {} };
    tokio::join!(job.dashboard.finish(), rest);
    let last = job.snapshot().await;
    assert_eq!(
        last["job"]["success"], 1,
        "the last snapshot can still be read"
    );
    assert_eq!(last["job"]["failed"], 2);
    let refused = job.dashboard.subscribe().unwrap_err();
    assert_eq!(refused, QueryError::Unavailable, "the publisher has ended");
}

#[tokio::test]
async fn the_last_event_has_the_groups_of_all_failures() {
    let folder = tempfile::tempdir().unwrap();
    let job = Watched::start(folder.path(), 2, 2).await;
    let mut stream = job.dashboard.subscribe().unwrap();
    event(&mut stream).await.unwrap();
    let mut last = Value::Null;
    job.report(job.leases[0], missing(job.leases[0].wnid)).await;
    while last["groups"][0].is_null() {
        last = event(&mut stream).await.unwrap().2["failures"].take();
    }
    // The groups have just been read, and are not read again for two seconds.
    job.report(job.leases[1], missing(job.leases[1].wnid)).await;
    let rest = async {
        while let Some((.., mut message)) = event(&mut stream).await {
            if message["failures"].is_object() {
                last = message["failures"].take();
            }
        }
        drop(stream);
    };
    tokio::join!(job.dashboard.finish(), rest);
    assert_eq!(last["total"], 2);
    assert_eq!(last["groups"][0]["count"], 2, "{last}");
}

/// The dispatcher ends before the publisher has made a snapshot of the end.
#[tokio::test]
async fn the_last_counts_are_sent_although_the_dispatcher_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = Watched::start(folder.path(), 1, 1).await;
    let mut stream = job.dashboard.subscribe().unwrap();
    event(&mut stream).await.unwrap();
    job.report(job.leases[0], success()).await;
    job.dispatcher.shutdown().await;
    let mut last = Value::Null;
    while let Some((_, _, message)) = event(&mut stream).await {
        if !message["job"].is_null() {
            last = message;
        }
    }
    assert_eq!(last["job"]["success"], 1);
    assert_eq!(last["job"]["done"], true);
    timeout(DEADLINE, job.publisher.join_next()).await.unwrap();
}

#[tokio::test]
async fn without_viewers_no_snapshot_is_made_and_one_serves_all_who_ask() {
    let folder = tempfile::tempdir().unwrap();
    let job = Watched::start(folder.path(), 3, 0).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let first = job.snapshot().await;
    assert_eq!(first["seq"], 1, "none was made before it was asked for");
    assert!(
        !first["history"]["points"].as_array().unwrap().is_empty(),
        "the history has points"
    );
    let asked = (0..20).map(|_| job.dashboard.snapshot());
    let answers = futures_util::future::try_join_all(asked).await.unwrap();
    let shared = answers
        .iter()
        .filter(|answer| answer.as_ptr() == answers[0].as_ptr());
    assert!(shared.count() >= 10, "a snapshot is shared for a second");
}

#[tokio::test]
async fn a_viewer_beyond_the_limit_is_refused_until_another_one_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let job = Watched::start(folder.path(), 1, 0).await;
    let mut streams = Vec::new();
    for _ in 0..MAX_VIEWERS {
        let mut stream = job.dashboard.subscribe().unwrap();
        let (name, ..) = event(&mut stream).await.unwrap();
        assert_eq!(name, "snapshot");
        streams.push(stream);
    }
    let refused = job.dashboard.subscribe().unwrap_err();
    assert_eq!(refused, QueryError::TooManyViewers);
    streams.pop();
    job.dashboard.subscribe().unwrap();
}

#[tokio::test]
async fn an_update_is_sent_to_one_viewer_after_the_other_and_the_last_one_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let job = Watched::start(folder.path(), 1, 1).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = job.dashboard.subscribe().unwrap();
        event(&mut stream).await.unwrap();
        streams.push(stream);
    }
    job.report(job.leases[0], success()).await;
    let updates = streams.iter_mut().enumerate().map(async |(place, stream)| {
        event(stream).await.unwrap();
        place
    });
    let mut updates: FuturesUnordered<_> = updates.rev().collect();
    let mut order = Vec::new();
    while let Some(place) = updates.next().await {
        order.push(place);
    }
    drop(updates);
    assert!(order.is_sorted(), "{order:?}");
    let last = streams.last_mut().unwrap();
    last.next_delay = Duration::from_hours(1);
    last.delay = last.next_delay;
    let rest = async { while event(last).await.is_some() {} };
    let ended = timeout(DEADLINE, rest);
    assert!(tokio::join!(job.dashboard.finish(), ended).1.is_ok());
}

#[tokio::test]
async fn the_history_goes_on_after_a_restart_of_the_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let job = Watched::start(folder.path(), 3, 1).await;
    job.report(job.leases[0], success()).await;
    let before = job.snapshot().await;
    job.stop().await;
    let database = rusqlite::Connection::open(folder.path().join("ledger")).unwrap();
    let earlier = "UPDATE result SET settled_at = '2026-01-01 10:00:00';
        UPDATE run SET started_at = '2026-01-01 09:00:00'";
    database.execute_batch(earlier).unwrap();
    drop(database);
    let job = Watched::start(folder.path(), 3, 0).await;
    let after = job.snapshot().await;
    assert_eq!(before["epoch"], 1);
    assert_eq!(after["epoch"], 2);
    let points = after["history"]["points"].as_array().unwrap();
    let ten = 1_767_261_600_u64;
    let point = serde_json::json!([ten, 10_240 / 15, null, null, 1]);
    assert!(points.contains(&point), "{points:?}");
    assert_eq!(after["job"]["started_at_ms"], (ten - 3600) * 1000);
    assert_eq!(after["job"]["success"], 1);
}

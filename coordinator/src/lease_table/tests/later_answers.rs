//! Refusals after the first responses: an expired login, and how missing classes are recognized.

use shared::refused_sample::SAMPLE;

use super::*;
use crate::lease_table::later_answers::{LONGEST_SAMPLE, STREAK};

fn number(wnid: Wnid) -> u32 {
    wnid.to_string()[1..].parse().unwrap()
}

/// Requests leases and reports each class with the outcome of `answer`, which gets its number and
/// the number of classes requested before, until none is granted.
fn work(
    table: &mut LeaseTable,
    id: SessionId,
    slots: usize,
    now: Instant,
    mut answer: impl FnMut(u32, usize) -> Outcome,
) -> usize {
    let mut asked = 0;
    loop {
        let leases = acquire(table, id, slots, now).unwrap();
        if leases.is_empty() {
            return asked;
        }
        for lease in leases {
            table.report(
                id,
                lease,
                &answer(number(lease.wnid), asked),
                now,
                LONGEST_DELAY,
            );
            asked += 1;
            check(table);
        }
    }
}

#[test]
fn a_login_that_expires_ends_the_job_and_leaves_the_classes_pending() {
    for slots in [1, 10, 100] {
        let now = Instant::now();
        let mut table = table(1000).checking_first_answers([]);
        let id = session(&mut table, "one", now);
        let asked = work(&mut table, id, slots, now, |_, asked| {
            if asked < 300 { good() } else { refused(403) }
        });
        let refuses = table.origin_refuses().expect("the login has expired");
        assert!(
            refuses.midway && refuses.refusal == Refusal::Status(403),
            "{refuses:?}"
        );
        assert!(
            asked <= 300 + STREAK + SAMPLE + 2 * slots,
            "{asked} classes were asked for with {slots} slots"
        );
        assert_eq!(
            (
                table.status().success,
                table.status().failed,
                table.status().pending
            ),
            (300, 0, 700)
        );
        assert_eq!(table.take_given_up(), []);
    }
}

#[test]
fn the_last_classes_of_a_sample_are_spread_over_the_rest_of_the_list() {
    let now = Instant::now();
    let mut table = table(1000).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    let mut last = Vec::new();
    work(&mut table, id, 1, now, |number, asked| {
        last.push(number);
        if asked < 300 { good() } else { refused(403) }
    });
    let mut sample = last[last.len() - SAMPLE..].to_vec();
    sample.sort_unstable();
    assert!(
        sample[0] < 320 && sample[SAMPLE - 1] == 1000,
        "up to the last row: {sample:?}"
    );
}

#[test]
fn classes_that_are_missing_never_end_a_job_that_has_received_some() {
    for (slots, status) in [(10, 404), (100, 410)] {
        let now = Instant::now();
        let mut table = table(1000).checking_first_answers([]);
        let id = session(&mut table, "one", now);
        work(&mut table, id, slots, now, |_, asked| {
            if asked < 300 { good() } else { refused(status) }
        });
        assert!(table.status().is_done());
        assert_eq!((table.status().success, table.status().failed), (300, 700));
    }
}

#[test]
fn missing_classes_between_the_refused_ones_do_not_count() {
    let now = Instant::now();
    let mut table = table(1000).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    let mut missing = 0;
    work(&mut table, id, 10, now, |number, asked| match asked {
        0..300 => good(),
        _ if number % 3 == 0 => {
            missing += 1;
            refused(404)
        }
        _ => refused(401),
    });
    assert!(table.origin_refuses().is_some());
    assert_eq!(
        (table.status().success, table.status().failed),
        (300, missing)
    );
}

/// Some origins respond with 403 for missing classes.
#[test]
fn neighbours_in_the_list_that_are_refused_have_failed() {
    for slots in [1, 10, 100] {
        let now = Instant::now();
        let mut table = table(1000).checking_first_answers([]);
        let id = session(&mut table, "one", now);
        let is_refused = |number| (100..160).contains(&number) || (300..450).contains(&number);
        let answer = |number, _| {
            if is_refused(number) {
                refused(403)
            } else {
                good()
            }
        };
        work(&mut table, id, slots, now, answer);
        assert!(table.status().is_done(), "{:?}", table.status());
        assert_eq!((table.status().success, table.status().failed), (790, 210));
    }
}

#[test]
fn single_refusals_do_not_delay_grants() {
    let now = Instant::now();
    let mut table = table(1000).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    let first = acquire(&mut table, id, 1, now).unwrap();
    table.report(id, first[0], &good(), now, LONGEST_DELAY);
    let leases = acquire(&mut table, id, 100, now).unwrap();
    for lease in &leases[..STREAK - 1] {
        assert_eq!(
            table.report(id, *lease, &refused(403), now, LONGEST_DELAY),
            ReportVerdict::Doubted
        );
    }
    assert_eq!(acquire(&mut table, id, 50, now).unwrap().len(), 50);
    assert_eq!(
        table.report(id, leases[50], &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert_eq!(
        table.status().failed,
        0,
        "it was granted before the first of them was refused"
    );
    let later = acquire(&mut table, id, 1, now).unwrap();
    table.report(id, later[0], &good(), now, LONGEST_DELAY);
    assert_eq!(
        (table.status().failed, table.take_given_up().len()),
        (STREAK as u64 - 1, STREAK - 1)
    );
    check(&table);
}

#[test]
fn a_download_that_continues_after_its_login_has_expired_is_no_evidence() {
    let now = Instant::now();
    let mut table = table(1000).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    let first = acquire(&mut table, id, 10, now).unwrap();
    table.report(id, first[0], &good(), now, LONGEST_DELAY);
    let mut asked = 0;
    let mut slow = first[1..].iter();
    while table.origin_refuses().is_none() {
        let leases = acquire(&mut table, id, 1, now).unwrap();
        table.report(id, leases[0], &refused(403), now, LONGEST_DELAY);
        if let Some(lease) = slow.next() {
            table.report(id, *lease, &good(), now, LONGEST_DELAY);
        }
        asked += 1;
        assert!(asked < 50);
    }
    assert_eq!(table.status().failed, 0);
}

#[test]
fn bytes_of_a_class_of_the_sample_are_a_response() {
    let mut now = Instant::now();
    let mut table = table(1000).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    let first = acquire(&mut table, id, 1, now).unwrap();
    table.report(id, first[0], &good(), now, LONGEST_DELAY);
    for _ in 0..STREAK {
        let leases = acquire(&mut table, id, 1, now).unwrap();
        table.report(id, leases[0], &refused(403), now, LONGEST_DELAY);
    }
    let leases = acquire(&mut table, id, 1000, now).unwrap();
    assert_eq!(leases.len(), SAMPLE);
    for bytes in [50_000_000, 50_000_100, 50_100_000] {
        assert_eq!(table.status().failed, 0, "it resumed a partial file");
        now += Duration::from_secs(1);
        let held: Vec<ReportedLease> = leases
            .iter()
            .map(|lease| reported(*lease, bytes, 90_000_000))
            .collect();
        table.renew(id, &held, bytes, now).unwrap();
    }
    assert_eq!(table.status().failed, STREAK as u64);
    assert_eq!(acquire(&mut table, id, 50, now).unwrap().len(), 50);
    check(&table);
}

/// A worker that reports falsely, or whose login has expired, does not end the job of all others.
#[test]
fn one_of_several_workers_does_not_decide_for_all() {
    let mut now = Instant::now();
    let mut table = table(1000).checking_first_answers([]);
    let [hostile, honest, other] =
        ["hostile", "honest", "other"].map(|name| session(&mut table, name, now));
    for id in [honest, other, hostile] {
        let first = acquire(&mut table, id, 1, now).unwrap();
        table.report(id, first[0], &good(), now, LONGEST_DELAY);
    }
    let busy = acquire(&mut table, honest, 5, now).unwrap();
    work(&mut table, hostile, 10, now, |_, _| refused(403));
    assert_eq!(table.origin_refuses(), None);
    assert_eq!(table.status().failed, 0);
    // The sample ends without a result.
    now += LONGEST_SAMPLE;
    for id in [hostile, honest, other] {
        let held = if id == honest {
            as_reported(&busy)
        } else {
            Vec::new()
        };
        table.renew(id, &held, 0, now).unwrap();
    }
    table.tick(now);
    assert_eq!(table.origin_refuses(), None);
    assert!(table.status().failed > 0);
    check(&table);

    // The other workers are refused too.
    work(&mut table, hostile, 10, now, |_, _| refused(403));
    work(&mut table, other, 10, now, |_, _| refused(403));
    assert!(table.origin_refuses().is_some(), "two of three");
}

#[test]
fn the_last_tenth_of_a_list_fails_class_by_class() {
    let now = Instant::now();
    let mut table = table(1000).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    work(&mut table, id, 10, now, |_, asked| {
        if asked < 920 { good() } else { refused(403) }
    });
    assert!(table.status().is_done());
    assert_eq!((table.status().success, table.status().failed), (920, 80));
}

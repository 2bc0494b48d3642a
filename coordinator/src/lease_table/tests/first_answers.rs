//! The first responses of the origin: when all are the same refusal, and how a list is recognized
//! of which only some classes are missing.

use shared::refused_sample::SAMPLE;

use super::*;
use crate::lease_table::first_answers::SHARED_FOR;

/// Requests and refuses classes until none is granted or the check is over. Returns the requested
/// classes.
fn refuse_all(
    table: &mut LeaseTable,
    id: SessionId,
    slots: usize,
    status: u16,
    now: Instant,
) -> Vec<Wnid> {
    let mut asked = Vec::new();
    loop {
        let leases = acquire(table, id, slots, now).unwrap();
        if leases.is_empty() {
            return asked;
        }
        for lease in leases {
            asked.push(lease.wnid);
            table.report(id, lease, &refused(status), now, LONGEST_DELAY);
        }
        check(table);
    }
}

fn number(wnid: Wnid) -> usize {
    wnid.to_string()[1..].parse().unwrap()
}

#[test]
fn twenty_classes_spread_over_the_list_that_are_refused_alike_end_the_job() {
    for (count, slots) in [(20, 10), (5000, 10), (5000, 1), (5000, 1000), (100_000, 7)] {
        let now = Instant::now();
        let mut table = table(count).checking_first_answers([]);
        let id = session(&mut table, "one", now);
        let asked = refuse_all(&mut table, id, slots, 404, now);
        assert_eq!(asked.len(), SAMPLE);
        let mut positions: Vec<usize> = asked.into_iter().map(number).collect();
        positions.sort_unstable();
        assert_eq!(
            (positions[0], positions[19]),
            (1, count as usize),
            "the first and the last row"
        );
        let widest = positions
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap();
        assert!(
            widest <= (count as usize).div_ceil(SAMPLE - 1),
            "{widest} rows apart"
        );
        let refuses = table.origin_refuses().expect("all were refused");
        assert_eq!(
            (refuses.refusal, refuses.classes),
            (Refusal::Status(404), SAMPLE)
        );
        assert_eq!(
            (table.status().failed, table.status().pending),
            (0, count.into()),
            "none of them has failed"
        );
        assert_eq!(table.take_given_up(), []);
    }
}

#[test]
fn a_tar_among_the_first_responses_makes_the_refused_classes_failed_and_ends_the_limit() {
    let now = Instant::now();
    let mut table = table(5000).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    let leases = acquire(&mut table, id, 100, now).unwrap();
    assert_eq!(
        leases.len(),
        SAMPLE,
        "no more are requested before the first response"
    );
    for lease in &leases[1..] {
        assert_eq!(
            table.report(id, *lease, &refused(404), now, LONGEST_DELAY),
            ReportVerdict::Doubted
        );
        check(&table);
    }
    assert_eq!(table.status().failed, 0);
    let wake_ups = table.wake_ups();
    assert_eq!(
        table.report(id, leases[0], &good(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    check(&table);
    assert_eq!((table.status().success, table.status().failed), (1, 19));
    assert_eq!(table.take_given_up().len(), 19);
    assert!(table.wake_ups() > wake_ups, "waiting requests are woken");
    assert_eq!(acquire(&mut table, id, 100, now).unwrap().len(), 100);
    assert_eq!(table.origin_refuses(), None);
}

/// The first rows are missing at the origin, and the rest is available.
#[test]
fn a_list_whose_first_twenty_are_missing_is_finished() {
    for count in [21, 40, 5000] {
        let now = Instant::now();
        let mut table = table(count).checking_first_answers([]);
        let id = session(&mut table, "one", now);
        loop {
            let leases = acquire(&mut table, id, 10, now).unwrap();
            if leases.is_empty() {
                break;
            }
            for lease in leases {
                let outcome = if number(lease.wnid) <= 20 {
                    refused(404)
                } else {
                    good()
                };
                table.report(id, lease, &outcome, now, LONGEST_DELAY);
            }
        }
        assert!(table.status().is_done(), "{:?}", table.status());
        assert_eq!(
            (table.status().failed, table.status().success),
            (20, u64::from(count) - 20)
        );
    }
}

#[test]
fn a_short_list_a_nearly_complete_one_and_what_failed_before_are_no_evidence() {
    let now = Instant::now();
    let mut short = table(19).checking_first_answers([]);
    let id = session(&mut short, "one", now);
    assert_eq!(refuse_all(&mut short, id, 10, 404, now).len(), 19);
    assert_eq!((short.status().failed, short.origin_refuses()), (19, None));

    let mut complete = table(250).checking_first_answers([]);
    for wnid in wnids(225) {
        complete.restore(wnid, &Outcome::Skipped(Published::default()));
    }
    let id = session(&mut complete, "one", now);
    assert_eq!(refuse_all(&mut complete, id, 10, 404, now).len(), 25);
    assert_eq!(
        (complete.status().failed, complete.origin_refuses()),
        (25, None)
    );

    let mut again = table(60).checking_first_answers(wnids(50));
    let id = session(&mut again, "one", now);
    assert_eq!(
        refuse_all(&mut again, id, 10, 404, now).len(),
        60,
        "ten of them are new"
    );
    assert_eq!((again.status().failed, again.origin_refuses()), (60, None));
}

#[test]
fn responses_that_differ_are_caused_by_the_classes() {
    let now = Instant::now();
    let mut table = table(100).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    let leases = acquire(&mut table, id, 100, now).unwrap();
    for lease in &leases[1..] {
        table.report(id, *lease, &refused(404), now, LONGEST_DELAY);
    }
    assert_eq!(
        table.report(id, leases[0], &bad(), now, LONGEST_DELAY),
        ReportVerdict::Settled
    );
    assert_eq!((table.status().failed, table.origin_refuses()), (20, None));
    check(&table);
}

/// One wrong path can result in a 403 for some classes, a 404 for others and a page for the rest.
#[test]
fn different_refusals_without_a_tar_end_the_job_with_the_most_frequent_one() {
    let now = Instant::now();
    let mut table = table(5000).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    for (number, lease) in acquire(&mut table, id, 100, now)
        .unwrap()
        .into_iter()
        .enumerate()
    {
        let status = if number % 4 == 0 { 404 } else { 403 };
        assert_eq!(
            table.report(id, lease, &refused(status), now, LONGEST_DELAY),
            ReportVerdict::Doubted
        );
    }
    let refuses = table.origin_refuses().expect("all were refused");
    assert_eq!(
        (refuses.refusal, refuses.classes, refuses.otherwise),
        (Refusal::Status(403), SAMPLE, 5)
    );
    assert_eq!(table.status().failed, 0);
}

#[test]
fn if_half_of_the_list_is_complete_classes_that_are_not_found_are_missing() {
    for (there, status, is_refused) in [(20, 404, false), (19, 404, true), (20, 403, true)] {
        let now = Instant::now();
        let mut table = table(40).checking_first_answers([]);
        for wnid in wnids(there) {
            table.restore(wnid, &Outcome::Skipped(Published::default()));
        }
        let id = session(&mut table, "one", now);
        refuse_all(&mut table, id, 10, status, now);
        assert_eq!(
            table.origin_refuses().is_some(),
            is_refused,
            "{there} {status}"
        );
    }
}

#[test]
fn bytes_of_a_tar_are_a_response_too() {
    let now = Instant::now();
    let mut table = table(100).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    let leases = acquire(&mut table, id, 100, now).unwrap();
    table.report(id, leases[0], &refused(404), now, LONGEST_DELAY);
    let leases = &leases[1..];
    let named = |bytes| {
        leases
            .iter()
            .map(move |lease| reported(*lease, bytes, 0))
            .collect::<Vec<_>>()
    };
    table.renew(id, &named(1000), 20_000, now).unwrap();
    assert_eq!(
        acquire(&mut table, id, 100, now).unwrap(),
        [],
        "an error page may have this many"
    );
    table.renew(id, &named(100_000), 2_000_000, now).unwrap();
    assert_eq!(acquire(&mut table, id, 100, now).unwrap().len(), 80);

    // If no class was refused, the first received bytes suffice.
    let mut table = super::table(100).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    let leases = acquire(&mut table, id, 100, now).unwrap();
    table.renew(id, &as_reported(&leases), 2048, now).unwrap();
    assert_eq!(acquire(&mut table, id, 100, now).unwrap().len(), 80);
}

/// The check ends before the next heartbeat of the fleet.
#[test]
fn bytes_that_a_process_has_received_end_the_check_unless_they_may_be_pages() {
    let now = Instant::now();
    let mut table = table(100).checking_first_answers([]);
    let one = session(&mut table, "one", now);
    let other = session(&mut table, "other", now);
    assert_eq!(acquire(&mut table, one, 10, now).unwrap().len(), 10);
    table.record_received(one, 900 << 20);
    assert_eq!(
        acquire(&mut table, other, 100, now).unwrap().len(),
        10,
        "its process had them before"
    );
    table.record_received(one, (910 << 20) - 1);
    assert_eq!(acquire(&mut table, other, 100, now).unwrap(), []);
    table.record_received(one, 910 << 20);
    assert_eq!(acquire(&mut table, other, 80, now).unwrap().len(), 80);
    check(&table);
}

/// Also if some classes of the sample ended differently, and if the origin is unavailable in
/// between.
#[test]
fn a_sample_that_cannot_be_filled_ends_with_the_list() {
    let mut now = Instant::now();
    let mut table = table(24).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    let mut reported = 0;
    while !table.status().is_done() {
        let leases = acquire(&mut table, id, 10, now).unwrap();
        for lease in &leases {
            reported += 1;
            let outcome = match reported % 4 {
                0 => Outcome::Skipped(Published::default()),
                1 => failure_caused_by(Suspect::Origin),
                _ => refused(404),
            };
            table.report(id, *lease, &outcome, now, LONGEST_DELAY);
            check(&table);
        }
        now += Duration::from_secs(1);
        table.renew(id, &[], 0, now).unwrap();
        table.tick(now);
        assert!(reported < 100, "{:?}", table.status());
    }
    assert_eq!(table.origin_refuses(), None);
}

/// Behind a redirect a refusal takes two requests or more.
#[test]
fn half_as_many_classes_are_enough_where_each_takes_two_requests() {
    for slots in [1, 10] {
        let now = Instant::now();
        let mut table = table(5000).checking_first_answers([]);
        let id = session(&mut table, "one", now);
        let mut asked = 0;
        while table.origin_refuses().is_none() {
            let leases = acquire(&mut table, id, slots, now).unwrap();
            assert!(!leases.is_empty(), "{asked} were asked for");
            for lease in leases {
                asked += 1;
                table.record_sent_requests(id, 2 * asked);
                table.report(id, lease, &refused(403), now, LONGEST_DELAY);
                check(&table);
            }
        }
        assert_eq!(asked, 10, "with {slots} slots");
    }

    // A different number of requests delays nothing, and the number reported by one of several
    // workers is ignored.
    let now = Instant::now();
    let mut table = table(5000).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    let first = acquire(&mut table, id, 1, now).unwrap();
    table.record_sent_requests(id, u64::MAX);
    table.report(id, first[0], &refused(403), now, LONGEST_DELAY);
    assert_eq!(acquire(&mut table, id, 100, now).unwrap().len(), 9);
    session(&mut table, "other", now);
    table.record_sent_requests(id, u64::MAX);
    assert_eq!(
        acquire(&mut table, id, 100, now).unwrap(),
        [],
        "it has its half"
    );
}

#[test]
fn a_request_under_way_does_not_count_as_a_redirect() {
    let now = Instant::now();
    let mut table = table(5000).checking_first_answers([]);
    let id = session(&mut table, "one", now);
    let leases = acquire(&mut table, id, 1000, now).unwrap();
    assert_eq!(leases.len(), SAMPLE);
    table.record_sent_requests(id, SAMPLE as u64);
    let (last, refused_ones) = leases.split_last().unwrap();
    for lease in refused_ones {
        table.report(id, *lease, &refused(404), now, LONGEST_DELAY);
    }
    assert_eq!(table.origin_refuses(), None, "the last class may be served");
    table.report(id, *last, &good(), now, LONGEST_DELAY);
    assert_eq!(table.status().failed, SAMPLE as u64 - 1);
    check(&table);
}

/// One worker that reports falsely, or whose proxy responds with a page, does not end the job of
/// all others.
#[test]
fn one_of_several_workers_does_not_decide_for_all() {
    let mut now = Instant::now();
    let mut table = table(5000).checking_first_answers([]);
    let hostile = session(&mut table, "hostile", now);
    let honest = session(&mut table, "honest", now);
    assert_eq!(
        refuse_all(&mut table, hostile, 1000, 404, now).len(),
        SAMPLE / 2
    );
    assert_eq!(table.origin_refuses(), None);
    let leases = acquire(&mut table, honest, 1, now).unwrap();
    table.report(honest, leases[0], &good(), now, LONGEST_DELAY);
    assert_eq!(table.status().success, 1);
    check(&table);

    // A worker that requests nothing delays the others only briefly.
    let mut table = super::table(5000).checking_first_answers([]);
    let one = session(&mut table, "one", now);
    let _ = session(&mut table, "other", now);
    assert_eq!(refuse_all(&mut table, one, 10, 404, now).len(), SAMPLE / 2);
    let wake_ups = table.wake_ups();
    now += SHARED_FOR;
    table.tick(now);
    assert!(table.wake_ups() > wake_ups);
    assert_eq!(refuse_all(&mut table, one, 10, 404, now).len(), SAMPLE / 2);
    assert!(table.origin_refuses().is_some());
}

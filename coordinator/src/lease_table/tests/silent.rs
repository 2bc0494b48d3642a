//! A worker that holds classes and receives nothing of them.

use super::*;

/// Without a byte, before a class is taken for the first time.
const PATIENCE: Duration = Duration::from_secs(150);

/// A table, its clock, and what each of its workers says when it renews.
struct Silence {
    table: LeaseTable,
    now: Instant,
    seconds: u64,
    named: Vec<(SessionId, Vec<Held>)>,
}

impl Silence {
    /// Workers with so many slots each, on one storage, where no copies are made.
    fn new<const COUNT: usize>(classes: u32, workers: [(&str, u32); COUNT]) -> (Self, [SessionId; COUNT]) {
        let now = Instant::now();
        let mut table = table(classes).expecting_bytes_within(PATIENCE);
        table.look_for_stragglers(false, now);
        let ids = workers.map(|(name, slots)| {
            let storage = "shared".to_owned();
            let hello = Hello { worker: name.to_owned(), instance: name.into(), slots, storage, ..Hello::default() };
            table.register(&hello, &[], now).unwrap().session
        });
        (Self { table, now, seconds: 0, named: ids.map(|id| (id, Vec::new())).to_vec() }, ids)
    }

    /// A worker asks for leases, and names them with this position and length from now on.
    fn ask(&mut self, id: SessionId, max: usize, bytes: u64, length: u64) -> Vec<Lease> {
        let leases = acquire(&mut self.table, id, max, self.now).unwrap();
        check(&self.table);
        let (_, named) = self.named.iter_mut().find(|(worker, _)| *worker == id).unwrap();
        named.extend(leases.iter().map(|lease| Held { lease: *lease, bytes, length, is_local: false }));
        leases
    }

    /// The worker has done a class of another kind: it may take more than one class at once.
    fn is_proven(&mut self, id: SessionId) {
        self.table.sessions.by_id.get_mut(&id).unwrap().settled[0] = 1000;
    }

    /// Seconds pass, in which all workers renew; `quiet`: the origin is left alone.
    fn pass(&mut self, seconds: u64, quiet: bool) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.seconds += 1;
            if self.seconds.is_multiple_of(10) {
                for (id, named) in &mut self.named {
                    let received = named.iter().map(|held| held.bytes).sum();
                    let dropped = self.table.renew(*id, named, received, self.now).unwrap().drop;
                    named.retain(|held| !dropped.contains(&held.lease));
                }
            }
            assert_eq!(self.table.tick(self.now), []);
            self.table.look_for_stragglers(quiet, self.now);
        }
        check(&self.table);
    }

    /// How long a worker that asks every second gets nothing, and what it gets then.
    fn waits(&mut self, id: SessionId, max: usize) -> (Duration, Vec<Lease>) {
        let begun = self.now;
        for _ in 0..100_000 {
            let leases = self.ask(id, max, 0, 0);
            if !leases.is_empty() {
                return (self.now - begun, leases);
            }
            self.pass(1, false);
        }
        panic!("the worker gets nothing");
    }
}

#[test]
fn all_classes_of_a_worker_that_receives_nothing_go_to_one_that_is_idle() {
    let (mut silence, [hostile, honest]) = Silence::new(1000, [("hostile", 1000), ("honest", 10)]);
    assert_eq!(silence.ask(hostile, 1000, 0, 0).len(), 1000);
    assert_eq!(silence.ask(honest, 10, 0, 0), []);
    let turn = silence.table.turn();
    let (waited, mut leases) = silence.waits(honest, 10);
    assert_eq!((waited, leases.len()), (PATIENCE, 1), "one, for it has done none yet");
    assert!(silence.table.turn() > turn, "a question that waits is answered");
    let is_silent = |notice: &Notice| matches!(notice, Notice::Silent { worker, .. } if worker == "hostile");
    assert!(silence.table.take_notices().iter().all(is_silent));
    let mut settled = 0;
    while !leases.is_empty() {
        for lease in leases {
            assert_eq!(silence.table.report(honest, lease, &good(), silence.now, 1.0), Verdict::Settled);
            settled += 1;
        }
        leases = silence.ask(honest, 10, 0, 0);
    }
    assert_eq!((settled, silence.table.status().success), (1000, 1000), "without any further wait");
}

#[test]
fn a_class_of_which_no_worker_receives_anything_stays_twice_as_long_with_each() {
    let (mut silence, ids) = Silence::new(1, [("one", 1), ("other", 1)]);
    silence.ask(ids[0], 1, 0, 0);
    let waits: Vec<u64> = (1..6).map(|turn| silence.waits(ids[turn % 2], 1).0.as_secs()).collect();
    assert_eq!(waits, [150, 300, 600, 1200, 2400]);
    assert_eq!((silence.table.status().leased, silence.table.take_given_up()), (1, vec![]));
}

#[test]
fn a_worker_keeps_what_it_has_while_no_other_one_is_idle_or_the_origin_is_left_alone() {
    let (mut silence, [one]) = Silence::new(10, [("one", 10)]);
    silence.ask(one, 10, 0, 0);
    silence.pass(7000, false);
    assert_eq!((silence.table.take_notices(), silence.named[0].1.len()), (vec![], 10), "it is alone");
    let (mut silence, [one, other]) = Silence::new(30, [("one", 10), ("other", 10)]);
    silence.ask(one, 10, 0, 0);
    silence.pass(200, false);
    assert_eq!(numbers(&silence.ask(other, 10, 0, 0))[0], "11", "others are pending");
    let (mut silence, [one, other]) = Silence::new(10, [("one", 10), ("other", 10)]);
    silence.ask(one, 10, 0, 0);
    silence.pass(1000, true);
    silence.pass(149, false);
    silence.is_proven(other);
    assert_eq!(silence.ask(other, 10, 0, 0), [], "nothing could come for a thousand seconds");
    silence.pass(1, false);
    assert_eq!(silence.ask(other, 10, 0, 0).len(), 10);
}

/// What comes a second time is at most three hundredths of what has come, as for copies.
#[test]
fn what_was_received_is_thrown_away_only_within_the_limit_on_copies() {
    for (came, bytes, length, taken) in
        [(0, 0, 0, 1), (0, 1, 0, 0), (1000, 30, 0, 1), (1000, 31, 0, 0), (1000, 5, 5, 0), (1000, 30, u64::MAX, 1)]
    {
        let (mut silence, [one, other]) = Silence::new(2, [("one", 1), ("other", 1)]);
        silence.ask(one, 1, bytes, length);
        for lease in silence.ask(other, 1, 0, 0) {
            let outcome = Outcome::Success(Published { files: 1, bytes: came });
            silence.table.report(other, lease, &outcome, silence.now, 1.0);
        }
        silence.pass(170, false);
        assert_eq!(silence.ask(other, 1, 0, 0).len(), taken, "{bytes} of {length} bytes, {came} have come");
    }
}

#[test]
fn a_class_of_which_bytes_come_is_never_taken() {
    let (mut silence, [one, other]) = Silence::new(1, [("one", 1), ("other", 1)]);
    silence.ask(one, 1, 0, 0);
    for _ in 0..100 {
        silence.pass(149, false);
        silence.named[0].1[0].bytes += 1;
        silence.pass(10, false);
        assert_eq!(silence.ask(other, 1, 0, 0), []);
    }
}

#[test]
fn two_workers_that_receive_nothing_keep_nothing_from_a_third() {
    let (mut silence, [hostile, accomplice, honest]) =
        Silence::new(1, [("hostile", 1), ("accomplice", 1), ("honest", 1)]);
    let lease = silence.ask(hostile, 1, 0, 0)[0];
    let (waited, _) = silence.waits(accomplice, 1);
    assert_eq!(waited, PATIENCE);
    let (waited, taken) = silence.waits(honest, 1);
    assert_eq!((waited, taken[0].wnid), (PATIENCE * 2, lease.wnid));
}

/// With one connection for all, a class may wait much longer than a worker may be silent.
#[test]
fn a_class_that_waits_for_a_connection_is_not_taken_while_its_worker_receives_others() {
    let (mut silence, [one, other]) = Silence::new(10, [("one", 10), ("other", 10)]);
    silence.ask(one, 10, 0, 0);
    for _ in 0..100 {
        silence.named[0].1[0].bytes += 1000;
        silence.pass(140, false);
        assert_eq!(silence.ask(other, 10, 0, 0), []);
    }
    silence.pass(160, false);
    assert_eq!(silence.ask(other, 10, 0, 0).len(), 1, "its connection is gone, and it has others' classes");
}

#[test]
fn a_worker_takes_one_class_at_once_until_it_has_done_some() {
    let (mut silence, [hostile, idle]) = Silence::new(10, [("hostile", 10), ("idle", 10)]);
    silence.ask(hostile, 10, 0, 0);
    let (_, leases) = silence.waits(idle, 10);
    assert_eq!((leases.len(), silence.ask(idle, 10, 0, 0)), (1, vec![]));
    silence.named[1].1[0].bytes = 1;
    silence.pass(10, false);
    assert_eq!(silence.ask(idle, 10, 0, 0).len(), 1, "bytes of the first one have come");
    silence.table.report(idle, leases[0], &good(), silence.now, 1.0);
    silence.named[1].1.remove(0);
    assert_eq!((silence.ask(idle, 10, 0, 0).len(), silence.ask(idle, 10, 0, 0).len()), (1, 0));
}

#[test]
fn a_class_has_not_failed_because_the_worker_that_took_it_says_so() {
    for is_missing in [false, true] {
        let (mut silence, [holder, taker]) = Silence::new(1, [("holder", 1), ("taker", 1)]);
        silence.ask(holder, 1, 0, 0);
        let (_, leases) = silence.waits(taker, 1);
        silence.pass(10, false);
        let verdict = silence.table.report(taker, leases[0], &bad(), silence.now, 1.0);
        silence.named[1].1.clear();
        assert_eq!((verdict, silence.table.status().failed), (Verdict::Retried, 0));
        silence.pass(10, false);
        assert_eq!(silence.ask(taker, 1, 0, 0), [], "another worker tries it");
        let lease = silence.ask(holder, 1, 0, 0)[0];
        let outcome = if is_missing { bad() } else { good() };
        assert_eq!(silence.table.report(holder, lease, &outcome, silence.now, 1.0), Verdict::Settled);
        assert_eq!(silence.table.status().failed, u64::from(is_missing));
    }
}

/// A taken class that no other worker may try has failed with the report of the one that has it.
#[test]
fn a_class_fails_with_the_report_of_the_last_worker() {
    let (mut silence, [holder, taker]) = Silence::new(1, [("holder", 1), ("taker", 1)]);
    silence.ask(holder, 1, 0, 0);
    let (_, leases) = silence.waits(taker, 1);
    silence.table.leave(holder).unwrap();
    assert_eq!(silence.table.report(taker, leases[0], &bad(), silence.now, 1.0), Verdict::Settled);
}

/// One session lets the origin be left alone for a moment, again and again.
#[test]
fn short_pauses_delay_the_end_of_a_silent_lease_by_their_length_only() {
    let (mut silence, [hostile, honest]) = Silence::new(10, [("hostile", 10), ("honest", 10)]);
    silence.ask(hostile, 10, 0, 0);
    silence.pass(138, false);
    silence.pass(2, true);
    silence.pass(11, false);
    assert_eq!(silence.ask(honest, 10, 0, 0), []);
    silence.pass(1, false);
    assert_eq!(silence.ask(honest, 10, 0, 0).len(), 1, "150 seconds, and two of a pause");
}

/// It reads a local tar, proves a folder, or publishes a tar whose length is not known.
#[test]
fn a_class_that_needs_no_origin_is_not_taken() {
    for (bytes, length) in [(0, 0), (7, 0), (7, 9)] {
        let (mut silence, [one, other]) = Silence::new(2, [("one", 1), ("other", 1)]);
        silence.ask(one, 1, bytes, length);
        for lease in silence.ask(other, 1, 0, 0) {
            let outcome = Outcome::Success(Published { files: 1, bytes: 1000 });
            silence.table.report(other, lease, &outcome, silence.now, 1.0);
        }
        silence.named[1].1.clear();
        silence.named[0].1[0].is_local = true;
        silence.pass(1000, false);
        assert_eq!(silence.ask(other, 1, 0, 0), [], "{bytes} of {length} bytes");
        silence.named[0].1[0].is_local = false;
        silence.pass(10, false);
        assert_eq!(silence.ask(other, 1, 0, 0).len(), 1);
    }
}

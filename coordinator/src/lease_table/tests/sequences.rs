//! Random sequences of all operations: no class is lost, none is settled twice, tokens increase,
//! and the counts add up.

use proptest::{collection::vec, prelude::*};

use super::*;

/// An operation of a random sequence.
#[derive(Debug, Clone)]
enum Step {
    Register {
        worker: usize,
        instance: u8,
    },
    Renew {
        worker: usize,
        received: u64,
        bytes: u64,
    },
    Acquire {
        worker: usize,
        max: usize,
        forget: bool,
    },
    Report {
        pick: usize,
        by: usize,
        outcome: usize,
    },
    RetryFailed,
    Drain {
        worker: usize,
    },
    Leave {
        worker: usize,
    },
    Wait {
        seconds: u64,
    },
    /// The coordinator is late: calls are processed before the timeouts.
    Stall {
        seconds: u64,
    },
    /// All workers are alive, but no transfer makes progress.
    StandStill,
    /// A heartbeat that was sent before the last reports arrives after them.
    LateRenew {
        worker: usize,
    },
    /// The coordinator is killed and restarted: sessions and settled classes are in the ledger,
    /// grants are not.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let worker = 0..3_usize;
    prop_oneof![
        2 => (worker.clone(), 0..2_u8).prop_map(|(worker, instance)| Step::Register { worker, instance }),
        3 => (worker.clone(), 0..100_u64, 0..3_u64)
            .prop_map(|(worker, received, bytes)| Step::Renew { worker, received, bytes }),
        4 => (worker.clone(), 0..4_usize, any::<bool>())
            .prop_map(|(worker, max, forget)| Step::Acquire { worker, max, forget }),
        8 => (any::<usize>(), worker.clone(), 0..5_usize)
            .prop_map(|(pick, by, outcome)| Step::Report { pick, by, outcome }),
        1 => Just(Step::RetryFailed),
        1 => worker.clone().prop_map(|worker| Step::Drain { worker }),
        1 => worker.prop_map(|worker| Step::Leave { worker }),
        2 => (1..60_u64).prop_map(|seconds| Step::Wait { seconds }),
        1 => (1..200_u64).prop_map(|seconds| Step::Stall { seconds }),
        2 => Just(Step::StandStill),
        1 => (0..3_usize).prop_map(|worker| Step::LateRenew { worker }),
        1 => Just(Step::Restart),
    ]
}

/// Three workers with their own view of their leases, and everything that was ever granted.
#[derive(Default)]
struct Fleet {
    sessions: [Option<SessionId>; 3],
    held: [Vec<Lease>; 3],
    /// The leases that each worker named last.
    named: [Vec<Lease>; 3],
    epoch: u32,
    granted: Vec<Lease>,
    last_token: HashMap<Wnid, LeaseToken>,
    settled: HashMap<Wnid, Outcome>,
    /// The content of the ledger: the high-water mark of grants, and the drained processes.
    mark: Mark,
    drains: HashMap<String, Vec<u8>>,
    /// Written, but not confirmed yet.
    late_mark: Option<Mark>,
}

impl Fleet {
    fn take(&mut self, table: &mut LeaseTable, step: &Step, now: &mut Instant) {
        match *step {
            Step::Register { worker, instance } => self.register(table, worker, instance, *now),
            Step::Renew {
                worker,
                received,
                bytes,
            } => self.renew(table, worker, received, bytes, *now),
            Step::Stall { seconds } => *now += Duration::from_secs(seconds),
            Step::StandStill => self.stand_still(table, now),
            Step::LateRenew { worker } => {
                let Some(session) = self.sessions[worker] else {
                    return;
                };
                drop(renew(table, session, &self.named[worker], 0, *now));
            }
            Step::Restart => self.restart(table, *now),
            Step::Acquire {
                worker,
                max,
                forget,
            } => self.acquire(table, worker, max, forget, *now),
            Step::Report { pick, by, outcome } => {
                self.report_any(table, pick, by, outcome, *now);
            }
            Step::RetryFailed => {
                for wnid in table.retry_failed(&[]) {
                    let before = self.settled.remove(&wnid);
                    assert!(
                        matches!(before, Some(Outcome::Failed(_))),
                        "only what has failed is tried again"
                    );
                }
            }
            Step::Drain { worker } => self.drain(table, worker),
            Step::Leave { worker } => self.leave(table, worker),
            Step::Wait { seconds } => {
                *now += Duration::from_secs(seconds);
                table.tick(*now);
                table.look_for_stragglers(seconds == 59, *now);
            }
        }
    }

    fn register(&mut self, table: &mut LeaseTable, worker: usize, instance: u8, now: Instant) {
        let before = table.status();
        let name = worker.to_string();
        let Ok(registered) = register(table, &name, &[instance], &self.held[worker], now) else {
            return assert_eq!(table.status(), before);
        };
        self.give_up(worker, &registered.drop);
        self.sessions[worker] = Some(registered.session);
        if registered.drain_over.is_some() {
            assert_ne!(
                self.drains.remove(&name),
                Some(vec![instance]),
                "a drain is its process's"
            );
        }
    }

    /// Most transfers stand still. The budget allows a speculative attempt early for some classes
    /// and late for others.
    fn renew(
        &mut self,
        table: &mut LeaseTable,
        worker: usize,
        received: u64,
        bytes: u64,
        now: Instant,
    ) {
        let Some(session) = self.sessions[worker] else {
            return;
        };
        self.named[worker] = self.held[worker].clone();
        let with_length = |lease: &Lease| reported(*lease, bytes, lease.token.0 % 1000 + 10);
        let held: Vec<ReportedLease> = self.held[worker].iter().map(with_length).collect();
        match table.renew(session, &held, received, now) {
            Ok(renewed) => self.give_up(worker, &renewed.drop),
            Err(UnknownSession) => self.sessions[worker] = None,
        }
    }

    /// Reports one of the outcomes of one of the leases that were ever granted.
    fn report_any(
        &mut self,
        table: &mut LeaseTable,
        pick: usize,
        by: usize,
        outcome: usize,
        now: Instant,
    ) {
        if self.granted.is_empty() {
            return;
        }
        let outcomes = [
            good(),
            bad(),
            failure_caused_by(Suspect::Origin),
            failure_caused_by(Suspect::WorkerHost),
            refused(404),
        ];
        let outcome = outcomes[outcome].clone();
        let session = self.sessions[by].unwrap_or(SessionId(0));
        // Half of the reports are about one of the last grants.
        let among = if pick.is_multiple_of(2) {
            self.granted.len()
        } else {
            self.granted.len().min(4)
        };
        let lease = self.granted[self.granted.len() - 1 - pick / 2 % among];
        self.report(table, session, lease, outcome, now);
    }

    fn drain(&mut self, table: &mut LeaseTable, worker: usize) {
        let drained = table.drain(&worker.to_string());
        for drain in drained.iter().flatten() {
            let Drain::Requested { worker, instance } = drain else {
                panic!("three workers are few: {drain:?}")
            };
            self.drains.insert(worker.clone(), instance.clone());
        }
        assert_eq!(
            drained.is_some(),
            table.sessions.by_worker.contains_key(&worker.to_string())
        );
    }

    fn leave(&mut self, table: &mut LeaseTable, worker: usize) {
        self.held[worker].clear();
        let Some(session) = self.sessions[worker].take() else {
            return;
        };
        if table.leave(session).is_err() {
            return;
        }
        assert_eq!(table.take_given_up(), []);
        if table.end_drain(&worker.to_string()).is_some() {
            self.drains.remove(&worker.to_string());
        }
    }

    fn acquire(
        &mut self,
        table: &mut LeaseTable,
        worker: usize,
        max: usize,
        forget: bool,
        now: Instant,
    ) {
        let Some(session) = self.sessions[worker] else {
            return;
        };
        let waiting: Vec<Wnid> = table
            .classes
            .iter()
            .filter(|class| waits(class))
            .map(|it| it.wnid)
            .collect();
        let Ok(leases) = acquire(table, session, max, now) else {
            return;
        };
        assert!(leases.len() <= max);
        let drains = table
            .worker(session)
            .is_some_and(|name| self.is_drained(table, session, name));
        assert!(
            leases.is_empty() || !drains,
            "a worker that was told to end was granted a class"
        );
        assert!(
            leases.iter().all(|lease| !waiting.contains(&lease.wnid)),
            "granted before its time"
        );
        for lease in leases {
            assert!(
                !self.settled.contains_key(&lease.wnid),
                "a settled class was granted"
            );
            assert!(
                self.last_token.insert(lease.wnid, lease.token) < Some(lease.token),
                "tokens grow"
            );
            assert!(
                self.mark.has(table.index[&lease.wnid]),
                "granted before the mark was durable"
            );
            self.granted.push(lease);
            if !forget {
                self.held[worker].retain(|held| held.wnid != lease.wnid);
                self.held[worker].push(lease);
            }
        }
    }

    /// The ledger stores the mark that the table requested, or is slow and stores it later.
    fn marks(&mut self, table: &mut LeaseTable) {
        if let Some(mark) = self.late_mark.take() {
            self.mark = mark.clone();
            table.mark_is_durable(mark);
        }
        self.late_mark = table.take_mark();
    }

    fn is_drained(&self, table: &LeaseTable, session: SessionId, name: &str) -> bool {
        self.drains.get(name) == Some(&table.sessions.by_id[&session].worker_info.instance)
    }

    /// The workers learn of the restart with their next call and keep their leases until then.
    fn restart(&mut self, table: &mut LeaseTable, now: Instant) {
        self.epoch += 1;
        // A commit that was not confirmed to any caller.
        if let Some(mark) = self.late_mark.take() {
            self.mark = mark;
        }
        let wnids: Vec<Wnid> = table.classes.iter().map(|class| class.wnid).collect();
        let invalid = table.status().total - wnids.len() as u64;
        let workers: Vec<_> = table
            .sessions
            .by_worker
            .keys()
            .map(|worker| (worker.clone(), TTL))
            .collect();
        *table = LeaseTable::new(&wnids, invalid, 1 + self.epoch, TTL)
            .expecting_bytes_within(TTL)
            .granted_before(self.mark.clone());
        table.restore_drains(self.drains.clone());
        self.settled
            .iter()
            .for_each(|(wnid, outcome)| table.restore(*wnid, outcome));
        table.recover(workers, now);
    }

    fn stand_still(&mut self, table: &mut LeaseTable, now: &mut Instant) {
        for _ in 0..4 {
            (0..3).for_each(|worker| {
                self.take(
                    table,
                    &Step::Renew {
                        worker,
                        received: 0,
                        bytes: 5,
                    },
                    now,
                );
            });
            self.take(table, &Step::Wait { seconds: 10 }, now);
        }
    }

    /// All classes except the last few are complete.
    fn come_to_the_tail(&mut self, table: &mut LeaseTable, count: usize, now: &mut Instant) {
        (0..3).for_each(|worker| {
            self.take(
                table,
                &Step::Register {
                    worker,
                    instance: 0,
                },
                now,
            );
        });
        self.take(
            table,
            &Step::Acquire {
                worker: 0,
                max: count - count.min(4),
                forget: false,
            },
            now,
        );
        for lease in mem::take(&mut self.held[0]) {
            self.report(table, self.sessions[0].unwrap(), lease, good(), *now);
        }
        self.take(
            table,
            &Step::Acquire {
                worker: 1,
                max: 4,
                forget: false,
            },
            now,
        );
    }

    fn report(
        &mut self,
        table: &mut LeaseTable,
        id: SessionId,
        lease: Lease,
        outcome: Outcome,
        now: Instant,
    ) {
        let is_good = !matches!(outcome, Outcome::Failed(_));
        let before = self
            .settled
            .get(&lease.wnid)
            .map(|outcome| !matches!(outcome, Outcome::Failed(_)));
        let attempt = table.attempts.of.get(&table.index[&lease.wnid]);
        let is_attempt =
            attempt.is_some_and(|attempt| attempt.session == id && attempt.token == lease.token);
        let verdict = table.report(id, lease, &outcome, now, 0.5);
        assert_eq!(
            verdict == ReportVerdict::AttemptFailed,
            is_attempt && !is_good,
            "a failed speculative attempt settles nothing"
        );
        match verdict {
            ReportVerdict::Settled => assert_eq!(before, None, "settled twice"),
            ReportVerdict::Corrected => assert!(is_good && before == Some(false)),
            ReportVerdict::AlreadySettled => {
                assert!(before.is_some() && (before == Some(true) || !is_good));
            }
            ReportVerdict::AttemptFailed
            | ReportVerdict::Stale
            | ReportVerdict::Retried
            | ReportVerdict::Doubted
            | ReportVerdict::Excused => {
                assert!(!is_good && before.is_none());
            }
            ReportVerdict::NotInList => panic!("all classes are in the list"),
        }
        if matches!(verdict, ReportVerdict::Settled | ReportVerdict::Corrected) {
            self.settled.insert(lease.wnid, outcome);
        }
    }

    fn give_up(&mut self, worker: usize, drop: &[Lease]) {
        self.held[worker].retain(|held| !drop.contains(held));
    }

    fn note_given_up(&mut self, table: &mut LeaseTable) {
        for (wnid, failure) in table.take_given_up() {
            assert_eq!(
                self.settled.insert(wnid, Outcome::Failed(failure)),
                None,
                "settled twice"
            );
        }
    }
}

/// Whether no worker may be granted the class now.
fn waits(class: &Class) -> bool {
    matches!(class.state, State::Delayed(_) | State::Doubted)
}

proptest! {
    #[test]
    fn no_sequence_of_operations_loses_a_class_or_settles_it_twice(
        steps in vec(step(), 1..300),
        count in 1..30_u32,
        is_tail in any::<bool>(),
        checks_first_answers in any::<bool>(),
    ) {
        let mut now = Instant::now();
        let mut table = LeaseTable::new(&wnids(count), 2, 1, TTL).expecting_bytes_within(TTL).granted_before(Mark::default());
        if checks_first_answers && !is_tail {
            table = table.checking_first_answers([]);
        }
        let mut fleet = Fleet::default();
        if is_tail {
            fleet.come_to_the_tail(&mut table, count as usize, &mut now);
        }
        for step in &steps {
            fleet.take(&mut table, step, &mut now);
            fleet.marks(&mut table);
            fleet.note_given_up(&mut table);
            check(&table);
        }
        prop_assert_eq!(table.status().settled(), fleet.settled.len() as u64 + 2);
        // After any sequence, a healthy worker that joins last finishes the job.
        let mut last = None;
        for _ in 0..100 {
            now += Duration::from_mins(1);
            table.tick(now);
            table.look_for_stragglers(false, now);
            let id = last.unwrap_or_else(|| session(&mut table, "last", now));
            if table.check_session(id).is_err() {
                last = None;
                continue;
            }
            last = Some(id);
            table.renew(id, &[], 0, now).unwrap();
            for lease in acquire(&mut table, id, usize::MAX, now).unwrap() {
                fleet.report(&mut table, id, lease, good(), now);
            }
            fleet.marks(&mut table);
            fleet.note_given_up(&mut table);
            check(&table);
            if table.status().is_done() || table.origin_refuses().is_some() {
                break;
            }
        }
        if let Some(refuses) = table.origin_refuses() {
            prop_assert!(refuses.classes >= 20 && table.status().pending >= 20);
            return Ok(());
        }
        prop_assert!(table.status().is_done(), "{:?} {:?}", table.status(), table.phase());
        prop_assert_eq!(fleet.settled.len(), count as usize);
    }
}

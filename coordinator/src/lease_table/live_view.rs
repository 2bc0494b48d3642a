//! What the live page shows of the table: the state of each class as a letter, the holders of
//! classes, and the workers that are expected back. Only reads.

use tokio::time::Instant;

use super::{LeaseTable, State, leases::LeaseProgress, sessions::Session};
use crate::fleet::{HeldClass, JobList, Recovery};

impl State {
    /// The letter of the HTTP API for this state.
    fn letter(self) -> char {
        match self {
            Self::Fresh | Self::Queued(_) | Self::Elsewhere => 'w',
            Self::Delayed(_) | Self::Doubted => 'd',
            Self::Leased(_) => 'r',
            Self::Success => 's',
            Self::Skipped => 'k',
            Self::Failed => 'f',
        }
    }
}

impl LeaseTable {
    /// One letter for the state of each class, in the order of the list.
    pub fn class_letters(&self) -> String {
        let letters = self.classes.iter().map(|class| class.state.letter());
        letters.collect()
    }

    /// The list of the job.
    pub fn list(&self) -> JobList {
        JobList {
            wnids: self.classes.iter().map(|class| class.wnid).collect(),
            invalid_rows: self.invalid_rows(),
        }
    }

    /// The workers that a restarted coordinator waits for.
    pub fn missing_workers(&self, now: Instant) -> Option<Recovery> {
        let expected = self.expected()?;
        Some(Recovery {
            expected: expected.at_first,
            missing: expected.workers.len(),
            left: expected.until.saturating_duration_since(now),
        })
    }

    /// The holders of these rows, those of rows that no worker holds left out.
    pub fn held_rows(&self, rows: &[usize]) -> Vec<HeldClass> {
        let held = rows.iter().filter_map(|row| {
            (*row < self.classes.len()).then_some(())?;
            let (session, held) = self.holder(*row)?;
            Some(held_class(*row, session, held))
        });
        held.collect()
    }

    /// How many attempts at each of these rows ended without a result since this coordinator
    /// started; rows without one are left out.
    pub fn ended_attempts(&self, rows: &[usize]) -> Vec<(usize, u32)> {
        let attempts = rows.iter().filter_map(|row| {
            let attempts = self.classes.get(*row)?.attempts;
            (attempts > 0).then(|| (*row, u32::from(attempts)))
        });
        attempts.collect()
    }

    /// The classes that a worker holds, in the order of the list, without speculative attempts.
    pub fn held_by(&self, worker: &str) -> Vec<HeldClass> {
        let id = self.sessions.by_worker.get(worker);
        let session = id.and_then(|id| self.sessions.by_id.get(id));
        let leases = session.map(|session| (session, &session.leases));
        let held = leases.into_iter().flat_map(|(session, leases)| {
            let leases = leases.iter();
            leases.map(move |(row, held)| held_class(*row, session, held))
        });
        held.collect()
    }
}

fn held_class(row: usize, session: &Session, held: &LeaseProgress) -> HeldClass {
    HeldClass {
        row,
        worker: session.worker_info.worker.clone(),
        bytes: held.shown.bytes,
        length: held.shown.length,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::{
        Wnid,
        outcome::{Failure, FailureKind, Outcome, Published},
    };

    use super::*;
    use crate::lease_table::WorkerInfo;

    fn table(classes: usize) -> LeaseTable {
        let wnids: Vec<Wnid> = (1..=classes)
            .map(|number| format!("n{number:08}").parse().unwrap())
            .collect();
        LeaseTable::new(&wnids, 2, 1, Duration::from_secs(30))
    }

    fn worker_info(worker: &str, slots: u32) -> WorkerInfo {
        WorkerInfo {
            worker: worker.to_owned(),
            instance: worker.into(),
            slots,
            ..WorkerInfo::default()
        }
    }

    #[test]
    fn each_class_has_the_letter_of_its_state() {
        let now = Instant::now();
        let mut table = table(6);
        let wnids = table.list().wnids;
        table.restore(wnids[0], &Outcome::Success(Published::default()));
        table.restore(wnids[1], &Outcome::Skipped(Published::default()));
        let failure = Failure::new(FailureKind::HttpError, "404 Client Error: Not Found");
        table.restore(wnids[2], &Outcome::Failed(failure));
        let worker = table.register(&worker_info("w", 1), &[], now).unwrap();
        assert_eq!(
            table.acquire(worker.session, 1, now).unwrap().leases.len(),
            1
        );
        table.set(4, State::Delayed(now));
        let letters = table.class_letters();
        assert_eq!(letters.len(), 6);
        let mut sorted: Vec<char> = letters.chars().collect();
        assert_eq!(&letters[..3], "skf");
        assert_eq!(sorted.split_off(4)[0], 'd');
        assert_eq!(letters.matches('r').count(), 1);
        assert_eq!(letters.matches('w').count(), 1);
        assert_eq!(table.list().invalid_rows, 2);
    }

    #[test]
    fn attempts_are_counted_that_ended_with_a_failure_or_a_loss() {
        let mut now = Instant::now();
        let mut table = table(3);
        let rows = [0, 1, 2, 99];
        let failure = Failure::new(FailureKind::HttpError, "404 Client Error: Not Found");
        let failed = Outcome::Failed(failure);
        table.restore(table.list().wnids[2], &failed);
        let register = |table: &mut LeaseTable, name: &str, now| {
            let session = table.register(&worker_info(name, 2), &[], now);
            session.unwrap().session
        };
        let lost = register(&mut table, "lost", now);
        assert_eq!(table.acquire(lost, 2, now).unwrap().leases.len(), 2);
        assert_eq!(table.ended_attempts(&rows), [], "both are under way");
        now += Duration::from_mins(1);
        assert_eq!(table.tick(now).len(), 1);
        assert_eq!(table.ended_attempts(&rows), [(0, 1), (1, 1)]);
        let other = register(&mut table, "other", now);
        let leases = table.acquire(other, 2, now).unwrap().leases;
        let first = leases.iter().find(|lease| table.index[&lease.wnid] == 0);
        let first = *first.unwrap();
        table.report(other, first, &failed, now, 1.0);
        table.report(other, first, &failed, now, 1.0);
        assert!(table.class_letters().starts_with('f'));
        assert_eq!(table.ended_attempts(&rows), [(0, 2), (1, 1)]);
        table.retry_failed(&[first.wnid]);
        let again = table.acquire(other, 1, now).unwrap().leases;
        table.report(other, again[0], &failed, now, 1.0);
        assert_eq!(table.ended_attempts(&[0]), [(0, 3)]);
        table.leave(other).unwrap();
        assert_eq!(table.ended_attempts(&[1]), [(1, 1)], "given back, not lost");
    }

    #[test]
    fn held_classes_are_found_by_row_and_by_worker() {
        let now = Instant::now();
        let mut table = table(4);
        let worker = table.register(&worker_info("w", 2), &[], now).unwrap();
        let granted = table.acquire(worker.session, 2, now).unwrap().leases.len();
        let rows: Vec<usize> = table.held_by("w").iter().map(|held| held.row).collect();
        assert_eq!(rows.len(), granted);
        let by_row = table.held_rows(&[0, 1, 2, 3, 99]);
        assert_eq!(by_row, table.held_by("w"));
        assert!(table.held_by("other").is_empty());
    }
}

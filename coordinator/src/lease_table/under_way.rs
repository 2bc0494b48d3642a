//! Lists the classes that workers hold, for status displays.

use shared::Wnid;

use super::{LeaseTable, leases::LeaseProgress, sessions::Session};
use crate::fleet::{ClassPage, ClassView};

impl LeaseTable {
    /// The held classes whose ids follow `after`, in the order of their ids. At most `most`
    /// entries, plus all entries of the last class: a class with a speculative attempt has two.
    pub fn under_way(&self, after: Option<Wnid>, most: usize) -> ClassPage {
        let attempts = self.attempts.of.iter().map(|(position, attempt)| {
            let session = &self.sessions.by_id[&attempt.session];
            (*position, session, &attempt.holding)
        });
        let held = self.leases().chain(attempts);
        let mut held: Vec<_> = held
            .map(|(position, session, held)| (self.classes[position].wnid, session, held))
            .filter(|(wnid, ..)| Some(*wnid) > after)
            .collect();
        held.sort_unstable_by_key(|(wnid, session, _)| (*wnid, session.id));
        let last = most.checked_sub(1).and_then(|at| held.get(at));
        let end = last.map_or(held.len(), |last| {
            held.partition_point(|(wnid, ..)| *wnid <= last.0)
        });
        let more = end < held.len();
        held.truncate(end);
        let view = |(wnid, session, held): (Wnid, &Session, &LeaseProgress)| ClassView {
            wnid,
            worker: session.worker_info.worker.clone(),
            bytes: held.shown.bytes,
            length: held.shown.length,
            failure: None,
        };
        ClassPage {
            classes: held.into_iter().map(view).collect(),
            more,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::lease_table::{ReportedLease, WorkerInfo};

    #[test]
    fn held_classes_are_listed_by_the_page_in_the_order_of_their_ids() {
        let now = Instant::now();
        let wnids: Vec<Wnid> = [5, 3, 1, 4, 2]
            .map(|number: u32| format!("n{number:08}").parse().unwrap())
            .into();
        let mut table = LeaseTable::new(&wnids, 0, 1, Duration::from_secs(30));
        let worker_info = WorkerInfo {
            worker: "w".to_owned(),
            instance: vec![1],
            slots: 4,
            ..WorkerInfo::default()
        };
        let session = table.register(&worker_info, &[], now).unwrap().session;
        let leases = table.acquire(session, 4, now).unwrap().leases;
        table
            .renew(
                session,
                &[ReportedLease {
                    lease: leases[2],
                    bytes: 5,
                    length: 9,
                    is_local: false,
                }],
                5,
                now,
            )
            .unwrap();
        let listed = |page: &ClassPage| {
            page.classes
                .iter()
                .map(|class| class.wnid)
                .collect::<Vec<_>>()
        };
        let first = table.under_way(None, 3);
        assert_eq!(
            (listed(&first), first.more),
            (vec![wnids[2], wnids[1], wnids[3]], true)
        );
        let view = &first.classes[0];
        assert_eq!((view.worker.as_str(), view.bytes, view.length), ("w", 5, 9));
        let rest = table.under_way(Some(wnids[3]), 3);
        assert_eq!((listed(&rest), rest.more), (vec![wnids[0]], false));
        assert_eq!(table.under_way(Some(wnids[0]), 3), ClassPage::default());
    }
}

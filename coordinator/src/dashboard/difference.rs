//! The update between two snapshots. Pure.

use super::{
    history::{Mark, Point},
    snapshot::{ClassChanges, NewHistory, Snapshot, Update},
};

impl Update {
    /// What has changed from `before` to `after`, two snapshots of one coordinator.
    pub(super) fn between(before: &Snapshot, after: &Snapshot) -> Self {
        Self {
            epoch: after.epoch,
            seq: after.seq,
            at_ms: after.at_ms,
            job: changed(&before.job, &after.job),
            state: changed(&before.state, &after.state),
            origin: changed(&before.origin, &after.origin),
            workers: changed(&before.workers, &after.workers),
            transfers: changed(&before.transfers, &after.transfers),
            failures: changed(&before.failures, &after.failures),
            classes: class_changes(&before.classes.states, &after.classes.states),
            history: new_history(before, after),
        }
    }

    /// Whether nothing but the time has changed.
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            epoch, seq, at_ms, ..
        } = *self;
        let empty = Self {
            epoch,
            seq,
            at_ms,
            ..Self::default()
        };
        *self == empty
    }
}

fn changed<T: PartialEq + Clone>(before: &T, after: &T) -> Option<T> {
    (before != after).then(|| after.clone())
}

/// The rows whose letter differs. Both texts are ASCII and have one letter for each row.
fn class_changes(before: &str, after: &str) -> Option<ClassChanges> {
    let letters = before.bytes().zip(after.bytes()).enumerate();
    let changes: Vec<(usize, char)> = letters
        .filter(|(_, (before, after))| before != after)
        .map(|(row, (_, after))| (row, char::from(after)))
        .collect();
    (!changes.is_empty()).then_some(ClassChanges { changes })
}

/// The points and marks that are newer than the newest ones before.
fn new_history(before: &Snapshot, after: &Snapshot) -> Option<NewHistory> {
    let last = before.history.points.last().map(|point| point.at);
    let points = &after.history.points;
    let first = points.partition_point(|point| Some(point.at) <= last);
    let points: Vec<Point> = points[first..].to_vec();
    let known = before.history.marks.last();
    let marks = &after.history.marks;
    let place = known.and_then(|known| marks.iter().rposition(|mark| mark == known));
    let marks: Vec<Mark> = marks[place.map_or(0, |place| place + 1)..].to_vec();
    let is_new = !points.is_empty() || !marks.is_empty();
    is_new.then_some(NewHistory { points, marks })
}

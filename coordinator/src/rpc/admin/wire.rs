//! Conversions of the fleet to and from generated types.

use std::time::{Duration, UNIX_EPOCH};

use proto::worker_status::WaitsFor as WaitsForWire;
use shared::{
    job::JobStatus,
    outcome::{Outcome, printable_within},
    wire_enum,
};

use super::client::Overview;
use crate::{
    concurrency::ConcurrencyStatus,
    fleet::{
        ClassPage, ClassView, Fleet, ListedState, Phase, WaitsFor, WorkerState, WorkerView,
        unix_milliseconds,
    },
    rpc::conversions::milliseconds,
};

/// Maximum length in bytes of a name or id that is shown.
const LONGEST_TEXT: usize = 200;
/// The year 9999, in milliseconds since the Unix epoch: later times are shown as this one.
const LATEST: u64 = 253_370_764_800_000;

/// The response to `GetFleet`.
pub(super) fn fleet(fleet: Fleet, run_id: &str, epoch: u32) -> proto::Fleet {
    proto::Fleet {
        job: Some(fleet.job.into()),
        run_id: run_id.to_owned(),
        epoch,
        phase: proto::Phase::from(fleet.phase).into(),
        workers: fleet.workers.into_iter().map(Into::into).collect(),
        origin: Some(fleet.origin.into()),
    }
}

impl From<proto::Fleet> for Overview {
    fn from(wire: proto::Fleet) -> Self {
        let phase = wire.phase().into();
        Self {
            run_id: text(&wire.run_id),
            epoch: wire.epoch,
            fleet: Fleet {
                job: wire.job.map(JobStatus::from).unwrap_or_default(),
                phase,
                origin: wire.origin.map(ConcurrencyStatus::from).unwrap_or_default(),
                workers: wire.workers.into_iter().map(Into::into).collect(),
            },
        }
    }
}

/// A name or id from the coordinator, safe to print on a terminal.
fn text(wire: &str) -> String {
    printable_within(wire, LONGEST_TEXT)
}

impl From<WorkerView> for proto::WorkerStatus {
    fn from(worker: WorkerView) -> Self {
        Self {
            name: worker.name,
            state: proto::WorkerState::from(worker.state).into(),
            slots: worker.slots,
            leased: worker.leased,
            success: worker.success,
            skipped: worker.skipped,
            failed: worker.failed,
            received_bytes: worker.received_bytes,
            silent_ms: milliseconds(worker.silent),
            storage_id: worker.storage,
            build: worker.build,
            since_at_ms: unix_milliseconds(worker.since),
            bytes_per_second: worker.bytes_per_second,
            disk_free: worker.disk_free,
            waits_for: worker.waits_for.map(Into::into),
            host: worker.host,
        }
    }
}

impl From<proto::WorkerStatus> for WorkerView {
    fn from(wire: proto::WorkerStatus) -> Self {
        Self {
            state: wire.state().into(),
            since: UNIX_EPOCH + Duration::from_millis(wire.since_at_ms.min(LATEST)),
            name: text(&wire.name),
            slots: wire.slots,
            leased: wire.leased,
            success: wire.success,
            skipped: wire.skipped,
            failed: wire.failed,
            received_bytes: wire.received_bytes,
            bytes_per_second: wire.bytes_per_second,
            disk_free: wire.disk_free,
            waits_for: wire.waits_for.map(Into::into),
            silent: Duration::from_millis(wire.silent_ms),
            storage: text(&wire.storage_id),
            build: text(&wire.build),
            host: text(&wire.host),
        }
    }
}

impl From<WaitsFor> for WaitsForWire {
    fn from(waits_for: WaitsFor) -> Self {
        match waits_for {
            WaitsFor::Origin(time) => Self::OriginMs(milliseconds(time)),
            WaitsFor::Overload(time) => Self::OverloadMs(milliseconds(time)),
            WaitsFor::Limit(connections) => Self::Connections(connections),
        }
    }
}

impl From<WaitsForWire> for WaitsFor {
    fn from(wire: WaitsForWire) -> Self {
        match wire {
            WaitsForWire::OriginMs(time) => Self::Origin(Duration::from_millis(time)),
            WaitsForWire::OverloadMs(time) => Self::Overload(Duration::from_millis(time)),
            WaitsForWire::Connections(connections) => Self::Limit(connections),
        }
    }
}

impl From<ClassPage> for proto::ListClassesReply {
    fn from(page: ClassPage) -> Self {
        let class = |class: ClassView| proto::ListedClass {
            wnid: class.wnid.to_string(),
            worker: class.worker,
            bytes: class.bytes,
            length: class.length,
            outcome: class.failure.map(|failure| Outcome::Failed(failure).into()),
        };
        Self {
            classes: page.classes.into_iter().map(class).collect(),
            more: page.more,
        }
    }
}

impl From<proto::ListClassesReply> for ClassPage {
    /// Invalid class ids are skipped.
    fn from(wire: proto::ListClassesReply) -> Self {
        let class = |class: proto::ListedClass| {
            let failure = match class.outcome.map(Outcome::try_from).transpose().ok()? {
                Some(Outcome::Failed(failure)) => Some(failure),
                Some(Outcome::Success(_) | Outcome::Skipped(_)) | None => None,
            };
            Some(ClassView {
                wnid: class.wnid.parse().ok()?,
                worker: text(&class.worker),
                bytes: class.bytes,
                length: class.length,
                failure,
            })
        };
        Self {
            classes: wire.classes.into_iter().filter_map(class).collect(),
            more: wire.more,
        }
    }
}

impl From<ConcurrencyStatus> for proto::OriginStatus {
    fn from(status: ConcurrencyStatus) -> Self {
        Self {
            limit: status.limit,
            open: status.open,
            wanted: status.wanted,
            pause_ms: milliseconds(status.pause),
            bytes_per_second: status.bytes_per_second,
            requests: status.requests,
            cuts: status.cuts,
            refusals: status.refusals,
            overloads: status.overloads,
        }
    }
}

impl From<proto::OriginStatus> for ConcurrencyStatus {
    fn from(wire: proto::OriginStatus) -> Self {
        Self {
            limit: wire.limit,
            open: wire.open,
            wanted: wire.wanted,
            pause: Duration::from_millis(wire.pause_ms),
            bytes_per_second: wire.bytes_per_second,
            requests: wire.requests,
            cuts: wire.cuts,
            refusals: wire.refusals,
            overloads: wire.overloads,
        }
    }
}

wire_enum!(ListedState: Leased, Failed);
wire_enum!(WorkerState: Active, Draining, Quarantined, Silent, Lost);
wire_enum!(Phase: Running, Recovering, WaitingForWorkers, OriginPaused, Done, Stopping);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An origin that has received requests.
    pub(crate) fn origin() -> ConcurrencyStatus {
        ConcurrencyStatus {
            limit: 8,
            open: 5,
            wanted: 20,
            pause: Duration::ZERO,
            bytes_per_second: 12_300_000,
            requests: 100,
            cuts: 4,
            refusals: 3,
            overloads: 2,
        }
    }

    /// A worker with some results.
    pub(crate) fn worker() -> WorkerView {
        WorkerView {
            name: "node1".to_owned(),
            state: WorkerState::Active,
            since: UNIX_EPOCH + Duration::from_millis(1_764_000_000_123),
            slots: 10,
            leased: 9,
            success: 8,
            skipped: 7,
            failed: 6,
            received_bytes: 1_200_000_000,
            bytes_per_second: 2_500_000,
            disk_free: Some(0),
            waits_for: Some(WaitsFor::Limit(3)),
            silent: Duration::from_millis(2500),
            storage: "5".to_owned(),
            build: "0.1.0".to_owned(),
            host: "rack1-node1".to_owned(),
        }
    }

    #[test]
    fn all_fields_survive_the_conversion() {
        let job = JobStatus {
            total: 40,
            success: 8,
            skipped: 7,
            failed: 6,
            leased: 9,
            pending: 10,
            ..JobStatus::default()
        };
        for phase in [
            Phase::Running,
            Phase::Recovering,
            Phase::WaitingForWorkers,
            Phase::OriginPaused,
            Phase::Done,
            Phase::Stopping,
        ] {
            let mut workers = WorkerState::ALL.map(|state| WorkerView { state, ..worker() });
            let time = Duration::from_millis(12_001);
            workers[1].waits_for = Some(WaitsFor::Origin(time));
            workers[2].waits_for = Some(WaitsFor::Overload(time));
            workers[3].waits_for = None;
            workers[4].disk_free = None;
            let workers = workers.into();
            let sent = Fleet {
                job,
                phase,
                origin: ConcurrencyStatus {
                    pause: Duration::from_millis(1),
                    ..origin()
                },
                workers,
            };
            let received = Overview::from(fleet(sent.clone(), "run", 7));
            assert_eq!(
                received,
                Overview {
                    run_id: "run".to_owned(),
                    epoch: 7,
                    fleet: sent
                }
            );
        }
    }
}

//! Arguments and results of the lease table's operations, as plain values.

use std::{fmt, time::Duration};

use super::{JOIN_TIMEOUT, drains::Drain, names::Renamed};
use shared::{
    Wnid,
    ids::{LeaseToken, SessionId},
    outcome::Failure,
};

/// A class and the fencing token of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The class.
    pub wnid: Wnid,
    /// Fencing token: a failure is accepted only with the token of the current lease.
    pub token: LeaseToken,
}

/// A class that a worker reports as held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportedLease {
    /// The lease that it was granted.
    pub lease: Lease,
    /// Offset in the tar.
    pub bytes: u64,
    /// Length of the tar in bytes; 0 where it is not known.
    pub length: u64,
    /// The worker needs no origin for the class now: it reads a local tar, verifies an existing
    /// folder, or publishes.
    pub is_local: bool,
}

/// Answer to a heartbeat.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Leases that the worker listed and must drop. A newer lease of the same class is not
    /// affected.
    pub drop: Vec<Lease>,
    /// The worker is to finish its classes and end.
    pub drain: bool,
}

/// Answer to an `Acquire` call.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// The granted leases.
    pub leases: Vec<Lease>,
    /// The one granted class probes whether the origin is available again: one attempt is enough.
    pub probe: bool,
    /// The worker is to finish its classes and end.
    pub drain: bool,
}

/// The session has ended or never existed: the worker must register again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("find the session: it has ended, register again")]
pub struct UnknownSession;

/// Answer to a registration.
#[derive(Debug, PartialEq, Eq)]
pub struct Registered {
    /// The worker's session.
    pub session: SessionId,
    /// Leases that the worker listed and must drop. A newer lease of the same class is not
    /// affected.
    pub drop: Vec<Lease>,
    /// The worker must report the inventory of its storage before it acquires classes.
    pub needs_inventory: bool,
    /// The older session of the same worker that this one replaces.
    pub replaced: Option<Ended>,
    /// How the binding of the worker's name to a credential has changed.
    pub renamed: Renamed,
    /// The idle session of another worker that was ended to stay within the limit on sessions.
    pub evicted: Option<Ended>,
    /// The end of a drain: the worker has registered with another process than the drained one.
    pub drain_over: Option<Drain>,
}

/// A session that has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// The session's id.
    pub session: SessionId,
    /// The worker's name.
    pub worker: String,
    /// Number of leases that were released, including those of classes that are given up.
    pub returned: usize,
}

/// Effect of a reported outcome. None of them needs to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportVerdict {
    /// Settled by this report.
    Settled,
    /// A failure; another worker tries the class before it is settled as failed.
    Retried,
    /// A failure that the origin may have caused; settled when that is clear.
    Doubted,
    /// A failure that the origin caused: the class is pending as before.
    Excused,
    /// The class was settled as failed; this success corrects it.
    Corrected,
    /// The class was settled before, with the same outcome or a better one.
    AlreadySettled,
    /// A failure of a speculative attempt, which ends; the lease holder continues.
    AttemptFailed,
    /// A failure from a session that no longer holds the lease: ignored.
    Stale,
    /// Not a class of this job.
    NotInList,
}

/// An event for the log, the screen or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseNotice {
    /// A worker of the previous coordinator has not registered again; its classes are granted to
    /// other workers.
    NotReturned(String),
    /// A class makes no progress on a worker and is granted to another one.
    NoProgress {
        /// The class.
        wnid: Wnid,
        /// Name of the worker that held it.
        worker: String,
    },
    /// An idle worker took a class whose holder received no bytes of it.
    Silent {
        /// The class.
        wnid: Wnid,
        /// Name of the worker that held it.
        worker: String,
    },
    /// The origin fails the requests of all workers, so the job waits for it.
    OriginUnavailable {
        /// The last failure.
        failure: Failure,
        /// Maximum time to wait; after it classes fail.
        waits: Duration,
    },
    /// The origin has answered a worker again.
    OriginAvailable,
    /// An event of a speculative attempt.
    Attempt {
        /// The class.
        wnid: Wnid,
        /// Name of the worker that makes, or made, the attempt.
        worker: String,
        /// The event.
        news: AttemptEvent,
    },
    /// An event of classes that are complete on a worker of the previous run.
    Elsewhere(ElsewhereNotice),
    /// A worker fails classes that other workers complete, and is granted nothing for a while.
    Quarantined {
        /// The worker's name.
        worker: String,
        /// Its last failure.
        failure: Failure,
    },
}

/// Classes that are complete on a worker of the previous run, and what happens with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElsewhereNotice {
    /// Number of classes.
    pub classes: usize,
    /// The event.
    pub event: ElsewhereEvent,
}

/// An event of classes that are complete on a worker of the previous run, with the worker's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElsewhereEvent {
    /// The worker has not registered, and other workers will download its classes again.
    Absent(String),
    /// The same for so many further workers, beyond those that are listed by name.
    MoreAbsent(usize),
    /// The job waits for the worker (`--expect`), unless the ledger has no such class.
    Expected(String),
    /// The worker was expected and has not registered in time; other workers download its classes.
    NotJoined(String),
    /// The worker has registered, and the classes are missing or damaged on its storage.
    NotThere(String),
}

impl fmt::Display for ElsewhereNotice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = self.classes;
        let them = if classes == 1 { "it" } else { "them" };
        let they_are = if classes == 1 {
            "1 class is"
        } else {
            &format!("{classes} classes are")
        };
        match &self.event {
            ElsewhereEvent::Absent(worker) => write!(
                formatter,
                "{they_are} complete on {worker}, which has not joined: other workers download {them} again when nothing \
                 else is left (start it now, or wait for it with --expect {worker})"
            ),
            ElsewhereEvent::MoreAbsent(workers) => {
                write!(
                    formatter,
                    "{they_are} complete on {workers} more workers that have not joined"
                )
            }
            ElsewhereEvent::Expected(worker) if classes == 0 => {
                write!(
                    formatter,
                    "the ledger knows no class that is complete on worker {worker}, so none waits for it"
                )
            }
            ElsewhereEvent::Expected(worker) => write!(
                formatter,
                "{they_are} complete on worker {worker}, which is expected: other workers download {them} if it has not \
                 joined in {}",
                humantime::format_duration(JOIN_TIMEOUT)
            ),
            ElsewhereEvent::NotJoined(worker) => {
                write!(
                    formatter,
                    "worker {worker} was expected and has not joined: {they_are} downloaded again"
                )
            }
            ElsewhereEvent::NotThere(worker) => write!(
                formatter,
                "{they_are} missing or damaged on worker {worker}, where the ledger has {them} as complete: fetched again"
            ),
        }
    }
}

/// An event of a speculative attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptEvent {
    /// It starts, because the lease holder takes too long.
    Granted {
        /// Name of the worker that holds the lease.
        holder: String,
        /// Length of the tar in bytes.
        length: u64,
    },
    /// It published the class first.
    Won,
    /// Another worker settled the class first.
    Late,
    /// The holder lost its lease or failed the class; the attempt now holds the lease.
    Promoted,
    /// It failed or was lost; the holder continues.
    Failed,
    /// The grant never reached its worker, or its worker leaves; the holder continues.
    GivenBack,
}

impl fmt::Display for AttemptEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Granted { holder, length } => {
                return write!(
                    formatter,
                    "tries it as well, because {holder} takes too long ({length} bytes)"
                );
            }
            Self::Won => "was first with its copy",
            Self::Late => "was not first with its copy",
            Self::Promoted => "goes on with it alone",
            Self::Failed => "has failed or lost its copy",
            Self::GivenBack => "has given its copy back",
        })
    }
}

//! What the lease table takes and answers: plain values.

use std::{fmt, time::Duration};

use super::{PATIENCE, drains::Drain, names::Renamed};
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
    /// Who may bring bad news.
    pub token: LeaseToken,
}

/// A class that a worker says it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// What it was granted.
    pub lease: Lease,
    /// Where in the tar it is.
    pub bytes: u64,
    /// Length of the tar; 0 where it is not known.
    pub length: u64,
    /// The worker does what needs no origin: it reads a local tar, proves a folder, or publishes.
    pub is_local: bool,
}

/// Answer to a renewal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// What the worker named and must give up: under these tokens only.
    pub drop: Vec<Lease>,
    /// It is to finish what it holds and end.
    pub drain: bool,
}

/// Answer to a question for leases.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// What was granted.
    pub leases: Vec<Lease>,
    /// The one class that finds out whether the origin is back: one attempt is enough.
    pub probe: bool,
    /// The worker is to finish what it holds and end.
    pub drain: bool,
}

/// The session is not known, or not any more: the worker must register again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("find the session: it has ended, register again")]
pub struct UnknownSession;

/// Answer to a registration.
#[derive(Debug, PartialEq, Eq)]
pub struct Registered {
    /// The worker's session.
    pub session: SessionId,
    /// What the worker named and must give up: under these tokens only.
    pub drop: Vec<Lease>,
    /// Say first which classes the worker's storage has.
    pub survey: bool,
    /// The older session of the same worker that this one replaces.
    pub replaced: Option<Ended>,
    /// How the binding of the worker's name to a credential has changed.
    pub renamed: Renamed,
    /// The idle session of another worker that was ended to stay within the limit on sessions.
    pub evicted: Option<Ended>,
    /// The end of a drain: the worker is another process than the one that was told to end.
    pub drain_over: Option<Drain>,
}

/// A session that ended without a farewell.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which one.
    pub session: SessionId,
    /// The worker's name.
    pub worker: String,
    /// Leases that went back.
    pub returned: usize,
    /// Classes that were lost too often and are settled as failed by this.
    pub given_up: Vec<Wnid>,
}

/// What became of a reported outcome. None of them needs to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Settled by this report.
    Settled,
    /// Bad news, but another worker is asked before the class has failed.
    Retried,
    /// Bad news that may be the origin's fault; settled when that is clear.
    Doubted,
    /// Bad news that is the origin's fault: the class is as it was.
    Excused,
    /// Was settled as failed; this good news corrects it.
    Corrected,
    /// Was settled before, in the same way or a better one.
    AlreadySettled,
    /// Bad news of a copy, which it ends; the holder goes on.
    CopyFailed,
    /// Bad news from somebody whose lease went to another: not believed.
    Stale,
    /// Not a class of this job.
    NotInList,
}

/// Something that people should hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A worker of the former coordinator has not come back; its classes go to others.
    NotBack(String),
    /// A class does not get on with a worker, and goes to another.
    Wedged {
        /// The class.
        wnid: Wnid,
        /// Who has it.
        worker: String,
    },
    /// A class was taken from a worker that received nothing of it, for one that was idle.
    Silent {
        /// The class.
        wnid: Wnid,
        /// The worker that had it.
        worker: String,
    },
    /// The origin fails every worker, so the job waits for it.
    OriginAway {
        /// The last failure.
        failure: Failure,
        /// For how long; then classes fail.
        waits: Duration,
    },
    /// Somebody has heard from the origin again.
    OriginBack,
    /// Something about a second copy of a class.
    Copy {
        /// The class.
        wnid: Wnid,
        /// Who has, or had, the copy.
        worker: String,
        /// What.
        news: CopyNews,
    },
    /// Something about classes that are complete on a worker of the last run.
    Elsewhere(ElsewhereNews),
    /// A worker fails what others can do, and gets nothing for a while.
    Quarantined {
        /// Its name.
        worker: String,
        /// What it failed of last.
        failure: Failure,
    },
}

/// Something about classes that are complete on a worker of the last run; `classes` is their number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElsewhereNews {
    /// It has not joined, and others will download them again.
    Absent {
        /// Its name.
        worker: String,
        /// Their number.
        classes: usize,
    },
    /// So have more workers than are named one by one.
    MoreAbsent {
        /// How many workers.
        workers: usize,
        /// Their number.
        classes: usize,
    },
    /// It is waited for (`--expect`); 0 if the ledger knows of no such class.
    Expected {
        /// Its name.
        worker: String,
        /// Their number.
        classes: usize,
    },
    /// It was expected and has not joined in time; others download them.
    NotJoined {
        /// Its name.
        worker: String,
        /// Their number.
        classes: usize,
    },
    /// It has joined, and they are missing or damaged there.
    NotThere {
        /// Its name.
        worker: String,
        /// Their number.
        classes: usize,
    },
}

impl fmt::Display for ElsewhereNews {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Absent { classes, .. }
        | Self::MoreAbsent { classes, .. }
        | Self::Expected { classes, .. }
        | Self::NotJoined { classes, .. }
        | Self::NotThere { classes, .. }) = self;
        let them = if *classes == 1 { "it" } else { "them" };
        let they_are = if *classes == 1 { "1 class is" } else { &format!("{classes} classes are") };
        match self {
            Self::Absent { worker, .. } => write!(
                formatter,
                "{they_are} complete on {worker}, which has not joined: other workers download {them} again when nothing \
                 else is left (start it now, or wait for it with --expect {worker})"
            ),
            Self::MoreAbsent { workers, .. } => {
                write!(formatter, "{they_are} complete on {workers} more workers that have not joined")
            }
            Self::Expected { worker, classes: 0 } => {
                write!(formatter, "the ledger knows no class that is complete on worker {worker}, so none waits for it")
            }
            Self::Expected { worker, .. } => write!(
                formatter,
                "{they_are} complete on worker {worker}, which is expected: other workers download {them} if it has not \
                 joined in {}",
                humantime::format_duration(PATIENCE)
            ),
            Self::NotJoined { worker, .. } => {
                write!(formatter, "worker {worker} was expected and has not joined: {they_are} downloaded again")
            }
            Self::NotThere { worker, .. } => write!(
                formatter,
                "{they_are} missing or damaged on worker {worker}, where the ledger has {them} as complete: fetched again"
            ),
        }
    }
}

/// What becomes of a second copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyNews {
    /// It is begun, because the holder takes too long.
    Granted {
        /// The worker that has the class.
        holder: String,
        /// Of the tar, in bytes.
        length: u64,
    },
    /// It was first.
    Won,
    /// The holder, or somebody else, was first.
    Late,
    /// The holder has lost or failed the class, which is the copy's from now on.
    TookOver,
    /// It failed, or was lost; the holder goes on alone.
    CameToNothing,
    /// Its worker never got it, or ends; the holder goes on alone.
    GivenBack,
}

impl fmt::Display for CopyNews {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Granted { holder, length } => {
                return write!(formatter, "tries it as well, because {holder} takes too long ({length} bytes)");
            }
            Self::Won => "was first with its copy",
            Self::Late => "was not first with its copy",
            Self::TookOver => "goes on with it alone",
            Self::CameToNothing => "has failed or lost its copy",
            Self::GivenBack => "has given its copy back",
        })
    }
}

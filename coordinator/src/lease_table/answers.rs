//! What the lease table takes and answers: plain values.

use std::fmt;

use super::{drains::Drain, names::Renamed};
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
    /// The origin fails everybody; the last failure.
    OriginAway(Failure),
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
    /// A worker fails what others can do, and gets nothing for a while.
    Quarantined {
        /// Its name.
        worker: String,
        /// What it failed of last.
        failure: Failure,
    },
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

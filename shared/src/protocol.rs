//! What both sides of the protocol must agree on: its version, its limits, its times, its defaults
//! and the names of its methods.
//!
//! Values that must fit each other are compared here at compile time; a constant of one side that
//! must fit one of these is compared where it is defined.

use std::time::Duration;

pub mod method;
mod status;

pub use status::status_name;

/// Version of the protocol. A coordinator refuses workers with another version.
pub const VERSION: u32 = 1;
/// Port on which a coordinator listens by default, and to which a client connects by default.
pub const DEFAULT_PORT: u16 = 50051;
/// Base URL of the tars by default: ImageNet's.
pub const DEFAULT_URL: &str = "https://image-net.org/data/winter21_whole";

/// Largest number of slots of a worker.
pub const MAX_SLOTS: u32 = 1000;
/// Largest number of classes that one message names: results of a report, leases that a worker
/// holds, leases that it gets.
pub const MAX_BATCH: usize = 4096;
/// Size limit in bytes of a worker's largest message, a report.
pub const MAX_REPORT: usize = 4 << 20;
/// Longest `Retry-After` of the origin that is honoured.
pub const MAX_RETRY_AFTER: Duration = Duration::from_mins(15);

/// Time for which a coordinator holds an `Acquire` call while there is nothing to lease.
pub const LONG_POLL: Duration = Duration::from_secs(20);
/// Time limit of a worker for an `Acquire` call.
pub const LONG_POLL_TIMEOUT: Duration = Duration::from_secs(30);
/// Shortest time to live of a lease that a coordinator grants.
pub const MIN_LEASE_TTL: Duration = Duration::from_secs(3);
/// Longest time to live of a lease.
pub const MAX_LEASE_TTL: Duration = Duration::from_hours(24);
/// Renewals that a worker makes during the time to live of a lease.
pub const RENEWALS_PER_TTL: u32 = 3;

/// A duration in milliseconds, as it is sent; saturating.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Time that an answer may take on a slow network.
const ANSWER_TIME: Duration = Duration::from_secs(5);

const _: () = {
    let longest_answer = LONG_POLL.as_millis() + ANSWER_TIME.as_millis();
    assert!(
        LONG_POLL_TIMEOUT.as_millis() > longest_answer,
        "a long poll is answered before its time limit"
    );
    assert!(
        RENEWALS_PER_TTL >= 2,
        "one lost renewal does not cost the lease"
    );
    assert!(
        MIN_LEASE_TTL.as_millis() < MAX_LEASE_TTL.as_millis(),
        "some time to live is valid"
    );
    assert!(
        MAX_SLOTS as usize <= MAX_BATCH,
        "a worker can name all its leases in one message"
    );
};

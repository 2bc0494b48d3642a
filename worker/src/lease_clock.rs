//! The time for which this worker may use its leases.
//!
//! The deadline counts from the time at which an answered call was *sent*. The coordinator's lease
//! period counts from the time at which it *received* the call, so the worker's deadline is always
//! the earlier one, and the clocks of two hosts are never compared. The clock continues while the
//! host is suspended; `CLOCK_MONOTONIC`, on which every timer of the program depends, stops.

use std::{fmt, sync::Mutex, time::Duration};

use shared::lock::lock;

/// The worker's deadline is this much before the end of the lease, or a sixth of a lease
/// shorter than 30 s.
const MARGIN: Duration = Duration::from_secs(5);

/// The deadline of all leases of a session, and the coordinator that granted them.
pub(crate) struct LeaseClock {
    /// Reads the clock: time since a fixed instant.
    now: Box<dyn Fn() -> Duration + Send + Sync>,
    known: Mutex<State>,
}

/// The state behind the lock of [`LeaseClock`].
#[derive(Debug, Default)]
struct State {
    /// The highest epoch seen so far.
    epoch: u32,
    /// `None` before the first answer.
    deadline: Option<Duration>,
}

impl LeaseClock {
    /// A lease clock that reads the host's clock.
    pub(crate) fn of_this_host() -> Self {
        Self::new(since_boot)
    }

    /// A lease clock that reads the given clock.
    pub(crate) fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self {
            now: Box::new(now),
            known: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        (self.now)()
    }

    /// Records an answer to a call that was sent at `sent`. An answer of a former coordinator is
    /// ignored and returns `false`.
    pub(crate) fn answered(&self, epoch: u32, sent: Duration, ttl: Duration) -> bool {
        self.note(epoch, Some(sent + usable_part(ttl)))
    }

    /// Like [`Self::answered`], for an answer that renews nothing.
    pub(crate) fn heard_of(&self, epoch: u32) -> bool {
        self.note(epoch, None)
    }

    fn note(&self, epoch: u32, deadline: Option<Duration>) -> bool {
        let mut known = lock(&self.known);
        let is_current = epoch >= known.epoch;
        if is_current {
            known.epoch = epoch;
            known.deadline = known.deadline.max(deadline);
        }
        is_current
    }

    /// Whether the deadline has passed, so that the leases may belong to another worker.
    pub(crate) fn has_run_out(&self) -> bool {
        let now = self.now();
        lock(&self.known)
            .deadline
            .is_some_and(|deadline| now >= deadline)
    }
}

impl fmt::Debug for LeaseClock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LeaseClock")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

/// The part of a lease for which the worker uses it.
fn usable_part(ttl: Duration) -> Duration {
    ttl.saturating_sub(MARGIN).max(ttl * 5 / 6)
}

/// Time since the host was started, suspended time included.
fn since_boot() -> Duration {
    // Other systems' monotonic clocks include suspended time.
    #[cfg(target_os = "linux")]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    rustix::time::clock_gettime(CLOCK)
        .try_into()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn settable_clock() -> (Arc<AtomicU64>, LeaseClock) {
        let time = Arc::new(AtomicU64::new(1000));
        let read = Arc::clone(&time);
        (
            time,
            LeaseClock::new(move || seconds(read.load(Ordering::Relaxed))),
        )
    }

    /// Simulates a suspended host: the time since boot advances and no timer does.
    #[tokio::test(start_paused = true)]
    async fn leases_expire_during_a_suspension_that_stops_all_timers() {
        let before = tokio::time::Instant::now();
        let (time, clock) = settable_clock();
        assert!(clock.answered(1, clock.now(), TTL));
        assert!(!clock.has_run_out());
        time.fetch_add(600, Ordering::Relaxed);
        assert!(clock.has_run_out());
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert!(
            clock.answered(1, clock.now(), TTL),
            "the coordinator has renewed the leases"
        );
        assert!(!clock.has_run_out());
    }

    /// A time namespace shifts the time since boot, as a suspension does, and leaves the monotonic
    /// clock unchanged.
    #[test]
    fn the_hosts_clock_counts_suspensions() {
        let this = std::env::current_exe().unwrap();
        let mut suspended = std::process::Command::new("unshare");
        suspended
            .args(["--map-root-user", "--time", "--boottime", "1000000"])
            .arg(this);
        let test = "lease_clock::tests::the_hosts_clock_is_the_kernels_time_since_boot";
        let output = suspended.args(["--exact", test]).output();
        match output {
            Ok(output) if output.status.code() == Some(1) || output.stdout.is_empty() => {
                skip(&output.stderr);
            }
            Ok(output) => assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stdout)
            ),
            Err(error) => skip(error.to_string().as_bytes()),
        }
    }

    fn skip(why: &[u8]) {
        eprintln!(
            "skipped: no time namespace: {}",
            String::from_utf8_lossy(why).trim()
        );
    }

    #[test]
    fn the_hosts_clock_is_the_kernels_time_since_boot() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let difference = (since_boot().as_secs_f64() - uptime).abs();
        assert!(
            difference < 5.0,
            "{difference} s from the kernel's uptime, which includes suspensions"
        );
    }

    #[test]
    fn the_deadline_counts_from_when_the_answered_call_was_sent() {
        let (time, clock) = settable_clock();
        assert!(
            !clock.has_run_out(),
            "there are no leases before the first answer"
        );
        assert!(clock.answered(1, seconds(1000), TTL));
        time.store(1024, Ordering::Relaxed);
        assert!(!clock.has_run_out());
        time.store(1025, Ordering::Relaxed);
        assert!(clock.has_run_out());
        assert!(clock.answered(1, seconds(999), TTL));
        assert!(
            clock.has_run_out(),
            "a late answer to an older call does not extend the deadline"
        );
        assert!(clock.answered(1, seconds(1001), TTL));
        assert!(!clock.has_run_out());
    }

    #[test]
    fn a_short_lease_leaves_room_for_more_than_one_renewal() {
        for (ttl, usable) in [
            (3_000, 2_500),
            (12_000, 10_000),
            (30_000, 25_000),
            (60_000, 55_000),
        ] {
            assert_eq!(
                usable_part(Duration::from_millis(ttl)),
                Duration::from_millis(usable)
            );
        }
    }

    #[test]
    fn an_answer_of_a_former_coordinator_renews_nothing() {
        let (time, clock) = settable_clock();
        assert!(clock.answered(2, seconds(1000), TTL));
        assert!(!clock.answered(1, seconds(1020), TTL));
        time.store(1025, Ordering::Relaxed);
        assert!(clock.has_run_out());
    }
}

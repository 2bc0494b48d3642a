//! How long this worker may take its leases for its own.
//!
//! The deadline counts from when an answered call was *sent*, and lies before the moment at which the coordinator gives the
//! leases away, which counts from when it *received* the call: so the clocks of two hosts are never compared. It is read from
//! a clock that goes on while the host is suspended; `CLOCK_MONOTONIC`, and with it every timer of the program, stands still.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// By so much the worker's deadline lies before the end of the lease, unless that is short.
const MARGIN: Duration = Duration::from_secs(5);

/// The deadline of all leases of a session, and the coordinator that granted them.
pub(crate) struct LeaseClock {
    /// Time since some fixed moment.
    now: Box<dyn Fn() -> Duration + Send + Sync>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The highest that was seen.
    epoch: u32,
    /// None before the first answer.
    deadline: Option<Duration>,
}

impl Known {
    /// `false`: of a former coordinator.
    fn note(&mut self, epoch: u32) -> bool {
        let counts = epoch >= self.epoch;
        self.epoch = self.epoch.max(epoch);
        counts
    }
}

impl LeaseClock {
    /// Reads the host's clock.
    pub(crate) fn of_this_host() -> Self {
        Self::new(since_boot)
    }

    /// Reads any clock.
    pub(crate) fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { now: Box::new(now), known: Mutex::default() }
    }

    pub(crate) fn now(&self) -> Duration {
        (self.now)()
    }

    /// Takes note of an answer to what was sent at a time; `false` if a former coordinator gave it, which counts for nothing.
    pub(crate) fn answered(&self, epoch: u32, sent: Duration, ttl: Duration) -> bool {
        let mut known = self.known();
        let counts = known.note(epoch);
        if counts {
            known.deadline = known.deadline.max(Some(sent + own_part(ttl)));
        }
        counts
    }

    /// The same of an answer that renews nothing.
    pub(crate) fn heard_of(&self, epoch: u32) -> bool {
        self.known().note(epoch)
    }

    /// Whether the leases may be somebody else's by now.
    pub(crate) fn has_run_out(&self) -> bool {
        let now = self.now();
        self.known().deadline.is_some_and(|deadline| now >= deadline)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LeaseClock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LeaseClock").field("known", &self.known).finish_non_exhaustive()
    }
}

fn own_part(ttl: Duration) -> Duration {
    ttl.saturating_sub(MARGIN).max(ttl * 5 / 6)
}

/// Time since the host was started, suspended or not.
fn since_boot() -> Duration {
    // Elsewhere the monotonic clock counts the time of a suspension.
    #[cfg(target_os = "linux")]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    rustix::time::clock_gettime(CLOCK).try_into().unwrap_or_default()
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

    fn at_will() -> (Arc<AtomicU64>, LeaseClock) {
        let time = Arc::new(AtomicU64::new(1000));
        let read = Arc::clone(&time);
        (time, LeaseClock::new(move || seconds(read.load(Ordering::Relaxed))))
    }

    /// A suspended host: no timer moves, the time since boot does.
    #[tokio::test(start_paused = true)]
    async fn a_suspension_that_no_timer_sees_ends_the_leases() {
        let before = tokio::time::Instant::now();
        let (time, clock) = at_will();
        assert!(clock.answered(1, clock.now(), TTL));
        assert!(!clock.has_run_out());
        time.fetch_add(600, Ordering::Relaxed);
        assert!(clock.has_run_out());
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert!(clock.answered(1, clock.now(), TTL), "the coordinator has them again on its list");
        assert!(!clock.has_run_out());
    }

    /// In a time namespace the time since boot is put forward, as by a suspension, and the monotonic clock is not.
    #[test]
    fn the_hosts_clock_counts_suspensions() {
        let this = std::env::current_exe().unwrap();
        let mut suspended = std::process::Command::new("unshare");
        suspended.args(["--map-root-user", "--time", "--boottime", "1000000"]).arg(this);
        let test = "lease_clock::tests::the_hosts_clock_is_the_kernels_time_since_boot";
        let output = suspended.args(["--exact", test]).output();
        match output {
            Ok(output) if output.status.code() == Some(1) || output.stdout.is_empty() => skip(&output.stderr),
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
            Err(error) => skip(error.to_string().as_bytes()),
        }
    }

    fn skip(why: &[u8]) {
        eprintln!("skipped: no time namespace: {}", String::from_utf8_lossy(why).trim());
    }

    #[test]
    fn the_hosts_clock_is_the_kernels_time_since_boot() {
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let difference = (since_boot().as_secs_f64() - uptime).abs();
        assert!(difference < 5.0, "{difference} s from what the kernel says, suspensions included");
    }

    #[test]
    fn the_deadline_counts_from_when_the_answered_call_was_sent() {
        let (time, clock) = at_will();
        assert!(!clock.has_run_out(), "there is nothing to lose before the first answer");
        assert!(clock.answered(1, seconds(1000), TTL));
        time.store(1024, Ordering::Relaxed);
        assert!(!clock.has_run_out());
        time.store(1025, Ordering::Relaxed);
        assert!(clock.has_run_out());
        assert!(clock.answered(1, seconds(999), TTL));
        assert!(clock.has_run_out(), "an older call, answered late, proves nothing new");
        assert!(clock.answered(1, seconds(1001), TTL));
        assert!(!clock.has_run_out());
    }

    #[test]
    fn a_short_lease_leaves_room_for_more_than_one_renewal() {
        for (ttl, own) in [(3_000, 2_500), (12_000, 10_000), (30_000, 25_000), (60_000, 55_000)] {
            assert_eq!(own_part(Duration::from_millis(ttl)), Duration::from_millis(own));
        }
    }

    #[test]
    fn a_former_coordinator_renews_nothing() {
        let (time, clock) = at_will();
        assert!(clock.answered(2, seconds(1000), TTL));
        assert!(!clock.answered(1, seconds(1020), TTL));
        time.store(1025, Ordering::Relaxed);
        assert!(clock.has_run_out());
    }
}

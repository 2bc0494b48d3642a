//! Waiting for a condition with a deadline: the only way in which these tests wait.

use std::time::Duration;

use tokio::time::Instant;

/// How often the condition is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Checks repeatedly until `found` returns a value; `None` once the deadline has passed.
pub fn wait_until<T>(deadline: Duration, mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = found() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Waits until a condition is true; panics with its description at the deadline.
#[track_caller]
pub fn wait_for(what: &str, deadline: Duration, mut is_true: impl FnMut() -> bool) {
    let became = wait_until(deadline, || is_true().then_some(()));
    assert!(became.is_some(), "not true within {deadline:?}: {what}");
}

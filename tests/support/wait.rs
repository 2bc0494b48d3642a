//! Waiting for something to become true, with a deadline: the only way in which these tests wait.

use std::time::Duration;

use tokio::time::Instant;

/// How often is looked.
const GLANCE: Duration = Duration::from_millis(5);

/// Looks again and again until `found` gives something; `None` once the deadline has passed.
pub fn wait_until<T>(deadline: Duration, mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = found() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(GLANCE);
    }
}

/// Waits until it is true, and panics with what was waited for if it does not become so.
#[track_caller]
pub fn wait_for(what: &str, deadline: Duration, mut is_true: impl FnMut() -> bool) {
    let became = wait_until(deadline, || is_true().then_some(()));
    assert!(became.is_some(), "waited {deadline:?} in vain for: {what}");
}

//! The lock on the target of a batch, which a job of the programs takes too.

use std::{fs, path::Path, time::Duration};

use shared::target_lock::TargetLock;
use tokio::time::sleep;

/// Interval at which a lock of others is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A target that this batch has locked, as far as its file system has locks.
#[derive(Debug)]
pub(super) struct LockedTarget(Option<TargetLock>);

impl LockedTarget {
    /// Creates the folder if it is missing, and waits until no other batch or job works in it.
    pub(super) async fn wait_for(target: &Path) -> Self {
        let mut is_waiting = false;
        loop {
            let lock = match fs::create_dir_all(target).and_then(|()| TargetLock::take(target)) {
                Ok(Some(lock)) => lock,
                Ok(None) => {
                    if !is_waiting {
                        tracing::warn!(
                            "another download works in {}: this one begins when that has ended",
                            target.display()
                        );
                    }
                    is_waiting = true;
                    sleep(RETRY_INTERVAL).await;
                    continue;
                }
                // Opening the target says why it cannot be used.
                Err(error) => {
                    tracing::debug!(%error, "the target cannot be locked");
                    return Self(None);
                }
            };
            if let Some(error) = lock.unlocked() {
                tracing::warn!(
                    "the target cannot be locked ({error}): make sure that no other download \
                     uses it"
                );
            }
            return Self(Some(lock));
        }
    }
}

impl Drop for LockedTarget {
    fn drop(&mut self) {
        if let Some(lock) = &self.0 {
            lock.release();
        }
    }
}

//! The live page of a job: where it is served, and the task that makes its data.

use std::{
    path::{self, Path},
    sync::Arc,
};

use shared::shutdown::Shutdown;
use tokio::task::JoinSet;

use super::CoordinatorError;
use crate::{
    config::Plan,
    dashboard::{Dashboard, JobFacts},
    dispatcher::DispatcherHandle,
    http::HttpSettings,
};

impl HttpSettings {
    /// The settings of a plan.
    pub(super) fn of(plan: &Plan) -> Self {
        let tls = plan.credentials.http_tls();
        Self {
            address: plan.http,
            tls: tls.filter(|_| plan.http_tls),
            proxies: plan.http_hosts.clone(),
            credentials: Arc::clone(&plan.credentials),
        }
    }
}

/// Starts the publisher of a job as one of the tasks that live until the process ends.
pub(super) async fn start(
    handle: DispatcherHandle,
    plan: &Plan,
    epoch: u32,
    stop: &Shutdown,
    endpoints: &mut JoinSet<()>,
) -> Result<Dashboard, CoordinatorError> {
    let facts = JobFacts {
        run_id: plan.job.run_id.as_str().into(),
        epoch,
        retry_command: retry_command(&plan.target).into(),
        stopping: stop.drain.clone(),
    };
    let dashboard = Dashboard::start(handle, facts, endpoints).await;
    dashboard.map_err(|_| CoordinatorError::DispatcherDied)
}

/// The command that retries failed classes on the coordinator's host, up to their ids. Without ids
/// it retries all.
fn retry_command(target: &Path) -> String {
    let target = path::absolute(target).unwrap_or_else(|_| target.to_owned());
    format!(
        "coordinator retry --target {}",
        quoted(&target.to_string_lossy())
    )
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let is_plain = |character: char| {
        character.is_ascii_alphanumeric() || matches!(character, '/' | '.' | '_' | '-' | '+' | ':')
    };
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_pasted_into_a_shell() {
        let command = |target: &str| retry_command(Path::new(target));
        assert_eq!(
            command("/data/classes"),
            "coordinator retry --target /data/classes"
        );
        let expected = r"coordinator retry --target '/data/it'\''s $new'";
        assert_eq!(command("/data/it's $new"), expected);
        let here = std::env::current_dir().unwrap();
        assert!(command("out").ends_with("/out"), "{}", here.display());
    }
}

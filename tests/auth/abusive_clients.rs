//! Clients that send frames without end and take no answers (S21), with and without a token: their
//! memory and log lines are bounded.

use std::{path::PathBuf, time::Duration};

use tests::{
    abusive_clients::{AbusiveClients, Attack, Kind, Style},
    memory,
    running::Running,
    wait::wait_for,
};
use tokio::time::Instant;

use super::Cluster;

/// Duration of each kind of frames in the tests; the benchmark sends longer.
const ATTACK: Duration = Duration::from_secs(1);
/// Frames on a connection that is held open: more than the streams allowed per connection.
const HELD_FRAMES: usize = 400;
/// Maximum growth above the coordinator's idle memory, in bytes.
pub(crate) const MAX_GROWTH: u64 = 64 << 20;
/// How much of that the allocator may keep afterwards, in bytes.
const MAX_KEPT: u64 = 32 << 20;
/// Maximum size of the log after all kinds, in bytes.
const MAX_LOG: usize = 64 << 10;
/// Maximum duration of a viewer's status call during an attack. On a busy machine the fastest of
/// several calls counts.
const MAX_STATUS: Duration = Duration::from_secs(1);

#[test]
fn connections_without_a_token_cost_at_most_64_mib_and_no_log_whatever_they_send() {
    let coordinator = cost_of(None);
    let log = std::fs::read_to_string(&coordinator.log).expect("the log exists");
    assert!(
        log.len() <= MAX_LOG,
        "the attack wrote {} bytes into the log",
        log.len()
    );
    let stderr = coordinator.running.stderr();
    assert!(
        !stderr.contains("PING"),
        "the terminal output does not mention them: {stderr}"
    );
    coordinator.running.kill();
}

#[test]
fn connections_of_a_viewer_that_takes_no_answers_cost_at_most_64_mib() {
    cost_of(Some("viewer.token")).running.kill();
}

/// A coordinator after the attacks, and the path of its log.
struct AttackedCoordinator {
    running: Running,
    log: PathBuf,
    _cluster: Cluster,
}

/// Runs clients with this token and each kind of frames, and asserts limits on the coordinator's
/// costs.
fn cost_of(token: Option<&str>) -> AttackedCoordinator {
    let (cluster, coordinator) = Cluster::of(1).start(&[]);
    let process = coordinator.running.id();
    let held = || memory::of(process).expect("the coordinator runs");
    let connect = format!("https://{}", coordinator.address);
    let viewer = cluster.path("viewer.token");
    let status = || {
        let called_at = Instant::now();
        let status = cluster
            .job
            .start_with(["status", "--connect", &connect, "--token-file", &viewer])
            .wait();
        assert_eq!(status.code, Some(0), "{}", status.stderr);
        called_at.elapsed()
    };
    status();
    let idle = held().now;
    for kind in Kind::ALL {
        memory::reset_peak(process).expect("the process is ours");
        let endless = Attack {
            address: coordinator.address,
            authority: cluster.file("ca.pem"),
            token: token.map(|file| cluster.secret(file)),
            kind,
            style: Style::Endless,
        };
        let held_open = Attack {
            style: Style::Held(HELD_FRAMES),
            ..endless.clone()
        };
        let attackers = [
            AbusiveClients::start(&endless, 1),
            AbusiveClients::start(&held_open, 7),
        ];
        let begun = Instant::now();
        let mut fastest = Duration::MAX;
        while begun.elapsed() < ATTACK || fastest > MAX_STATUS {
            fastest = fastest.min(status());
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{kind}: the fastest status took {fastest:?}"
            );
        }
        let sent = attackers.map(AbusiveClients::stop);
        let grown = held().peak.saturating_sub(idle);
        assert!(
            sent.iter().all(|sent| sent.connections > 0),
            "{kind}: expected accepted connections: {sent:?}"
        );
        assert!(
            grown <= MAX_GROWTH,
            "{kind}: {grown} bytes above idle, {sent:?}"
        );
        wait_for("the memory is freed", Duration::from_secs(20), || {
            held().now <= idle + MAX_KEPT
        });
    }
    let log = cluster.job.target_path().join("imagenet_downloader.log");
    AttackedCoordinator {
        running: coordinator.running,
        log,
        _cluster: cluster,
    }
}

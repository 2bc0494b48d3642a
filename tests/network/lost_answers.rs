//! Connections that end during a call or between two calls: each call can be repeated and takes
//! effect once.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tests::{chaos_proxy::Direction, fleet::Fleet, wait::wait_until};

use crate::{ProxiedFleet, SHORT_LEASE, TIMEOUT};

/// Bytes of a report and its answer, a few hundred, and as many again for a new connection.
const EXCHANGE: u64 = 700;
/// Number of resets. After that the network is reliable: a list of results that has grown meanwhile
/// is longer than [`EXCHANGE`] and would never get through.
const RESETS: u32 = 60;

#[test]
fn a_reset_at_any_byte_of_a_call_loses_nothing_and_counts_nothing_twice() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    let mut random = SmallRng::seed_from_u64(seed);
    let proxied = ProxiedFleet::to(Fleet::new(120, 3, 1000..9000, &SHORT_LEASE));
    let workers = ["far", "farther"].map(|name| proxied.worker(name, 1));
    let mut resets = 0;
    while proxied.fleet.settled().len() < proxied.fleet.tars.len() && resets < RESETS {
        let direction = if random.random() {
            Direction::ToServer
        } else {
            Direction::ToClient
        };
        proxied
            .proxy
            .reset_after(direction, random.random_range(1..EXCHANGE));
        let all_done = || proxied.fleet.settled().len() == proxied.fleet.tars.len();
        wait_until(TIMEOUT, || {
            (!proxied.proxy.reset_is_pending(direction) || all_done()).then_some(())
        });
        resets += 1;
    }
    proxied.proxy.cancel_resets();
    println!("SEED={seed}: {resets} connections were reset in the middle of a call");
    proxied.assert_nothing_lost_or_repeated(workers);
    assert!(resets > 30, "SEED={seed}: only {resets} resets");
}

#[test]
fn connections_that_are_closed_between_calls_are_replaced_without_a_log_line() {
    // Heartbeats are so far apart that none is in progress when connections are closed.
    let proxied = ProxiedFleet::with(6, 200_000, &["--lease-ttl", "30s"]);
    let mut worker = proxied.worker("far", 1);
    let first = proxied.fleet.tars[0].0.clone();
    worker.wait_until("a class is in progress", |_| {
        (proxied.fleet.gets(&first) > 0).then_some(())
    });
    proxied.proxy.close();
    proxied.wait_for_class(&first);
    let second = proxied.fleet.tars[1].0.clone();
    proxied.fleet.wait_for_gets(&second, 1, TIMEOUT);
    proxied.proxy.send_goaway();
    proxied.wait_for_class(&second);
    let stderr = worker.stderr();
    proxied.assert_nothing_lost_or_repeated([worker]);
    assert!(
        !stderr.contains("WARN") && !stderr.contains("ERROR"),
        "{stderr}"
    );
}

/// Some proxies close connections that are idle for 25 s. A long poll lasts 20 s, so this test
/// takes half a minute.
#[test]
fn an_idle_worker_sends_often_enough_that_a_proxy_keeps_its_connections() {
    let proxied = ProxiedFleet::with(1, 16_500, &["--lease-ttl", "90s"]);
    let busy = proxied.fleet.start_worker("busy", 1);
    let first = proxied.fleet.tars[0].0.clone();
    proxied.fleet.wait_for_gets(&first, 1, TIMEOUT);
    proxied
        .proxy
        .close_when_silent(Some(Duration::from_secs(25)));
    let idle = proxied.worker("idle", 1);
    proxied.wait_for_class(&first);
    let connections = proxied.proxy.connections();
    proxied.assert_nothing_lost_or_repeated([busy, idle]);
    assert!(
        (1..=2).contains(&connections),
        "expected one for calls and one for heartbeats: {connections}"
    );
}

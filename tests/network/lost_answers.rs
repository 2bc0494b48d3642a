//! Connections that end in the middle of a call or between two: each call may be repeated, and counts once.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tests::{chaos_proxy::Way, fleet::Fleet, wait::wait_until};

use crate::{LONG, Line, SHORT_LEASE};

/// A report with its answer is a few hundred bytes, on a new connection a few hundred more.
const EXCHANGE: u64 = 700;
/// Then the line is good: a list of results that has grown meanwhile is longer than an exchange, and would never get through.
const RESETS: u32 = 60;

#[test]
fn a_reset_at_any_byte_of_a_call_loses_nothing_and_counts_nothing_twice() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let mut random = SmallRng::seed_from_u64(seed);
    let line = Line::to(Fleet::new(120, 3, 1000..9000, &SHORT_LEASE));
    let workers = ["far", "farther"].map(|name| line.worker(name, 1));
    let mut resets = 0;
    while line.fleet.settled().len() < line.fleet.tars.len() && resets < RESETS {
        let way = if random.random() { Way::ToServer } else { Way::ToClient };
        line.proxy.reset_after(way, random.random_range(1..EXCHANGE));
        let all_done = || line.fleet.settled().len() == line.fleet.tars.len();
        wait_until(LONG, || (!line.proxy.reset_is_pending(way) || all_done()).then_some(()));
        resets += 1;
    }
    line.proxy.reset_no_more();
    println!("SEED={seed}: {resets} connections were reset in the middle of a call");
    line.assert_done_without_a_trace(workers);
    assert!(resets > 30, "SEED={seed}: only {resets} resets");
}

#[test]
fn connections_that_are_closed_between_calls_are_replaced_without_a_word() {
    // Renewals are so far apart that none is under way when connections are closed.
    let line = Line::with(6, 200_000, &["--lease-ttl", "30s"]);
    let mut worker = line.worker("far", 1);
    let first = line.fleet.tars[0].0.clone();
    worker.wait_until("a class is under way", |_| (line.fleet.gets(&first) > 0).then_some(()));
    line.proxy.close();
    line.wait_for_class(&first);
    let second = line.fleet.tars[1].0.clone();
    line.fleet.wait_for_gets(&second, 1, LONG);
    line.proxy.say_goodbye();
    line.wait_for_class(&second);
    let said = worker.stderr();
    line.assert_done_without_a_trace([worker]);
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
}

/// A proxy on the way closes what is silent for 25 s. Takes half a minute: a long poll is twenty seconds.
#[test]
fn an_idle_worker_is_never_silent_for_so_long_that_a_proxy_would_close_its_connections() {
    let line = Line::with(1, 16_500, &["--lease-ttl", "90s"]);
    let busy = line.fleet.start_worker("busy", 1);
    let first = line.fleet.tars[0].0.clone();
    line.fleet.wait_for_gets(&first, 1, LONG);
    line.proxy.close_when_silent(Some(Duration::from_secs(25)));
    let idle = line.worker("idle", 1);
    line.wait_for_class(&first);
    let connections = line.proxy.connections();
    line.assert_done_without_a_trace([busy, idle]);
    assert!((1..=2).contains(&connections), "one for its calls and one for its renewals: {connections}");
}

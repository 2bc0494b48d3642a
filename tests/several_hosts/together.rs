//! Hosts that work together, and cables that are pulled or narrow.

use std::time::Duration;

use tests::{
    hosts::Network,
    wait::{wait_for, wait_until},
};
use tokio::time::Instant;

use crate::{Cluster, LONG};

#[test]
fn three_hosts_with_disks_of_their_own_share_the_classes() {
    let Some((_network, [coordinator, origin, left, middle, right])) =
        Network::of(["coordinator", "origin", "left", "middle", "right"])
    else {
        return;
    };
    let mut cluster = Cluster::new(18, [&coordinator, &origin], "10.77.0.1");
    cluster.origin.limit_rate(500_000);
    let running = cluster.start_coordinator(&coordinator);
    let hosts = [&left, &middle, &right];
    let workers = hosts.map(|host| cluster.start_worker(host, "2"));
    cluster.assert_done(running, workers, &hosts);
    let shares = hosts.map(|host| cluster.classes_of(host));
    println!("three hosts have {shares:?} of 18 classes");
    assert!(shares.iter().all(|share| *share > 0) && shares.iter().sum::<usize>() == 18, "{shares:?}");
    for (wnid, _) in &cluster.tars {
        assert_eq!(cluster.origin.gets(wnid).len(), 1, "{wnid}");
    }
}

/// Takes a quarter of a minute: the shortest lease and the margin behind it.
#[test]
fn the_classes_of_a_host_whose_cable_is_pulled_go_to_another_and_it_comes_back() {
    let Some((_network, [coordinator, origin, far, near])) = Network::of(["coordinator", "origin", "far", "near"])
    else {
        return;
    };
    let mut cluster = Cluster::new(4, [&coordinator, &origin], "10.77.0.1");
    cluster.origin.limit_rate(20_000);
    let running = cluster.start_coordinator(&coordinator);
    let mut pulled = cluster.start_worker(&far, "1");
    let first = cluster.tars[0].0.clone();
    pulled.wait_until("its class is under way", |_| (!cluster.origin.gets(&first).is_empty()).then_some(()));
    let other = cluster.start_worker(&near, "4");
    far.pull(true);
    let when = Instant::now();
    pulled.wait_until("it notices", |worker| {
        let said = worker.stderr();
        ["no answer", "could not be renewed"].iter().any(|words| said.contains(words)).then_some(())
    });
    println!("a host whose cable was pulled noticed after {:.1?}", when.elapsed());
    assert!(when.elapsed() < Duration::from_secs(10), "{:?}", when.elapsed());
    wait_for("its class is under way elsewhere", LONG, || cluster.origin.gets(&first).len() > 1);
    println!("its class was under way elsewhere after {:.1?}", when.elapsed());
    assert!(when.elapsed() <= Duration::from_secs(3 + 12), "{:?}", when.elapsed());
    cluster.origin.limit_rate(0);
    far.pull(false);
    cluster.assert_done(running, [pulled, other], &[&far, &near]);
}

#[test]
fn a_cable_that_is_unplugged_for_less_than_a_lease_is_not_seen() {
    let Some((_network, [coordinator, origin, worker])) = Network::of(["coordinator", "origin", "worker"]) else {
        return;
    };
    let mut cluster = Cluster::new(6, [&coordinator, &origin], "10.77.0.1");
    cluster.origin.limit_rate(200_000);
    let running = cluster.start_coordinator(&coordinator);
    let mut working = cluster.start_worker(&worker, "2");
    working.wait_until("classes are under way", |_| (cluster.origin.bytes_sent() > 100_000).then_some(()));
    coordinator.pull(true);
    let when = Instant::now();
    wait_until(LONG, || (when.elapsed() > Duration::from_secs(4)).then_some(()));
    coordinator.pull(false);
    cluster.assert_done(running, [working], &[&worker]);
    for (wnid, _) in &cluster.tars {
        assert_eq!(cluster.origin.gets(wnid).len(), 1, "{wnid}");
    }
}

#[test]
fn sixty_four_kilobits_are_enough_for_the_leases_of_two_hosts() {
    let Some((_network, [coordinator, origin, left, right])) = Network::of(["coordinator", "origin", "left", "right"])
    else {
        return;
    };
    let mut cluster = Cluster::new(12, [&coordinator, &origin], "10.77.0.1");
    cluster.origin.limit_rate(250_000);
    coordinator.narrow("64kbit");
    let running = cluster.start_coordinator(&coordinator);
    let hosts = [&left, &right];
    let began = Instant::now();
    let workers = hosts.map(|host| cluster.start_worker(host, "2"));
    cluster.assert_done(running, workers, &hosts);
    println!(
        "twelve classes of two seconds each, four at a time, with 64 kbit/s to the coordinator: {:.1?}",
        began.elapsed()
    );
    for (wnid, _) in &cluster.tars {
        assert_eq!(cluster.origin.gets(wnid).len(), 1, "{wnid}");
    }
}

//! Hosts that work together, and network links that are down or slow.

use std::time::Duration;

use tests::{
    hosts::Network,
    wait::{wait_for, wait_until},
};
use tokio::time::Instant;

use crate::{Cluster, TIMEOUT};

#[test]
fn three_hosts_with_separate_disks_share_the_classes() {
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
    assert!(
        shares.iter().all(|share| *share > 0) && shares.iter().sum::<usize>() == 18,
        "{shares:?}"
    );
    for (wnid, _) in &cluster.tars {
        assert_eq!(cluster.origin.gets(wnid).len(), 1, "{wnid}");
    }
}

/// Takes 15 s: the shortest lease and the margin after it.
#[test]
fn the_classes_of_an_unplugged_host_are_reassigned_and_it_reconnects() {
    let Some((_network, [coordinator, origin, far, near])) =
        Network::of(["coordinator", "origin", "far", "near"])
    else {
        return;
    };
    let mut cluster = Cluster::new(4, [&coordinator, &origin], "10.77.0.1");
    cluster.origin.limit_rate(20_000);
    let running = cluster.start_coordinator(&coordinator);
    let mut pulled = cluster.start_worker(&far, "1");
    let first = cluster.tars[0].0.clone();
    pulled.wait_until("its class is in progress", |_| {
        (!cluster.origin.gets(&first).is_empty()).then_some(())
    });
    let other = cluster.start_worker(&near, "4");
    far.set_link_down(true);
    let when = Instant::now();
    pulled.wait_until("it logs that the coordinator does not answer", |worker| {
        let stderr = worker.stderr();
        ["no answer", "could not be renewed"]
            .iter()
            .any(|words| stderr.contains(words))
            .then_some(())
    });
    println!(
        "a host without a network noticed that after {:.1?}",
        when.elapsed()
    );
    wait_for("its class is in progress on another host", TIMEOUT, || {
        cluster.origin.gets(&first).len() > 1
    });
    println!(
        "its class was in progress on another host after {:.1?}",
        when.elapsed()
    );
    cluster.origin.limit_rate(0);
    far.set_link_down(false);
    cluster.assert_done(running, [pulled, other], &[&far, &near]);
}

#[test]
fn a_host_that_is_unplugged_for_less_than_a_lease_loses_nothing() {
    let Some((_network, [coordinator, origin, worker])) =
        Network::of(["coordinator", "origin", "worker"])
    else {
        return;
    };
    let mut cluster = Cluster::new(6, [&coordinator, &origin], "10.77.0.1");
    cluster.origin.limit_rate(200_000);
    let running = cluster.start_coordinator(&coordinator);
    let mut working = cluster.start_worker(&worker, "2");
    working.wait_until("classes are in progress", |_| {
        (cluster.origin.bytes_sent() > 100_000).then_some(())
    });
    coordinator.set_link_down(true);
    let when = Instant::now();
    wait_until(TIMEOUT, || {
        (when.elapsed() > Duration::from_secs(4)).then_some(())
    });
    coordinator.set_link_down(false);
    cluster.assert_done(running, [working], &[&worker]);
    for (wnid, _) in &cluster.tars {
        assert_eq!(cluster.origin.gets(wnid).len(), 1, "{wnid}");
    }
}

#[test]
fn sixty_four_kilobits_are_enough_for_the_leases_of_two_hosts() {
    let Some((_network, [coordinator, origin, left, right])) =
        Network::of(["coordinator", "origin", "left", "right"])
    else {
        return;
    };
    let mut cluster = Cluster::new(12, [&coordinator, &origin], "10.77.0.1");
    cluster.origin.limit_rate(250_000);
    coordinator.limit_rate("64kbit");
    let running = cluster.start_coordinator(&coordinator);
    let hosts = [&left, &right];
    let began = Instant::now();
    let workers = hosts.map(|host| cluster.start_worker(host, "2"));
    cluster.assert_done(running, workers, &hosts);
    println!(
        "twelve classes of two seconds each, four at a time, with 64 kbit/s to the coordinator: \
         {:.1?}",
        began.elapsed()
    );
    for (wnid, _) in &cluster.tars {
        assert_eq!(cluster.origin.gets(wnid).len(), 1, "{wnid}");
    }
}

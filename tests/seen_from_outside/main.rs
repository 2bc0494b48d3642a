//! Observability of the real programs without their logs: probes, metrics, gRPC health and traces.

mod abuse;
mod addresses;
mod collector;
mod grpc_health;
mod life;
mod metrics;
mod traces;

use tests::{archives::images, origin::Origin};

/// Classes of about 50 KB each, named from `n00000001` on.
fn wnids(count: u64) -> Vec<String> {
    (1..=count).map(|number| format!("n{number:08}")).collect()
}

fn origin(wnids: &[String]) -> Origin {
    let origin = Origin::start();
    for (seed, wnid) in (1..).zip(wnids) {
        origin.class(wnid, images(wnid, 5, 5000..15_000, seed));
    }
    origin
}

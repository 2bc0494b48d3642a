//! From the start of the program to its first answer, and its memory afterwards.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tests::memory::Memory;
use tokio::time::sleep;

use crate::{
    coordinator::{Coordinator, Environment},
    counts::Grants,
    figures::{bytes_each, mebibytes, seconds},
    tell, worker,
    worker::LoadError,
};

const LIST: &str = "classes.csv";
const GOAL: &str = "(goal: below 3 s, at most 200 bytes a class for 1 million)";
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Memory of the program with a single class.
pub(crate) async fn fixed_memory(site: &Environment) -> Result<Memory, LoadError> {
    const SHORT: &str = "one.csv";
    site.write_list(SHORT, 1)?;
    let (coordinator, took) = start(site, SHORT, None).await?;
    let memory = coordinator.memory()?;
    tell(
        "start, 1 class",
        &format!("{took}, memory {}", mebibytes(memory.now)),
    );
    Ok(memory)
}

/// Starts on a new ledger.
pub(crate) async fn with_all_pending(
    site: &Environment,
    classes: u32,
    fixed: Memory,
) -> Result<(Coordinator, Arc<Grants>), LoadError> {
    site.write_list(LIST, classes)?;
    let (coordinator, took) = start(site, LIST, None).await?;
    tell(
        "start, all pending",
        &describe(&coordinator, &took, classes, fixed)?,
    );
    Ok((coordinator, Arc::new(Grants::new(classes))))
}

/// Starts on a ledger with nearly all results.
pub(crate) async fn with_all_settled(
    site: &Environment,
    classes: u32,
    fixed: Memory,
) -> Result<Coordinator, LoadError> {
    tell("files", &site.files(LIST)?);
    let (coordinator, took) = start(site, LIST, None).await?;
    tell(
        "start, all settled",
        &describe(&coordinator, &took, classes, fixed)?,
    );
    Ok(coordinator)
}

/// Restarts at the same address.
pub(crate) async fn again(
    site: &Environment,
    address: SocketAddr,
) -> Result<(Coordinator, String), LoadError> {
    start(site, LIST, Some(address)).await
}

async fn start(
    site: &Environment,
    list: &str,
    address: Option<SocketAddr>,
) -> Result<(Coordinator, String), LoadError> {
    let mut coordinator = site.start(list, address)?;
    while worker::status(&coordinator.dial).await.is_err() {
        coordinator.check_running()?;
        sleep(POLL_INTERVAL).await;
    }
    let took = seconds(coordinator.started.elapsed());
    Ok((coordinator, took))
}

fn describe(
    coordinator: &Coordinator,
    took: &str,
    classes: u32,
    fixed: Memory,
) -> Result<String, LoadError> {
    let memory = coordinator.memory()?;
    Ok(format!(
        "{took}, memory {} ({} bytes a class), at most {} ({} bytes a class), CPU {}  {GOAL}",
        mebibytes(memory.now),
        bytes_each(memory.now, fixed.now, classes),
        mebibytes(memory.peak),
        bytes_each(memory.peak, fixed.peak, classes),
        seconds(coordinator.cpu()?),
    ))
}

//! What one coordinator carries: starts the real program with a long list and a fresh ledger, speaks to it over gRPC on
//! loopback as thousands of workers would, and prints latencies, rates, memory and CPU time beside the goals.
//!
//!     cargo build --release -p coordinator -p tests --bins && target/release/coordinator_load
//!
//! With `--tls` each worker that renews has a TLS connection of its own, and with `--strangers 8`
//! as many clients without a token attack meanwhile, with each kind of frames for `--seconds`;
//! other phases are left out.
//!
//! It measures and judges nothing unless `--hold` is given: slow is not an error. It fails only
//! when the protocol is broken, that is, when a class is granted while a worker holds it or after
//! it was settled, or when the counts do not add up. The clients share the machine with the
//! coordinator: the coordinator's CPU time is its own, latencies are those of both.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser as _;
use tests::memory::Memory;
use tokio::runtime::Runtime;

mod beside;
mod coordinator;
mod counts;
mod dial;
mod figures;
mod herd;
mod options;
mod pairs;
mod renewals;
mod settling;
mod start;
mod worker;

use coordinator::{Coordinator, Site};
use counts::Grants;
use options::Options;
use worker::Trouble;

/// How long a coordinator that gives up takes to say why.
const LAST_WORDS: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let options = Options::parse().sized();
    let outcome = Runtime::new().map_err(Trouble::from).and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                outcome = Load::measure(options) => outcome,
                _ = tokio::signal::ctrl_c() => Err(Trouble::Setting("interrupted".to_owned())),
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            drop(writeln!(io::stderr(), "coordinator_load: failed to {trouble}"));
            ExitCode::FAILURE
        }
    }
}

/// One line of the result.
fn tell(what: &str, figures: &str) {
    // Whoever closes the pipe has seen enough.
    drop(writeln!(io::stdout(), "{what:<26} {figures}"));
}

/// Everything that the phases share.
struct Load {
    options: Options,
    site: Site,
    coordinator: Coordinator,
    grants: Arc<Grants>,
}

impl Load {
    /// All phases, from an empty ledger to one that has every class but one.
    async fn measure(options: Options) -> Result<(), Trouble> {
        let site = Site::prepare(&options)?;
        tell("setting", &site.describe(&options)?);
        let fixed = start::fixed_memory(&site).await?;
        let (coordinator, grants) = start::with_all_pending(&site, options.classes, fixed).await?;
        let mut load = Self { options, site, coordinator, grants };
        let outcome = load.phases(fixed).await;
        if outcome.is_err() {
            // If it is at its end, why comes first.
            tokio::time::sleep(LAST_WORDS).await;
            load.coordinator.still_runs()?;
        }
        outcome
    }

    async fn phases(&mut self, fixed: Memory) -> Result<(), Trouble> {
        if self.options.strangers > 0 {
            return beside::run(self).await;
        }
        let workers = herd::first_contact(self).await?;
        herd::after_a_kill(self, workers).await?;
        self.check().await?;
        renewals::run(self).await?;
        self.check().await?;
        pairs::run(self, 1).await?;
        pairs::run(self, self.options.batch).await?;
        self.check().await?;
        settling::all_but_one(self).await?;
        self.check().await?;
        self.coordinator.kill();
        self.coordinator = start::with_all_settled(&self.site, self.options.classes, fixed).await?;
        self.check().await?;
        tell("counts", "add up, and no class was granted twice");
        Ok(())
    }

    /// Whether the coordinator counts as we do.
    async fn check(&self) -> Result<(), Trouble> {
        self.grants.check(&self.coordinator.dial).await
    }
}

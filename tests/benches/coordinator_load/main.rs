//! Capacity of one coordinator: starts the real program with a long list and a fresh ledger, acts
//! as thousands of workers over gRPC on loopback, and prints latencies, rates, memory and CPU time
//! beside the goals.
//!
//!     cargo build --release -p coordinator -p tests --bins && target/release/coordinator_load
//!
//! With `--tls` each worker that renews has a TLS connection of its own. With `--attackers 8` eight
//! clients without a token attack at the same time, with each kind of frames for `--seconds`; the
//! other phases are skipped. With `--observe` the workers that renew send observations as well, at
//! the interval that the coordinator wants; without TLS that needs a connection for every 90 of
//! them (`--connections`).
//!
//! With `--viewers 50` fifty viewers of the page read its events in every second round, while the
//! workers download, settle and renew; the other phases are skipped:
//!
//!     target/release/coordinator_load --viewers 50 --classes 21843 --workers 1000 --hold
//!
//! Without `--hold` it measures but does not judge: slow is not an error. It fails only if the
//! protocol is violated, that is, if a class is granted while a worker holds it or after it was
//! settled, or if the counts do not add up. The clients share the machine with the coordinator: the
//! CPU time is the coordinator's alone, latencies are those of both.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser as _;
use tests::memory::Memory;
use tokio::runtime::Runtime;

mod attacks;
mod coordinator;
mod counts;
mod dial;
mod figures;
mod herd;
mod observations;
mod options;
mod pairs;
mod renewals;
mod settling;
mod start;
mod viewers;
mod worker;

use coordinator::{Coordinator, Environment};
use counts::Grants;
use options::Options;
use worker::LoadError;

/// Time that a failing coordinator needs to log its reason.
const EXIT_DELAY: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let options = Options::parse().sized();
    let outcome = Runtime::new().map_err(LoadError::from).and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                outcome = Load::measure(options) => outcome,
                _ = tokio::signal::ctrl_c() => Err(LoadError::Benchmark("interrupted".to_owned())),
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            drop(writeln!(
                io::stderr(),
                "coordinator_load: failed to {trouble}"
            ));
            ExitCode::FAILURE
        }
    }
}

/// Prints one line of the result.
fn tell(what: &str, figures: &str) {
    // A closed pipe is not an error.
    drop(writeln!(io::stdout(), "{what:<26} {figures}"));
}

/// State that the phases share.
struct Load {
    options: Options,
    site: Environment,
    coordinator: Coordinator,
    grants: Arc<Grants>,
}

impl Load {
    /// Runs all phases, from an empty ledger to one with every class but one.
    async fn measure(options: Options) -> Result<(), LoadError> {
        let site = Environment::prepare(&options)?;
        tell("setting", &site.describe(&options)?);
        let fixed = start::fixed_memory(&site).await?;
        let (coordinator, grants) = start::with_all_pending(&site, options.classes, fixed).await?;
        let mut load = Self {
            options,
            site,
            coordinator,
            grants,
        };
        let outcome = load.phases(fixed).await;
        if outcome.is_err() {
            // If the coordinator has ended, its own error is reported first.
            tokio::time::sleep(EXIT_DELAY).await;
            load.coordinator.check_running()?;
        }
        outcome
    }

    async fn phases(&mut self, fixed: Memory) -> Result<(), LoadError> {
        if self.options.attackers > 0 {
            return attacks::run(self).await;
        }
        if self.options.viewers > 0 {
            viewers::run(self).await?;
            return self.check().await;
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

    /// Verifies the coordinator's counts.
    async fn check(&self) -> Result<(), LoadError> {
        self.grants.check(&self.coordinator.dial).await
    }
}

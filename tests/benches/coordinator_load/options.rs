//! The benchmark's command line.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use tests::abusive_clients::Kind;

use crate::worker::LoadError;

/// Measures what one coordinator carries; see the head of main.rs.
#[derive(Debug, Clone, Parser)]
#[command(name = "coordinator_load")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(crate) struct Options {
    /// A few seconds with small numbers, to see that it runs
    #[arg(long)]
    quick: bool,
    /// Classes in the list
    #[arg(
        long,
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u32).range(10_000..=99_999_999)
    )]
    pub(crate) classes: u32,
    /// Workers that renew
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) workers: u32,
    /// Connections that these workers share
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Workers that come within one second, each with its own connection
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) herd: u32,
    /// Clients that acquire and report at the same time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) clients: u32,
    /// Leases an `Acquire` asks for in the second round of acquiring and reporting
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub(crate) batch: u32,
    /// Seconds of renewals, with viewers of each round; acquiring and reporting takes half as long,
    /// twice
    #[arg(long, default_value_t = 24)]
    seconds: u32,
    /// Uses TLS and tokens, and a connection for each worker that renews
    #[arg(long)]
    pub(crate) tls: bool,
    /// Workers that renew also send observations, with the progress of their leases
    #[arg(long)]
    pub(crate) observe: bool,
    /// Clients without a token that attack while workers renew; all other phases are left out
    #[arg(
        long,
        default_value_t = 0,
        requires = "tls",
        value_parser = clap::value_parser!(u32).range(..=1000)
    )]
    pub(crate) attackers: u32,
    /// What they send: calls, watch, streams, pings, acknowledgements, settings, resets or headers
    /// [default: each in turn]
    #[arg(long, requires = "attackers")]
    kind: Option<Kind>,
    /// Viewers of the page that read its events in every second round of renewals, of transfers and
    /// of settled classes; all other phases are left out
    #[arg(
        long,
        default_value_t = 0,
        conflicts_with_all = ["tls", "attackers"],
        value_parser = clap::value_parser!(u32).range(..=64)
    )]
    pub(crate) viewers: u32,
    /// Fails where a goal of renewals, connections, attacks or viewers is not met
    #[arg(long)]
    hold: bool,
    /// Runs the coordinator on this core only, with taskset
    #[arg(long)]
    pub(crate) coordinator_core: Option<u32>,
    /// Folder for the list and the ledger, on a disk [default: the folder for temporary files]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// The program [default: coordinator, beside this one]
    #[arg(long)]
    pub(crate) coordinator: Option<PathBuf>,
}

impl Options {
    /// With `--quick`, replaces all numbers by small ones.
    pub(crate) fn sized(self) -> Self {
        if !self.quick {
            return self;
        }
        Self {
            classes: 20_000,
            workers: 500,
            connections: 8,
            herd: 100,
            clients: 32,
            seconds: 2,
            ..self
        }
    }

    /// The kinds of attacks.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        self.kind
            .map_or_else(|| Kind::ALL.to_vec(), |kind| vec![kind])
    }

    /// An error if a goal is not met and `--hold` is set.
    pub(crate) fn hold(&self, is_met: bool, what: &str) -> Result<(), LoadError> {
        if is_met || !self.hold {
            return Ok(());
        }
        Err(LoadError::Benchmark(format!("meet the goals {what}")))
    }

    /// Whether each worker that renews has its own connection.
    pub(crate) fn has_own_connections(&self) -> bool {
        self.tls || self.viewers > 0
    }

    /// Duration of the renewals.
    pub(crate) fn renewal_time(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// Duration of each round of acquiring and reporting.
    pub(crate) fn pair_time(&self) -> Duration {
        self.renewal_time() / 2
    }
}

//! The worker's command line. Every flag has an environment variable; the doc comments of `Cli` and
//! `SlotArgs` are the help texts.

use shared::job::JobStatus;
use std::{ffi::OsString, net::SocketAddr, path::PathBuf};
use tokio::sync::watch;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand as _};
use shared::{
    connect::ConnectArgs,
    exit_code,
    flag::with_variable,
    manual::Manual,
    output_args::OutputArgs,
    protocol::MAX_SLOTS,
    worker_name::{host_name, parse_name},
};

const EXAMPLES: &str = "\
Examples:
  worker --connect http://127.0.0.1:50051 --target /data/imagenet
  worker --connect http://127.0.0.1:50051 --workers 5 --name disk2";

/// The worker's own settings. The options of the job come from the coordinator.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Stable name, e.g. the host's.
    pub name: String,
    /// Parallel downloads, at least 1.
    pub slots: usize,
    /// Folder in which the class folders are created.
    pub target: PathBuf,
    /// Folder in which classes are assembled; `None`: beside the target.
    pub staging: Option<PathBuf>,
    /// Whether the coordinator may name an origin at a private or loopback address.
    pub allow_private_origin: bool,
    /// The job's current counts, if the coordinator is in the same process. Otherwise the status
    /// line shows those of the coordinator's last answer.
    pub counts: Option<watch::Receiver<JobStatus>>,
    /// The job's current rate in bytes per second, if the coordinator is in the same process.
    /// Otherwise the status line shows the mean of this process over the last seconds.
    pub rate: Option<watch::Receiver<u64>>,
}

/// Downloads and unpacks the classes that a coordinator leases to it.
///
/// Start as many workers as you like; they may come and go at any time. The URL, the retries and
/// all other options of the job come from the coordinator: a worker only says where to put the
/// images and how many downloads run at once.
///
/// A worker waits for its coordinator for 24 hours: at the start, and after a connection is lost.
/// It finishes the classes that it has, keeps their results, and tries to connect again every few
/// seconds. It ends when the job is done.
#[derive(Debug, Clone, Parser)]
#[command(name = "worker", version = crate::version::VERSION, after_help = format!("{EXAMPLES}\n\n{}", exit_code::HELP))]
pub struct Cli {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the fields say it")]
    pub coordinator: ConnectArgs,
    /// Folder that gets one folder of images for each class; made if it is missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub target: PathBuf,
    /// Folder in which classes are put together until they are complete, on the target's file
    /// system [default: beside the target]
    #[arg(long, value_name = "DIR")]
    pub staging: Option<PathBuf>,
    /// Ask an origin at a private or loopback address if the coordinator says so. Not needed where
    /// the coordinator is on this host; link-local addresses, where clouds serve credentials, are
    /// never asked
    #[arg(long)]
    pub allow_private_origin: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the fields say it")]
    pub slots: SlotArgs,
    /// Answer /metrics, /healthz and /readyz there, in plaintext; port 0 takes a free one
    /// [default: nowhere]
    #[arg(long, value_name = "ADDR", value_parser = shared::http::parse_address)]
    pub http: Option<SocketAddr>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the fields say it")]
    pub output: OutputArgs,
}

/// The action that a command line requests.
#[derive(Debug)]
pub enum Action {
    /// Work for a coordinator.
    Work(Box<Cli>),
    /// Print shell completions or manual pages.
    Write(Manual),
}

impl Action {
    /// What the program writes beside its results.
    pub fn output(&self) -> OutputArgs {
        match self {
            Self::Work(cli) => cli.output,
            Self::Write(_) => OutputArgs::default(),
        }
    }
}

impl Cli {
    /// Parses a command line and the environment. `--help` and `--version` are an `Err` as well;
    /// clap distinguishes them.
    ///
    /// # Errors
    /// The error of clap, which prints its own message and determines the exit code.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, clap::Error> {
        let matches = Self::manual().try_get_matches_from(arguments)?;
        match matches.subcommand() {
            Some(_) => Manual::from_arg_matches(&matches).map(Action::Write),
            None => Self::from_arg_matches(&matches).map(|cli| Action::Work(Box::new(cli))),
        }
    }

    /// The command line for `--help`, completions and manual pages.
    pub fn manual() -> clap::Command {
        let about_itself = Manual::augment_subcommands(clap::Command::default());
        Self::command()
            .mut_args(with_variable)
            .subcommands(about_itself.get_subcommands().cloned())
            .args_conflicts_with_subcommands(true)
            // If a flag is given twice, the last one takes effect, as in other tools.
            .args_override_self(true)
            .subcommand_negates_reqs(true)
    }
}

/// How one worker works, in the worker program and in single-host mode.
#[derive(Debug, Clone, Args)]
pub struct SlotArgs {
    /// Parallel downloads, each over a connection of its own
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=u64::from(MAX_SLOTS)))]
    pub workers: usize,
    /// Name of this worker in logs and counts [default: the host's name]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,
}

impl SlotArgs {
    /// The given name, or the host's.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(host_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["worker"].iter().chain(arguments))
    }

    #[test]
    fn the_coordinators_address_is_required() {
        assert!(cli(&[]).is_err());
        let cli = cli(&["--connect", "http://127.0.0.1:50051"]).unwrap();
        assert_eq!((cli.slots.workers, cli.target), (10, PathBuf::from(".")));
        assert!(!cli.slots.name().is_empty());
    }

    #[test]
    fn the_help_shows_no_value_of_the_environment() {
        let manual = Cli::manual();
        let with_variable = manual.get_arguments().filter(|arg| arg.get_env().is_some());
        let hidden: Vec<bool> = with_variable
            .map(clap::Arg::is_hide_env_values_set)
            .collect();
        assert!(hidden.len() > 5 && hidden.iter().all(|hidden| *hidden));
    }

    #[test]
    fn the_last_of_a_repeated_flag_takes_effect() {
        let words = [
            "worker",
            "--connect",
            "http://h:1",
            "--workers",
            "3",
            "--workers",
            "8",
            "--connect",
            "http://h:2",
        ];
        let Action::Work(cli) = Cli::read(words.map(OsString::from)).unwrap() else {
            panic!("it is to work")
        };
        assert_eq!(
            (
                cli.slots.workers,
                cli.coordinator.connect.map(|connect| connect.to_string())
            ),
            (8, Some("http://h:2".to_owned()))
        );
    }

    #[test]
    fn invalid_values_are_refused() {
        for wrong in [
            ["--connect", "127.0.0.1:50051"],
            ["--connect", "ftp://h"],
            ["--workers", "0"],
            ["--workers", "1001"],
            ["--name", "../up"],
            ["--name", ""],
        ] {
            assert!(
                cli(&["--connect", "http://h:1", wrong[0], wrong[1]]).is_err(),
                "{wrong:?}"
            );
        }
    }
}

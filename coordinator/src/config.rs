//! The command line: flags, their environment variables and their help texts.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};
use shared::protocol::{DEFAULT_PORT, DEFAULT_URL, MAX_LEASE_TTL, MIN_LEASE_TTL};
use shared::worker_name::parse_name;
use shared::{
    exit_code,
    flag::with_variable,
    http::{HostName, parse_address},
    job::{Durability, Existing},
    output_args::OutputArgs,
};
use worker::config::SlotArgs;

mod called_as;
mod command;
mod credentials;
pub(crate) mod init;
mod plan;
mod rate;

pub use called_as::CalledAs;
pub use command::{
    Command, CoordinatorArgs, DemoOriginArgs, DrainArgs, RetryArgs, StatusArgs, VerifyArgs,
};
pub use credentials::{AuthConfig, Exposure};
pub use init::InitArgs;
pub use plan::{ClassSource, ConfigError, Plan, SingleHost};

/// Where workers find the coordinator unless `--listen` says something else.
pub const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT);
/// Where health and metrics are unless `--http` says something else.
pub const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// The longest duration that a flag accepts; no clock overflows.
const LONGEST: Duration = Duration::from_hours(24);

const _: () = assert!(
    LONGEST.as_millis() <= MAX_LEASE_TTL.as_millis(),
    "workers keep to each time to live"
);

/// Downloads ImageNet classes: hands the classes of a CSV to workers, counts, and names what
/// failed.
///
/// Each class is downloaded once, unpacked while it arrives, and appears under its final name only
/// when it is complete. The same command resumes after an interruption; after a finished run it
/// skips what is there and retries what failed.
#[derive(Debug, Parser)]
#[command(name = "coordinator", version = crate::version::VERSION, args_conflicts_with_subcommands = true)]
pub struct Config {
    /// The name under which the program was called.
    #[arg(skip)]
    pub called_as: CalledAs,
    /// What to do instead of a job.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to download.
    #[command(flatten)]
    pub origin: OriginConfig,
    /// Where it goes.
    #[command(flatten)]
    pub target: TargetConfig,
    /// Who downloads, on this machine.
    #[command(flatten)]
    pub single_host: SingleHostConfig,
    /// Who downloads, on many machines.
    #[command(flatten)]
    pub fleet: FleetConfig,
    /// Who may join.
    #[command(flatten)]
    pub auth: AuthConfig,
    /// Who may look.
    #[command(flatten)]
    pub endpoint: EndpointConfig,
    /// What it writes beside its results.
    #[command(flatten, next_help_heading = "What it writes")]
    pub output: OutputArgs,
}

/// What to download.
#[derive(Debug, Args)]
#[command(next_help_heading = "What to download")]
pub struct OriginConfig {
    /// CSV file with a `wnid` column; other columns are ignored
    #[arg(long, value_name = "FILE", default_value = "data.csv")]
    pub fname: PathBuf,
    /// Where the tars are: a base URL, to which `/<wnid>.tar` is added, or a template that holds `{wnid}`
    #[arg(long, value_name = "URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// Give up on a class after N retries in a row that received no data
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub retries: u32,
    /// A download that brings no byte for this long is tried again, e.g. 120s or 2m
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = positive)]
    pub timeout: Duration,
    /// Upper limit for the connections of all workers together. Starts at N and is lowered when
    /// connections break. Without it the limit starts low and is raised while the server copes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: Option<u32>,
    /// Upper limit for the bytes a second of all workers together, e.g. 10MiB/s
    #[arg(long, value_name = "BYTES/s", value_parser = rate::parse)]
    pub max_rate: Option<u64>,
    /// Only retry the classes that failed in the last run, and those that a worker that has joined
    /// does not have any more
    #[arg(long)]
    pub retry_failed: bool,
    /// Say what the job would do, and do nothing: how many classes are complete, the bytes to
    /// download (estimated: the origin is asked for the lengths of at most 40 classes) and the free
    /// space
    #[arg(long, conflicts_with = "retry_failed")]
    pub dry_run: bool,
    /// Extra certificate authorities for the origin, PEM
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Extra request headers for the origin (cookies, tokens), one `Name: value` a line; never
    /// logged
    #[arg(long, value_name = "FILE")]
    pub header_file: Option<PathBuf>,
}

/// Where it goes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Where it goes")]
pub struct TargetConfig {
    /// Folder for the logs and, with --dev, for the images [default: the current directory; with
    /// --demo ./imagenet-demo]
    #[arg(long, value_name = "DIR")]
    pub target: Option<PathBuf>,
    /// With --dev: folder in which classes are put together until they are complete, on the
    /// target's file system [default: beside the target]
    #[arg(long, value_name = "DIR")]
    pub staging: Option<PathBuf>,
    /// Write no tars, only the class folders, and remove those that an earlier run of this program
    /// kept; other tars in the target are used and stay
    #[arg(long)]
    pub delete_tar: bool,
    /// What becomes of a class folder that this program did not write. One that it wrote is fetched
    /// again if names, number or sizes of its files differ from its manifest
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub existing: Existing,
    /// What a finished class survives
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub durability: Durability,
}

/// Who downloads, on this machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "On one machine")]
pub struct SingleHostConfig {
    /// Download in this process; no worker needs to be started
    #[arg(long)]
    pub dev: bool,
    /// Show how it works with a little origin of its own, whose faults are part of the show;
    /// implies --dev, needs no CSV
    #[arg(long)]
    pub demo: bool,
    /// How its worker works.
    #[command(flatten)]
    pub slots: SlotArgs,
}

/// Who downloads, on many machines.
#[derive(Debug, Args)]
#[command(next_help_heading = "On many machines")]
pub struct FleetConfig {
    /// Where workers connect to, over gRPC [default: 127.0.0.1:50051; with --dev nothing listens
    /// unless this is given]
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub listen: Option<SocketAddr>,
    /// File that keeps what is settled, for a coordinator that is started again [default:
    /// `.imagenet_downloader.ledger` in the target]
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Classes of a worker that is silent for this long (and 10s more) go to another one
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = lease_ttl)]
    pub lease_ttl: Duration,
    /// Wait up to 10 minutes for this worker before other workers download the classes that it has
    /// from the last run; other classes are not held up. For workers with a folder each; give
    /// several separated by commas, or repeat the flag
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = parse_name)]
    pub expect: Vec<String>,
    /// Keep running after the job is done; a restart with the same list does not start over. For
    /// systemd and Kubernetes
    #[arg(long)]
    pub stay: bool,
}

/// Who may look.
#[derive(Debug, Args)]
#[command(next_help_heading = "Seen from outside")]
pub struct EndpointConfig {
    /// Where the page of the job, /metrics, /healthz and /readyz are; port 0 takes a free one. The
    /// page shows itself only to this machine, unless --http-tls is given [default: 127.0.0.1:8080;
    /// with --dev a free port if that is busy]
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub http: Option<SocketAddr>,
    /// Serve the port of --http over TLS, with the certificate of --tls-cert. Other machines then
    /// see the page with the token of a viewer or an admin from --token-file
    #[arg(long, requires = "tls_cert")]
    pub http_tls: bool,
    /// Host name under which a reverse proxy on this machine passes the page on; the page then
    /// always needs a token of --token-file. Give several separated by commas, or repeat the flag
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        requires = "token_file"
    )]
    pub http_host: Vec<HostName>,
}

impl Config {
    /// Reads a command line and the environment. `Err` also stands for `--help` and `--version`;
    /// clap distinguishes them. Under the name `imagenet-downloader` a job runs in single-host
    /// mode.
    ///
    /// # Errors
    /// clap's error, which prints itself and has its own exit code.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut arguments = arguments.into_iter().peekable();
        let called_as = CalledAs::of(arguments.peek().map(OsString::as_os_str));
        let matches = Self::manual(called_as).try_get_matches_from(arguments)?;
        let mut config = Self::from_arg_matches(&matches)?;
        config.called_as = called_as;
        config.single_host.dev |= called_as == CalledAs::ImagenetDownloader;
        Ok(config)
    }

    /// The complete command line for `--help`, completions and manual pages.
    pub fn manual(called_as: CalledAs) -> clap::Command {
        let examples = called_as.examples();
        called_as
            .describe(Self::command())
            .after_help(format!("{examples}\n\n{}", exit_code::HELP))
            // If a flag is given twice the last one applies, as in other tools.
            .args_override_self(true)
            .mut_args(with_variable)
            .mut_subcommands(|command| command.mut_args(with_variable))
    }
}

/// Parses a duration above zero and of at most a day.
fn positive(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match duration {
        Duration::ZERO => Err("it must be longer than nothing, e.g. 120s".to_owned()),
        _ if duration > LONGEST => Err("the longest is one day, 24h".to_owned()),
        _ => Ok(duration),
    }
}

fn lease_ttl(text: &str) -> Result<Duration, String> {
    let duration = positive(text)?;
    if duration < MIN_LEASE_TTL {
        let shortest = humantime::format_duration(MIN_LEASE_TTL);
        return Err(format!(
            "the shortest is {shortest}: leases are renewed every third of it, over the network"
        ));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_shows_no_value_of_the_environment() {
        let manual = Config::manual(CalledAs::default());
        let commands = std::iter::once(&manual).chain(manual.get_subcommands());
        let hidden: Vec<bool> = commands
            .flat_map(clap::Command::get_arguments)
            .filter(|argument| argument.get_env().is_some())
            .map(clap::Arg::is_hide_env_values_set)
            .collect();
        assert!(hidden.len() > 20 && hidden.iter().all(|hidden| *hidden));
    }
}

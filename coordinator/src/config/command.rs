//! The program's commands other than running a job, with their flags and help.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use shared::{
    Wnid,
    connect::{ConnectArgs, NoSocket, find_socket},
    http::parse_address,
    manual::Manual,
};

use super::init::InitArgs;
use super::positive;

// A manual page keeps lines that begin with a space, up to 71 columns, and re-wraps all others.
const VERIFY_HELP: &str = "\
One line for each file that differs, one for each folder that is not
proved, and the totals:

    n02124075/n02124075_1.JPEG has other content than the manifest says
    n02124076 is not proved: it has no manifest
    3 classes: 1 right, 1 different, 1 not proved; 1300 files,
      143MB compared

With --json each line is an object:

    class, file (null where the folder is meant), text
    difference: manifest, missing, no_file, size, content,
      not_listed, unreadable or not_proved
    The last line holds the totals: classes, right, different,
      not_proved, files, bytes

Exit codes:
    0  nothing differs (with --strict: and every folder is proved)
    1  something differs; it is named
    2  could not run: no such folder, or no class in it
  130  interrupted (SIGINT), 143 terminated (SIGTERM)";

const STATUS_HELP: &str = "\
With --json it is one object (with --watch one a line):

    run_id, epoch (counts the starts of the coordinator)
    phase: running, recovering, waiting_for_workers, origin_paused,
      stopping or done
    total, success, skipped, failed, leased, pending (classes),
      received_bytes, done
    time_left_ms (an estimate; null while it is not known or no
      bytes come)
    origin, all workers together: connections, limit, wanted
      (connections), quiet_ms (no requests), bytes_per_second,
      requests, cuts, refusals (429 and 503), overloads
    workers, each with: name, state (active, draining,
      quarantined, silent or lost), slots, leased, success,
      skipped, failed, received_bytes, silent_ms (since it was
      heard of), storage_id, build, since_at_ms (of the state, Unix
      time), bytes_per_second, disk_free (null if unknown),
      waits_for (why it sends no more requests; null if nothing
      keeps it), host (empty if unknown)

With --classes an object for each class follows, one a line:

    state (leased or failed), wnid, worker (null if unknown)
    of a leased one: bytes, length (null if unknown)
    of a failed one: kind, message

Exit codes:
    0  told, however the job stands
    2  the coordinator does not answer (with --watch: at the first
       look), or does not let this program in
  130  interrupted (SIGINT), 143 terminated (SIGTERM)";

const EXIT_CODES: &str = "\
Exit codes:
    0  the coordinator will do it
    2  it does not answer, does not let this program in, or cannot
       do it
  130  interrupted (SIGINT), 143 terminated (SIGTERM)";

/// Help of `--connect` for commands that have a default for it.
const CONNECT: &str = "Address of the coordinator: `http://127.0.0.1:50051`, or `https://host:50051` where it has a \
                       certificate [default: the coordinator that works in --target on this machine; if none does, \
                       http://127.0.0.1:50051]";

/// The program's commands other than running a job.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the certificates and tokens of a cluster of several machines, and say what to do with
    /// them
    Init(InitArgs),
    /// Tell how far the job is, and what each worker does
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Try failed classes of a running job again
    ///
    /// They are pending again, as if they had not been tried. A job that has ended is tried again
    /// with `coordinator --retry-failed`.
    #[command(after_help = EXIT_CODES)]
    Retry(RetryArgs),
    /// Tell a worker to finish what it holds, and to end
    ///
    /// It takes nothing new, and its program ends with exit code 0 when it has delivered what it
    /// holds. The others go on. A restart of the coordinator does not change that. A worker that is
    /// started again under the name takes classes.
    #[command(after_help = EXIT_CODES)]
    Drain(DrainArgs),
    /// Ask the origin again now, although it has asked to wait
    ///
    /// Ends the waits that it has asked for with `Retry-After`, for all workers. If it refuses
    /// again, they wait again. A wait also ends when the worker that was asked to wait leaves,
    /// unless another one was asked too.
    #[command(after_help = EXIT_CODES)]
    Resume(CoordinatorArgs),
    /// Check that every file of every class is still what was downloaded
    ///
    /// Compares each class folder with the manifest in it: which files there are, their sizes and
    /// their BLAKE3 digests. Only reads, sends no request, and may run beside a job. Tars and dot files
    /// are not looked at.
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),
    /// Serve the classes of --demo to other programs, until it is stopped
    ///
    /// The little origin of --demo without the rest, to see a coordinator and workers at work as
    /// they are on several machines, its faults included: one class is missing, one first answers
    /// 503, one breaks off. Plain HTTP; it reads nothing and keeps nothing.
    DemoOrigin(DemoOriginArgs),
    #[command(flatten)]
    #[expect(missing_docs, reason = "its variants say it")]
    Manual(Manual),
}

/// How a command reaches the coordinator.
#[derive(Debug, Clone, Args)]
#[command(mut_arg("connect", |connect| connect.required(false).help(CONNECT)))]
pub struct CoordinatorArgs {
    /// The coordinator's address over TCP.
    #[command(flatten)]
    pub address: ConnectArgs,
    /// The coordinator's target folder. A coordinator of this user is found there without an
    /// address and a token, with --dev too
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub target: PathBuf,
}

impl CoordinatorArgs {
    /// The socket of the coordinator in the target; `None` if an address was given.
    pub(crate) fn socket(&self) -> Option<Result<PathBuf, NoSocket>> {
        self.address
            .connect
            .is_none()
            .then(|| find_socket(&self.target))
    }

    /// Warnings to print before anything is sent. The socket needs none.
    pub(crate) fn warnings(&self) -> Vec<String> {
        if let Some(Ok(_)) = self.socket() {
            Vec::new()
        } else {
            self.address.warnings()
        }
    }
}

/// Arguments of `coordinator status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// How it reaches the coordinator.
    #[command(flatten)]
    pub coordinator: CoordinatorArgs,
    /// For programs: one JSON object
    #[arg(long)]
    pub json: bool,
    /// Also list the classes: what each worker is on, and what has failed and why
    #[arg(long, conflicts_with = "watch")]
    pub classes: bool,
    /// Tell it again every two seconds until the job is done; if the coordinator is started again,
    /// wait for it and go on
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `coordinator retry`.
#[derive(Debug, Clone, Args)]
pub struct RetryArgs {
    /// How it reaches the coordinator.
    #[command(flatten)]
    pub coordinator: CoordinatorArgs,
    /// Which of the failed classes, e.g. `n02124075` [default: all of them]
    #[arg(value_name = "WNID")]
    pub wnids: Vec<Wnid>,
}

/// Arguments of `coordinator drain`.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    /// How it reaches the coordinator.
    #[command(flatten)]
    pub coordinator: CoordinatorArgs,
    /// Which worker; `coordinator status` lists them
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
}

/// Arguments of `coordinator verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// Folder with the class folders
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub target: PathBuf,
    /// A folder without a manifest is a failure, too (made by hand or by another tool; a job gives
    /// it one once it is proved)
    #[arg(long)]
    pub strict: bool,
    /// Mark the classes that differ, so that the next job downloads them again. Until then their
    /// files stay as they are
    #[arg(long)]
    pub repair: bool,
    /// For programs: one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `coordinator demo-origin`.
#[derive(Debug, Clone, Args)]
pub struct DemoOriginArgs {
    /// Where it answers; port 0 takes a free one
    #[arg(long, value_name = "ADDR", value_parser = parse_address, default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// How long a class takes over one connection
    #[arg(long, value_name = "TIME", default_value = "1500ms", value_parser = positive)]
    pub class_takes: Duration,
}

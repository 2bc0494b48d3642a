//! The coordinator under load: a process of the real program, its files, and what `/proc` says of it.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::{fdatasync, statfs},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tempfile::TempDir;
use tests::memory::{self, Memory};
use tokio::time::Instant;

use crate::{
    dial::{Dial, Tls},
    options::Options,
    worker::Trouble,
};

/// `f_type` of a tmpfs, see statfs(2).
const MEMORY_FILE_SYSTEM: i64 = 0x0102_1994;
/// The folder of `coordinator init`.
const TRUST: &str = "trust";
/// Passes on the limit of open files that this program found, whatever it has raised its own to.
const WITH_LIMIT: &str = r#"ulimit -Sn "$0" && exec "$@""#;

/// Where everything lies, and how the program is started. Removed when dropped.
pub(crate) struct Site {
    folder: TempDir,
    program: PathBuf,
    core: Option<u32>,
    /// Open files, as found.
    descriptors: Option<u64>,
    tls: Option<Tls>,
}

/// A coordinator that runs; killed when dropped.
pub(crate) struct Coordinator {
    child: Child,
    /// How its clients reach it.
    pub(crate) dial: Dial,
    /// Just before it was started.
    pub(crate) started: Instant,
    log: PathBuf,
}

impl Site {
    /// Makes the folder, finds the program, and takes as many descriptors as the system gives.
    pub(crate) fn prepare(options: &Options) -> Result<Self, Trouble> {
        let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::Builder::new().prefix("coordinator-load-").tempdir_in(parent)?;
        let beside = std::env::current_exe()?.with_file_name("coordinator");
        let program = options.coordinator.clone().unwrap_or(beside);
        if !program.is_file() {
            let message = format!("find {}; build it: cargo build --release -p coordinator", program.display());
            return Err(Trouble::Setting(message));
        }
        let found = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: found.maximum, maximum: found.maximum })
            .map_err(std::io::Error::from)?;
        let tls = if options.tls { Some(init(&program, &folder.path().join(TRUST))?) } else { None };
        Ok(Self { folder, program, core: options.coordinator_core, descriptors: found.current, tls })
    }

    /// The machine, in one line.
    pub(crate) fn describe(&self, options: &Options) -> Result<String, Trouble> {
        let cores = std::thread::available_parallelism()?;
        let kind = statfs(self.folder.path()).map_err(std::io::Error::from)?.f_type;
        let memory =
            if kind == MEMORY_FILE_SYSTEM { ", which is memory and no disk: commits cost nothing" } else { "" };
        let pinned = self.core.map(|core| format!(", coordinator on core {core}")).unwrap_or_default();
        let (path, syncs) = (self.folder.path().display(), self.syncs_in_a_second()?);
        let classes = options.classes;
        Ok(format!("{classes} classes, {cores} cores{pinned}, {syncs} fdatasync/s in {path}{memory}"))
    }

    /// What a commit costs here at the least.
    fn syncs_in_a_second(&self) -> Result<u32, Trouble> {
        let path = self.folder.path().join("syncs");
        let mut file = File::create(&path)?;
        let (mut syncs, end) = (0, Instant::now() + Duration::from_secs(1));
        while Instant::now() < end {
            file.write_all(&[0; 4096])?;
            fdatasync(&file).map_err(std::io::Error::from)?;
            syncs += 1;
        }
        fs::remove_file(path)?;
        Ok(syncs)
    }

    /// Writes a list of the classes from n00000001 on.
    pub(crate) fn write_list(&self, name: &str, classes: u32) -> Result<(), Trouble> {
        let mut list = BufWriter::new(File::create(self.folder.path().join(name))?);
        writeln!(list, "wnid")?;
        for number in 1..=classes {
            writeln!(list, "n{number:08}")?;
        }
        Ok(list.flush()?)
    }

    /// Starts the program on a list, with that list's own ledger, at a free address or again at the one it had.
    pub(crate) fn start(&self, list: &str, address: Option<SocketAddr>) -> Result<Coordinator, Trouble> {
        let address = match address {
            Some(address) => address,
            None => TcpListener::bind("127.0.0.1:0")?.local_addr()?,
        };
        let target = self.folder.path().join(format!("{list}.target"));
        fs::create_dir_all(&target)?;
        let log = target.join("stderr");
        let stderr = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new("sh");
        let limit = self.descriptors.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        command.args(["-c", WITH_LIMIT, &limit]);
        if let Some(core) = self.core {
            command.args(["taskset", "-c", &core.to_string()]);
        }
        command.arg(&self.program).arg("--fname").arg(self.folder.path().join(list)).arg("--target").arg(&target);
        // Nobody downloads anything, so nobody asks this origin.
        command.args(["--url", "http://127.0.0.1:9", "--listen", &address.to_string()]);
        if self.tls.is_some() {
            for (flag, file) in [("--tls-cert", "server.pem"), ("--tls-key", "server.key"), ("--token-file", "tokens")]
            {
                command.arg(flag).arg(self.trusted(file));
            }
        }
        command.env("IMAGENET_HTTP", "127.0.0.1:0");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let started = Instant::now();
        let dial = Dial::new(address, self.tls.clone());
        Ok(Coordinator { child: command.spawn()?, dial, started, log })
    }

    /// The certificate of the authority that `coordinator init` made.
    pub(crate) fn authority(&self) -> PathBuf {
        self.trusted("ca.pem")
    }

    /// Makes the command of a person who looks on.
    pub(crate) fn status(&self, dial: &Dial) -> impl Fn() -> Command + Send + use<> {
        let program = self.program.clone();
        let token = self.trusted("viewer.token");
        let connect = format!("https://{}", dial.address);
        move || {
            let mut command = Command::new(&program);
            command.args(["status", "--connect", &connect, "--token-file"]).arg(&token);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command
        }
    }

    fn trusted(&self, file: &str) -> PathBuf {
        self.folder.path().join(TRUST).join(file)
    }

    /// Size of the files of a list's ledger and logs.
    pub(crate) fn files(&self, list: &str) -> Result<String, Trouble> {
        let mut sizes = Vec::new();
        for entry in self.folder.path().join(format!("{list}.target")).read_dir()? {
            let (entry, size) = entry.and_then(|entry| Ok((entry.file_name(), entry.metadata()?.len())))?;
            if size >= 1 << 20 {
                sizes.push(format!("{} {}", entry.display(), crate::figures::mebibytes(size)));
            }
        }
        sizes.sort();
        Ok(sizes.join(", "))
    }
}

/// Lets `coordinator init` make certificates and tokens in this folder.
fn init(program: &Path, folder: &Path) -> Result<Tls, Trouble> {
    let mut command = Command::new(program);
    command.args(["init", "--advertise", "127.0.0.1", "--dir"]).arg(folder).stdout(Stdio::null());
    let status = command.status()?;
    if !status.success() {
        return Err(Trouble::Setting(format!("run `coordinator init`: {status}")));
    }
    Tls::read(folder)
}

impl Coordinator {
    /// Its number in the list of processes.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all its threads.
    pub(crate) fn cpu(&self) -> Result<Duration, Trouble> {
        let stat = self.proc("stat")?;
        // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field behind it.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
    }

    pub(crate) fn memory(&self) -> Result<Memory, Trouble> {
        Ok(memory::of(self.child.id())?)
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // It may be gone already, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// An error with its last words if it has ended.
    pub(crate) fn still_runs(&mut self) -> Result<(), Trouble> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(Trouble::Setting(format!("run the coordinator: {status}\n{}", read(&self.log)))),
        }
    }

    fn proc(&self, file: &str) -> Result<String, Trouble> {
        Ok(fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?)
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

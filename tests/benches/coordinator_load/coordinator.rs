//! The coordinator under load: a process of the real program, its files, and its `/proc` values.

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
    renewals,
    worker::LoadError,
};

/// `f_type` of a tmpfs, see statfs(2).
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// Name of the folder that `coordinator init` fills.
const AUTH_FOLDER: &str = "trust";
/// Runs the coordinator with the limit on open files that this program inherited: this program
/// raises its own.
const WITH_LIMIT: &str = r#"ulimit -Sn "$0" && exec "$@""#;

/// The folder of all files and how to start the program. The folder is removed when dropped.
pub(crate) struct Environment {
    folder: TempDir,
    program: PathBuf,
    core: Option<u32>,
    /// `--max-connections` of the coordinator.
    max_connections: Option<u32>,
    /// The inherited soft limit on open files.
    descriptors: Option<u64>,
    tls: Option<Tls>,
}

/// A running coordinator; killed when dropped.
pub(crate) struct Coordinator {
    child: Child,
    /// How clients connect to it.
    pub(crate) dial: Dial,
    /// Its HTTP port.
    pub(crate) http: SocketAddr,
    /// Just before the start.
    pub(crate) started: Instant,
    log: PathBuf,
}

impl Environment {
    /// Creates the folder, finds the program, and raises the limit on open files as far as
    /// possible.
    pub(crate) fn prepare(options: &Options) -> Result<Self, LoadError> {
        let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::Builder::new()
            .prefix("coordinator-load-")
            .tempdir_in(parent)?;
        let beside = std::env::current_exe()?.with_file_name("coordinator");
        let program = options.coordinator.clone().unwrap_or(beside);
        if !program.is_file() {
            let message = format!(
                "find {}; build it: cargo build --release -p coordinator",
                program.display()
            );
            return Err(LoadError::Benchmark(message));
        }
        let found = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: found.maximum,
                maximum: found.maximum,
            },
        )
        .map_err(std::io::Error::from)?;
        let tls = if options.tls {
            Some(init(&program, &folder.path().join(AUTH_FOLDER))?)
        } else {
            None
        };
        Ok(Self {
            folder,
            program,
            core: options.coordinator_core,
            // All transfers go on at once; without the option the coordinator begins with one.
            max_connections: (options.viewers > 0).then_some(options.workers * renewals::HELD),
            descriptors: found.current,
            tls,
        })
    }

    /// Describes the machine in one line.
    pub(crate) fn describe(&self, options: &Options) -> Result<String, LoadError> {
        let cores = std::thread::available_parallelism()?;
        let kind = statfs(self.folder.path())
            .map_err(std::io::Error::from)?
            .f_type;
        let memory = if kind == TMPFS_MAGIC {
            ", which is memory and no disk: commits cost nothing"
        } else {
            ""
        };
        let pinned = self
            .core
            .map(|core| format!(", coordinator on core {core}"))
            .unwrap_or_default();
        let path = self.folder.path().display();
        let syncs = self.syncs_per_second()?;
        let classes = options.classes;
        Ok(format!(
            "{classes} classes, {cores} cores{pinned}, {syncs} fdatasync/s in {path}{memory}"
        ))
    }

    /// Measures the lower bound of a commit's cost on this disk.
    fn syncs_per_second(&self) -> Result<u32, LoadError> {
        let path = self.folder.path().join("syncs");
        let mut file = File::create(&path)?;
        let mut syncs = 0;
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            file.write_all(&[0; 4096])?;
            fdatasync(&file).map_err(std::io::Error::from)?;
            syncs += 1;
        }
        fs::remove_file(path)?;
        Ok(syncs)
    }

    /// Writes a list of the classes from n00000001 on.
    pub(crate) fn write_list(&self, name: &str, classes: u32) -> Result<(), LoadError> {
        let mut list = BufWriter::new(File::create(self.folder.path().join(name))?);
        writeln!(list, "wnid")?;
        for number in 1..=classes {
            writeln!(list, "n{number:08}")?;
        }
        Ok(list.flush()?)
    }

    /// Starts the program with a list and that list's own ledger, at a free address or at a given
    /// one.
    pub(crate) fn start(
        &self,
        list: &str,
        address: Option<SocketAddr>,
    ) -> Result<Coordinator, LoadError> {
        // Both ports are chosen together, so they differ.
        let ports = [free_port()?, free_port()?];
        let address = match address {
            Some(address) => address,
            None => ports[0].local_addr()?,
        };
        let http = ports[1].local_addr()?;
        drop(ports);
        let target = self.folder.path().join(format!("{list}.target"));
        fs::create_dir_all(&target)?;
        let log = target.join("stderr");
        let stderr = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new("sh");
        let limit = self
            .descriptors
            .map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        command.args(["-c", WITH_LIMIT, &limit]);
        if let Some(core) = self.core {
            command.args(["taskset", "-c", &core.to_string()]);
        }
        command
            .arg(&self.program)
            .arg("--fname")
            .arg(self.folder.path().join(list))
            .arg("--target")
            .arg(&target);
        // No worker downloads, so this origin gets no requests.
        command.args([
            "--url",
            "http://127.0.0.1:9",
            "--listen",
            &address.to_string(),
        ]);
        if self.tls.is_some() {
            for (flag, file) in [
                ("--tls-cert", "server.pem"),
                ("--tls-key", "server.key"),
                ("--token-file", "tokens"),
            ] {
                command.arg(flag).arg(self.auth_file(file));
            }
        }
        command.env("IMAGENET_HTTP", http.to_string());
        if let Some(connections) = self.max_connections {
            command.env("IMAGENET_MAX_CONNECTIONS", connections.to_string());
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        let started = Instant::now();
        let dial = Dial::new(address, self.tls.clone());
        Ok(Coordinator {
            child: command.spawn()?,
            dial,
            http,
            started,
            log,
        })
    }

    /// The CA certificate that `coordinator init` created.
    pub(crate) fn authority(&self) -> PathBuf {
        self.auth_file("ca.pem")
    }

    /// Builds the command `coordinator status`.
    pub(crate) fn status(&self, dial: &Dial) -> impl Fn() -> Command + Send + use<> {
        let program = self.program.clone();
        let token = self.auth_file("viewer.token");
        let connect = format!("https://{}", dial.address);
        move || {
            let mut command = Command::new(&program);
            command
                .args(["status", "--connect", &connect, "--token-file"])
                .arg(&token);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command
        }
    }

    fn auth_file(&self, file: &str) -> PathBuf {
        self.folder.path().join(AUTH_FOLDER).join(file)
    }

    /// Sizes of a list's ledger and logs.
    pub(crate) fn files(&self, list: &str) -> Result<String, LoadError> {
        let mut sizes = Vec::new();
        for entry in self
            .folder
            .path()
            .join(format!("{list}.target"))
            .read_dir()?
        {
            let (entry, size) =
                entry.and_then(|entry| Ok((entry.file_name(), entry.metadata()?.len())))?;
            if size >= 1 << 20 {
                sizes.push(format!(
                    "{} {}",
                    entry.display(),
                    crate::figures::mebibytes(size)
                ));
            }
        }
        sizes.sort();
        Ok(sizes.join(", "))
    }
}

fn free_port() -> Result<TcpListener, LoadError> {
    Ok(TcpListener::bind("127.0.0.1:0")?)
}

/// Runs `coordinator init` in this folder.
fn init(program: &Path, folder: &Path) -> Result<Tls, LoadError> {
    let mut command = Command::new(program);
    command
        .args(["init", "--advertise", "127.0.0.1", "--dir"])
        .arg(folder)
        .stdout(Stdio::null());
    let status = command.status()?;
    if !status.success() {
        return Err(LoadError::Benchmark(format!(
            "run `coordinator init`: {status}"
        )));
    }
    Tls::read(folder)
}

impl Coordinator {
    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all its threads.
    pub(crate) fn cpu(&self) -> Result<Duration, LoadError> {
        let stat = self.proc("stat")?;
        // The name, in parentheses, may contain any character; utime and stime are the 12th and
        // 13th field after it.
        let fields = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace();
        let ticks: u64 = fields
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(Duration::from_millis(
            ticks * 1000 / rustix::param::clock_ticks_per_second(),
        ))
    }

    pub(crate) fn memory(&self) -> Result<Memory, LoadError> {
        Ok(memory::of(self.child.id())?)
    }

    /// Sends SIGKILL and waits for the end.
    pub(crate) fn kill(&mut self) {
        // An error means that the process has already ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// An error with the end of its log if it has ended.
    pub(crate) fn check_running(&mut self) -> Result<(), LoadError> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(LoadError::Benchmark(format!(
                "run the coordinator: {status}\n{}",
                read(&self.log)
            ))),
        }
    }

    fn proc(&self, file: &str) -> Result<String, LoadError> {
        Ok(fs::read_to_string(format!(
            "/proc/{}/{file}",
            self.child.id()
        ))?)
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

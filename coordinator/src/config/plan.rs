//! [`Plan`]: the configuration as checked types. Later code does not check it again.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use shared::{
    http::{self, HostName},
    job::{InvalidUrl, JobOptions, UrlTemplate},
    origin_files::{self, OriginFileError},
    private_file::{WritableByOthers, readable_warning},
    tls::TlsError,
};

use super::{Config, DEFAULT_HTTP, DEFAULT_LISTEN, Exposure};
use crate::{auth::ServerCredentials, concurrency::Ceilings};

/// Default of `--target` with `--demo`.
const DEMO_TARGET: &str = "imagenet-demo";
/// The ledger's name in the target.
const LEDGER: &str = ".imagenet_downloader.ledger";

/// The checked configuration.
#[derive(Debug)]
pub struct Plan {
    /// The source of the class list.
    pub source: ClassSource,
    /// `--retry-failed`: the job retries the classes that failed in the last run, and those that
    /// their worker no longer has.
    pub retry_failed: bool,
    /// The folder for the ledger, the logs and, in single-host mode, the images.
    pub target: PathBuf,
    /// The file that keeps settled classes across restarts.
    pub ledger: PathBuf,
    /// The options that workers receive. The run id comes from the ledger. The demo replaces the
    /// URL.
    pub job: JobOptions,
    /// Upper limits on connections and bytes per second, for all workers together.
    pub ceilings: Ceilings,
    /// The address that workers connect to, if the coordinator listens.
    pub listen: Option<SocketAddr>,
    /// The credentials that workers of other processes must match.
    pub credentials: Arc<ServerCredentials>,
    /// Which programs can connect to `listen`.
    pub exposure: Exposure,
    /// Warnings for the log once it is open: files with secrets that every user can read.
    pub warnings: Vec<String>,
    /// The address of the page, health and metrics.
    pub http: http::Address,
    /// `--http-tls`: that port has TLS.
    pub http_tls: bool,
    /// Names under which reverse proxies on this machine pass the page on.
    pub http_hosts: Vec<HostName>,
    /// A lease that is not renewed for this long goes to another worker.
    pub lease_ttl: Duration,
    /// Names of workers. The classes that such a worker has from the last run are granted to no
    /// other worker until it has joined, or until a time limit has passed.
    pub expect: Vec<String>,
    /// `--stay`: the process keeps running when the job is done. If it is started again, it
    /// continues the finished run and begins no new one.
    pub stay: bool,
    /// The worker in this process, in single-host mode.
    pub single_host: Option<SingleHost>,
}

/// Which classes to download.
#[derive(Debug, PartialEq, Eq)]
pub enum ClassSource {
    /// The classes of a CSV file.
    Csv(PathBuf),
    /// The classes of the demo origin in this process.
    Demo,
}

/// The settings of the worker in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SingleHost {
    /// Its name in logs.
    pub name: String,
    /// Parallel downloads (`--workers`).
    pub slots: usize,
    /// The staging folder; beside the target if it is not given.
    pub staging: Option<PathBuf>,
}

/// Why a configuration cannot be used. The messages follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The value is not a URL. The text may hold credentials and is not shown.
    #[error("use the value of --url: {0}")]
    Url(#[from] InvalidUrl),
    /// Plaintext is only allowed on this machine.
    #[error(
        "listen on {0} in plaintext: every host of the network could read and join; run `coordinator init --advertise \
         THIS_HOST` and give --tls-cert imagenet-trust/server.pem --tls-key imagenet-trust/server.key --token-file \
         imagenet-trust/tokens, or stay on this machine with --listen {DEFAULT_LISTEN}, or give --insecure if the network is \
         closed itself"
    )]
    Plaintext(SocketAddr),
    /// Encryption without authentication lets every program join.
    #[error(
        "listen on {0}: any program that reaches the port could join; give the tokens that `coordinator init` wrote with --token-file, or the \
         authority of the workers' certificates with --tls-client-ca"
    )]
    NoCredential(SocketAddr),
    /// Workers receive the secrets, and every user of this machine could start one.
    #[error(
        "listen on {0}: every user of this machine could connect and be told the secrets of --header-file and --url; run \
         `coordinator init{advertise}`, give the coordinator --tls-cert imagenet-trust/server.pem --tls-key imagenet-trust/server.key \
         --token-file imagenet-trust/tokens, and workers --connect https://{connect} --token-file imagenet-trust/worker.token, or \
         download with --dev, which listens on nothing, or give --insecure if this machine has no other users",
        advertise = advertised(.0.ip()), connect = connected(*.0)
    )]
    Secrets(SocketAddr),
    /// A file with secrets, or one that decides about authentication, is writable by other users.
    #[error(transparent)]
    Writable(#[from] WritableByOthers),
    /// A certificate, a key or the tokens cannot be used.
    #[error(transparent)]
    ServerCredentials(#[from] TlsError),
    /// A header or CA file cannot be used.
    #[error(transparent)]
    OriginFile(#[from] OriginFileError),
}

impl Config {
    /// Checks everything that can be checked without the target, and reads the files named by
    /// flags.
    ///
    /// # Errors
    /// [`ConfigError`]; its message names the flag and the remedy.
    pub fn plan(self) -> Result<Plan, ConfigError> {
        let Self {
            called_as: _,
            command: _,
            origin,
            target,
            single_host,
            fleet,
            auth,
            endpoint,
            output: _,
        } = self;
        let dev = single_host.dev || single_host.demo;
        let listen = fleet.listen.or((!dev).then_some(DEFAULT_LISTEN));
        let job = JobOptions {
            run_id: String::new(),
            url: UrlTemplate::parse(&origin.url)?,
            delete_tar: target.delete_tar,
            retries: origin.retries,
            timeout: origin.timeout,
            existing: target.existing,
            durability: target.durability,
            ca_pem: given(origin.cacert.as_deref(), |path| {
                origin_files::certificates("--cacert", path)
            })?,
            headers: given(origin.header_file.as_deref(), |path| {
                origin_files::headers("--header-file", path)
            })?,
        };
        let (files, exposure) = auth.check(listen, job.has_secrets())?;
        let secret_files = files.secret_paths().chain(&origin.header_file);
        let warnings = secret_files.filter_map(|path| readable_warning(path));
        let default_folder = if single_host.demo { DEMO_TARGET } else { "." };
        let folder = target.target.unwrap_or_else(|| default_folder.into());
        let slots = single_host.slots;
        Ok(Plan {
            source: if single_host.demo {
                ClassSource::Demo
            } else {
                ClassSource::Csv(origin.fname)
            },
            retry_failed: origin.retry_failed,
            ledger: fleet.ledger.unwrap_or_else(|| folder.join(LEDGER)),
            target: folder,
            job,
            ceilings: Ceilings {
                connections: origin.max_connections,
                bytes_per_second: origin.max_rate,
            },
            listen,
            credentials: Arc::new(files.open()?),
            exposure,
            warnings: warnings.collect(),
            http: http::Address {
                address: endpoint.http.unwrap_or(DEFAULT_HTTP),
                or_any_port: dev && endpoint.http.is_none(),
            },
            http_tls: endpoint.http_tls,
            http_hosts: endpoint.http_host,
            lease_ttl: fleet.lease_ttl,
            expect: fleet.expect,
            stay: fleet.stay,
            single_host: dev.then(|| SingleHost {
                name: slots.name(),
                slots: slots.workers,
                staging: target.staging,
            }),
        })
    }
}

/// The argument of `coordinator init` for an address. Without the argument its certificates are
/// valid for `127.0.0.1` and `::1`.
fn advertised(address: IpAddr) -> String {
    if address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST {
        return String::new();
    }
    format!(" --advertise {address}")
}

/// The address at which workers reach a coordinator that listens on `address`. For port 0 the
/// system chooses a port, which the coordinator prints.
fn connected(address: SocketAddr) -> String {
    let text = address.to_string();
    match text.strip_suffix(":0") {
        Some(host) => format!("{host}:PORT"),
        None => text,
    }
}

/// The result of `read` for the file of a flag; the default value if the flag is not given.
fn given<T: Default>(
    path: Option<&Path>,
    read: impl FnOnce(&Path) -> Result<T, OriginFileError>,
) -> Result<T, ConfigError> {
    path.map_or_else(|| Ok(T::default()), |path| Ok(read(path)?))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, fs::Permissions, os::unix::fs::PermissionsExt as _};

    use shared::job::{Durability, Existing};

    use super::*;
    use crate::config::Command;

    fn config(flags: &[&str]) -> Result<Config, String> {
        let arguments = ["coordinator"].iter().chain(flags).map(OsString::from);
        Config::read(arguments).map_err(|error| {
            error
                .to_string()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned()
        })
    }

    fn plan(flags: &[&str]) -> Result<Plan, String> {
        config(flags)?.plan().map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_promised_ones() {
        let plan = plan(&[]).unwrap();
        assert_eq!(plan.source, ClassSource::Csv("data.csv".into()));
        assert_eq!(plan.target, Path::new("."));
        assert_eq!(plan.listen, Some(DEFAULT_LISTEN));
        assert_eq!(
            plan.http,
            http::Address {
                address: DEFAULT_HTTP,
                or_any_port: false
            }
        );
        assert_eq!(
            (plan.lease_ttl, plan.single_host),
            (Duration::from_secs(30), None)
        );
        assert_eq!(plan.ceilings, Ceilings::default());
        let job = plan.job;
        assert_eq!(
            job.url.as_str(),
            "https://image-net.org/data/winter21_whole/{wnid}.tar"
        );
        assert_eq!(
            (job.delete_tar, job.retries, job.timeout),
            (false, 5, Duration::from_mins(2))
        );
        assert_eq!(
            (job.existing, job.durability),
            (Existing::Adopt, Durability::Power)
        );
    }

    #[test]
    fn under_the_name_of_the_python_package_a_job_is_single_host_and_commands_are_the_same() {
        let read = |flags: &[&str]| {
            let arguments = ["/venv/bin/imagenet-downloader"].iter().chain(flags);
            Config::read(arguments.map(OsString::from))
        };
        for flags in [&[][..], &["--dev"], &["--demo"]] {
            let plan = read(flags).unwrap().plan().unwrap();
            assert_eq!(plan.listen, None, "{flags:?}");
            assert_eq!(plan.single_host.unwrap().slots, 10, "{flags:?}");
        }
        let status = read(&["status", "--json"]).unwrap();
        assert!(matches!(status.command, Some(Command::Status(_))));
        let wrong = read(&["--nonsense"]).unwrap_err().to_string();
        assert!(
            wrong.contains("Usage: imagenet-downloader [OPTIONS]"),
            "{wrong}"
        );
        let wrong = read(&["status", "--nonsense"]).unwrap_err().to_string();
        assert!(
            wrong.contains("Usage: imagenet-downloader status"),
            "{wrong}"
        );
        let version = read(&["--version"]).unwrap_err().to_string();
        assert!(version.starts_with("imagenet-downloader "), "{version}");
    }

    #[test]
    fn the_last_one_of_a_repeated_flag_applies() {
        let plan = plan(&[
            "--dev",
            "--workers",
            "3",
            "--dev",
            "--workers",
            "8",
            "--timeout",
            "1s",
            "--timeout",
            "2s",
        ]);
        let plan = plan.unwrap();
        assert_eq!(
            (plan.single_host.unwrap().slots, plan.job.timeout),
            (8, Duration::from_secs(2))
        );
        let status = config(&[
            "status",
            "--json",
            "--json",
            "--connect",
            "http://h:1",
            "--connect",
            "http://h:2",
        ]);
        assert!(status.is_ok());
        let retry = config(&["retry", "n00000001", "n00000002"])
            .unwrap()
            .command;
        let Some(Command::Retry(retry)) = retry else {
            panic!("{retry:?}")
        };
        assert_eq!(retry.wnids.len(), 2, "all values of a list apply");
    }

    #[test]
    fn single_host_mode_listens_only_on_given_addresses() {
        let dev = plan(&["--dev", "--workers", "3", "--name", "cat"]).unwrap();
        assert_eq!(dev.listen, None);
        assert!(dev.http.or_any_port && plan(&["--demo"]).unwrap().http.or_any_port);
        assert!(
            !plan(&["--dev", "--http", "127.0.0.1:8080"])
                .unwrap()
                .http
                .or_any_port
        );
        assert_eq!(
            dev.single_host,
            Some(SingleHost {
                name: "cat".to_owned(),
                slots: 3,
                staging: None
            })
        );
        assert!(
            plan(&["--dev", "--listen", "127.0.0.1:0"])
                .unwrap()
                .listen
                .is_some()
        );
        let demo = plan(&["--demo"]).unwrap();
        assert_eq!(
            (demo.source, demo.target),
            (ClassSource::Demo, DEMO_TARGET.into())
        );
        assert_eq!(demo.single_host.unwrap().slots, 10);
        assert_eq!(
            plan(&["--demo", "--target", "x"]).unwrap().target,
            Path::new("x")
        );
    }

    fn assert_refused(cases: &[(&[&str], &str)]) {
        for (flags, said) in cases {
            let error = plan(flags).unwrap_err();
            assert!(
                error.contains(said) && !error.contains("secret"),
                "{flags:?}: {error}"
            );
        }
    }

    #[test]
    fn unusable_settings_are_refused_in_one_sentence() {
        assert_refused(&[
            (
                &["--listen", "0.0.0.0:50051"][..],
                "stay on this machine with --listen 127.0.0.1:50051",
            ),
            (
                &["--listen", "[2001:db8::1]:1"],
                "run `coordinator init --advertise THIS_HOST`",
            ),
            (
                &["--url", "ftp://u:secret@h/x"],
                "use the value of --url: its scheme is ftp:",
            ),
            (&["--workers", "0"], "0 is not in 1..=1000"),
            (&["--workers", "1001"], "1001 is not in 1..=1000"),
            (&["--max-connections", "0"], "0 is not in 1.."),
            (&["--max-connections", "many"], "invalid digit"),
            (&["--max-rate", "0"], "it must be more than nothing"),
            (
                &["--max-rate", "fast"],
                "a number of bytes a second, like 10MiB/s",
            ),
            (
                &["--existing", "delete"],
                "invalid value 'delete' for '--existing <HOW>'",
            ),
            (&["--dev", "--name", "../x"], "a name has 1 to 64 letters"),
            (
                &["--cacert", "/nowhere/ca.pem"],
                "read /nowhere/ca.pem, given with --cacert: No such file",
            ),
        ]);
        let ceilings = plan(&["--max-connections", "8", "--max-rate", "10MiB/s"])
            .unwrap()
            .ceilings;
        assert_eq!(
            ceilings,
            Ceilings {
                connections: Some(8),
                bytes_per_second: Some(10 << 20)
            }
        );
    }

    #[test]
    fn a_duration_is_at_most_a_day_and_a_lease_at_least_three_seconds() {
        assert_refused(&[
            (&["--timeout", "0s"], "it must be longer than nothing"),
            (&["--timeout", "soon"], "expected number at 0"),
            (&["--lease-ttl", "2s"], "the shortest is 3s"),
            (
                &["--lease-ttl", "500000000000y"],
                "the longest is one day, 24h",
            ),
            (&["--lease-ttl", "25h"], "the longest is one day, 24h"),
            (
                &["--timeout", "500000000000y"],
                "the longest is one day, 24h",
            ),
            (&["--timeout", "86401s"], "the longest is one day, 24h"),
        ]);
        assert_eq!(
            plan(&["--lease-ttl", "24h", "--timeout", "1day"])
                .unwrap()
                .lease_ttl,
            Duration::from_hours(24)
        );
        assert_eq!(
            plan(&["--timeout", "500ms"]).unwrap().job.timeout,
            Duration::from_millis(500)
        );
    }

    #[test]
    fn the_commands_for_a_job_with_secrets_name_an_address_that_workers_can_use() {
        for (listen, init, connect) in [
            (
                "127.0.0.1:50051",
                "`coordinator init`",
                "--connect https://127.0.0.1:50051 --token-file",
            ),
            (
                "[::1]:1",
                "`coordinator init`",
                "--connect https://[::1]:1 --token-file",
            ),
            (
                "127.0.0.2:80",
                "`coordinator init --advertise 127.0.0.2`",
                "--connect https://127.0.0.2:80 ",
            ),
            (
                "127.0.0.1:0",
                "`coordinator init`",
                "--connect https://127.0.0.1:PORT ",
            ),
            (
                "[::1]:0",
                "`coordinator init`",
                "--connect https://[::1]:PORT ",
            ),
        ] {
            let error = plan(&["--listen", listen, "--url", "http://u:p@h/x"]).unwrap_err();
            assert!(error.contains(init) && error.contains(connect), "{error}");
        }
        for query in ["v=1", "version=2021", "file={wnid}.tar&dl"] {
            assert!(
                plan(&["--url", &format!("http://h/{{wnid}}.tar?{query}")]).is_ok(),
                "{query}"
            );
        }
    }

    #[test]
    fn a_file_writable_by_every_user_is_refused_and_a_readable_one_causes_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        std::fs::write(&path, "Cookie: a=b\n").unwrap();
        let with_mode = |mode| {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            plan(&["--dev", "--header-file", path.to_str().unwrap()])
        };
        assert_eq!(with_mode(0o600).unwrap().warnings, Vec::<String>::new());
        let [warning] = with_mode(0o644).unwrap().warnings.try_into().unwrap();
        assert!(
            warning.ends_with(&format!("run `chmod o= {}`", path.display())),
            "{warning}"
        );
        let refused = with_mode(0o666).unwrap_err();
        assert!(
            refused.contains("every user of this machine can change it; run `chmod o-w"),
            "{refused}"
        );
        let refused = plan(&["--dev", "--cacert", path.to_str().unwrap()]).unwrap_err();
        assert!(
            refused.contains("every user of this machine can change it"),
            "{refused}"
        );
    }

    #[test]
    fn a_job_with_secrets_needs_a_credential_where_it_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        std::fs::write(&path, "Cookie: a=b\n").unwrap();
        let file = path.to_str().unwrap();
        for secret in [
            ["--header-file", file],
            ["--url", "https://u:p@h/x"],
            ["--url", "https://h/{wnid}?key=abc"],
        ] {
            let refused = plan(&secret).unwrap_err();
            assert!(
                refused.starts_with("listen on 127.0.0.1:50051: every user of this machine"),
                "{refused}"
            );
            plan(&[&secret[..], &["--dev"]].concat()).unwrap();
            plan(&[&secret[..], &["--insecure"]].concat()).unwrap();
            plan(&[&secret[..], &["--dev", "--listen", "127.0.0.1:0"]].concat()).unwrap_err();
        }
        std::fs::write(&path, "# no header\n").unwrap();
        plan(&["--header-file", file]).unwrap();
    }
}

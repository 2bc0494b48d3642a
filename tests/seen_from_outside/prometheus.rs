//! A real Prometheus with the configuration, the rules and the dashboard of `deploy/observability`
//! scrapes a running job. `.ci/run` extracts it from Debian's package; without it the story is
//! skipped.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tests::{
    answer::Answer,
    cluster::{Job, Table},
    http::get,
    running::Running,
    wait::{wait_for, wait_until},
};

use crate::{origin, start_with_tls, wnids};

/// The rates of a query need two scrapes, one second apart.
const TIMEOUT: Duration = Duration::from_mins(1);

fn observability() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/observability")
}

/// The program where `.ci/run` puts it (`target/chart`), or in the search path.
fn program() -> Option<PathBuf> {
    let test = std::env::current_exe().expect("the path of the executable is known");
    let target = test.ancestors().nth(3).expect("target/<profile>/deps");
    let path = std::env::var_os("PATH").unwrap_or_default();
    [target.join("chart/prometheus/usr/bin")]
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join("prometheus"))
        .find(|program| program.is_file())
}

/// A Prometheus that scrapes every second.
struct Prometheus {
    running: Running,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts it with the files of `deploy/observability`, in which only the addresses and the
    /// intervals are replaced.
    fn start(program: &Path, job: &Job, coordinator: SocketAddr, worker: SocketAddr) -> Self {
        let folder = job.folder().join("prometheus");
        fs::create_dir(&folder).expect("the folder is ours");
        let source = observability();
        fs::copy(source.join("rules.yaml"), folder.join("rules.yaml")).expect("there are rules");
        let mut config =
            fs::read_to_string(source.join("prometheus.yml")).expect("there is a configuration");
        for (old, new) in [
            ("node1:8080", coordinator.to_string()),
            ("node2:8081", worker.to_string()),
            ("_interval: 15s", "_interval: 1s".to_owned()),
        ] {
            assert!(config.contains(old), "no {old} in {config}");
            config = config.replace(old, &new);
        }
        let file = folder.join("prometheus.yml");
        fs::write(&file, config).expect("the folder is ours");
        let mut command = Command::new(program);
        command
            .arg("--config.file")
            .arg(&file)
            .arg("--storage.tsdb.path")
            .arg(folder.join("data"))
            .args(["--web.listen-address", "127.0.0.1:0"]);
        let mut running = job.start_program(command);
        let address = running.wait_until("it listens", |running| listening(running.id()));
        let ready = |_: &Running| (get(address, "/-/ready")?.0 == 200).then_some(());
        running.wait_until("it is ready", ready);
        Self { running, address }
    }

    /// The `data` of an answer of its API; panics if it reports an error.
    #[track_caller]
    fn ask(&self, path: &str) -> Value {
        let (head, body) = self.read(path);
        let mut answer: Value = serde_json::from_str(&body)
            .unwrap_or_else(|error| panic!("{error}: {path}: {head}\n{body}"));
        assert_eq!(answer["status"], "success", "{path}: {body}");
        answer["data"].take()
    }

    /// Head and body of an answer, by HTTP/1.0, which has no chunks.
    fn read(&self, path: &str) -> (String, String) {
        let mut connection = TcpStream::connect(self.address).expect("it listens");
        connection
            .set_read_timeout(Some(TIMEOUT))
            .expect("a socket takes a timeout");
        write!(
            connection,
            "GET {path} HTTP/1.0\r\nhost: {}\r\n\r\n",
            self.address
        )
        .expect("it reads the request");
        let mut answer = String::new();
        connection
            .read_to_string(&mut answer)
            .expect("it answers in UTF-8");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
        (head.to_owned(), body.to_owned())
    }

    /// The current series of an expression: the label (empty if it has none) and the value.
    #[track_caller]
    fn query(&self, expression: &str, label: &str) -> Vec<(String, f64)> {
        let encode = |text: String, byte| format!("{text}%{byte:02x}");
        let encoded = expression.bytes().fold(String::new(), encode);
        let data = self.ask(&format!("/api/v1/query?query={encoded}"));
        let series = data["result"].as_array().expect("a vector").iter();
        let value = |one: &Value| one["value"][1].as_str().and_then(|text| text.parse().ok());
        series
            .map(|one| {
                let label = one["metric"][label].as_str().unwrap_or_default().to_owned();
                (label, value(one).expect("a number"))
            })
            .collect()
    }

    /// The only value of an expression, if it has one.
    #[track_caller]
    fn value(&self, expression: &str) -> Option<f64> {
        let found = self.query(expression, "");
        assert!(found.len() < 2, "{expression}: {found:?}");
        found.first().map(|(_, value)| *value)
    }

    /// Each query of the dashboard has at least one series.
    #[track_caller]
    fn assert_the_dashboard_has_results(&self) {
        let expressions = dashboard_queries();
        assert!(expressions.len() > 20, "{expressions:?}");
        let without: Vec<_> = expressions
            .iter()
            .filter(|expression| self.query(expression, "").is_empty())
            .collect();
        assert!(without.is_empty(), "no result: {without:#?}");
    }

    /// Waits until each rule has been evaluated without an error.
    #[track_caller]
    fn wait_for_the_rules(&self) {
        let is_evaluated = |group: &Value| {
            let rules = group["rules"].as_array().expect("a group has rules");
            rules.len() > 5 && rules.iter().all(|rule| rule["health"] == "ok")
        };
        wait_for("all rules are evaluated without an error", TIMEOUT, || {
            let data = self.ask("/api/v1/rules");
            let groups = data["groups"].as_array().expect("the groups of rules");
            !groups.is_empty() && groups.iter().all(is_evaluated)
        });
    }
}

/// The port that a process listens on, from `/proc`.
fn listening(process: u32) -> Option<SocketAddr> {
    let sockets: BTreeSet<String> = fs::read_dir(format!("/proc/{process}/fd"))
        .ok()?
        .filter_map(|entry| {
            let link = fs::read_link(entry.ok()?.path()).ok()?;
            let name = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(name.to_owned())
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let (_, port) = words.nth(1)?.split_once(':')?;
        let state = words.nth(1)?;
        let inode = words.nth(5)?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (state == "0A" && sockets.contains(inode)).then(|| SocketAddr::from(([127, 0, 0, 1], port)))
    })
}

/// The queries of the dashboard, as Grafana asks them without a namespace.
fn dashboard_queries() -> Vec<String> {
    let text = fs::read_to_string(observability().join("dashboard.json")).expect("it is there");
    let board: Value = serde_json::from_str(&text).expect("it is JSON");
    let panels = board["panels"].as_array().expect("it has panels");
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("a panel has queries"));
    targets
        .map(|target| {
            let expression = target["expr"].as_str().expect("a query");
            expression
                .replace("$__rate_interval", "10s")
                .replace("$namespace", ".*")
        })
        .collect()
}

#[test]
fn a_prometheus_answers_for_a_job_and_each_query_of_the_dashboard_has_a_result() {
    let Some(program) = program() else {
        eprintln!("skipped: no prometheus; .ci/run extracts it from Debian's package");
        return;
    };
    let wnids = wnids(6);
    let origin = origin(&wnids);
    let stalling = origin.script_of(&wnids[5]).expect("the class is served");
    stalling.script([Answer::stall_at(20_000)]);
    // Prometheus begins to scrape after five seconds.
    origin.limit_total_rate(5000);
    let rows = wnids.iter().map(String::as_str).chain(["n99999999"]);
    let job = Job::new()
        .classes(rows)
        .origin(&origin)
        .args(["--delete-tar"]);
    let (job, coordinator, mut worker) = start_with_tls(job);
    let prometheus = Prometheus::start(&program, &job, coordinator.http, worker.wait_for_http());
    let rate = |metric: &str| {
        let rate = prometheus.value(&format!("sum(rate({metric}[10s]))"));
        rate.filter(|rate| *rate > 0.0)
    };
    for metric in [
        "imagenet_worker_received_bytes_total",
        "imagenet_received_bytes_total",
    ] {
        let found = wait_until(TIMEOUT, || rate(metric));
        assert!(found.is_some(), "{metric} has no rate");
    }
    origin.limit_total_rate(0);
    let states = || prometheus.query("sum by (state) (imagenet_classes)", "state");
    let expected = [
        ("failed", 1.0),
        ("leased", 1.0),
        ("pending", 0.0),
        ("skipped", 0.0),
        ("success", 5.0),
    ];
    let expected = expected.map(|(state, count)| (state.to_owned(), count));
    wait_for(
        "all classes but the one that stalls are settled",
        TIMEOUT,
        || {
            let mut states = states();
            states.sort_by(|one, other| one.0.cmp(&other.0));
            states == expected
        },
    );
    assert_eq!(prometheus.query("up", "job").len(), 2);
    prometheus.assert_the_dashboard_has_results();
    prometheus.wait_for_the_rules();
    origin.end_stalls();
    assert_eq!(worker.wait().code, Some(0));
    job.assert_ended(&coordinator.running.wait(), 1, Table::of(6, 0, 1));
    prometheus.running.kill();
}

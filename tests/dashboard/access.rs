//! Who may look, and who may retry.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use tests::{
    hosts::Network,
    http::{Scrape, get},
    wait::wait_for,
};

use crate::{
    Watched,
    client::{Client, own_address, read_until},
};

const TIMEOUT: Duration = Duration::from_secs(30);
const SNAPSHOT: &str = "/api/v1/snapshot";
const RETRY: &str = "/api/v1/retry";
const JSON: (&str, &str) = ("content-type", "application/json");

/// Every path that shows something of the job, with the least role that it takes.
const OF_THE_JOB: [&str; 6] = [
    SNAPSHOT,
    "/api/v1/events",
    "/api/v1/viewer",
    "/api/v1/workers",
    "/api/v1/classes",
    "/api/v1/classes/n00000001",
];

/// Asserts that a client gets health and metrics, and of the job only how to reach the page.
#[track_caller]
fn assert_gets_health_and_metrics_alone(address: SocketAddr) {
    assert_eq!(get(address, "/healthz"), Some((200, "ok\n".to_owned())));
    assert!(get(address, "/readyz").is_some());
    Scrape::of(address).expect("metrics are for every client");
    for name in [address.to_string(), "localhost".to_owned()] {
        let client = Client::new(address).host(&name);
        let page = client.get("/");
        assert_eq!(page.status, 200);
        for way in ["ssh -L", "kubectl port-forward", "--http-tls"] {
            assert!(page.body.contains(way), "{way}: {}", page.body);
        }
        assert!(!page.body.contains("<html"), "{}", page.body);
        assert_eq!(client.get("/app.js").status, 403);
        for path in OF_THE_JOB {
            let refused = client.get(path);
            assert_eq!(refused.status, 401, "{path}: {refused:?}");
            assert!(refused.error().contains("ssh -L"), "{refused:?}");
        }
        let retry = client
            .clone()
            .header(JSON.0, JSON.1)
            .post(RETRY, r#"{"wnids":[]}"#);
        assert_eq!(retry.status, 401, "{retry:?}");
    }
}

#[test]
fn another_address_of_this_machine_gets_health_and_metrics_alone() {
    let Some(address) = own_address() else {
        println!("skipped: this machine has only loopback addresses");
        return;
    };
    let watched = Watched::of(2).args(&["--http", "0.0.0.0:0"]);
    let coordinator = watched.start();
    let port = coordinator.http.port();
    assert_gets_health_and_metrics_alone((address, port).into());
    let local = Client::new(([127, 0, 0, 1], port).into());
    assert!(local.get("/").body.contains("<html"));
    assert_eq!(local.get(SNAPSHOT).json()["job"]["total"], 2);
    coordinator.running.kill();
}

#[test]
fn another_machine_gets_health_and_metrics_alone() {
    let Some((_network, [coordinator, other])) = Network::of(["coordinator", "other"]) else {
        return;
    };
    let watched = Watched::of(2).args(&["--http", "0.0.0.0:8080", "--stay"]);
    let job = watched.job.under(coordinator.command());
    let running = job.start();
    let address: SocketAddr = (coordinator.address, 8080).into();
    other.on(|| {
        wait_for("the coordinator answers", TIMEOUT, || {
            get(address, "/readyz").is_some_and(|(_, body)| body != "starting\n")
        });
        assert_gets_health_and_metrics_alone(address);
    });
    let local: SocketAddr = ([127, 0, 0, 1], 8080).into();
    let total = coordinator.on(|| Client::new(local).get(SNAPSHOT).json()["job"]["total"].clone());
    assert_eq!(total, 2);
    running.kill();
}

#[test]
fn on_loopback_another_host_name_is_refused() {
    let watched = Watched::of(2);
    let coordinator = watched.start();
    for name in ["evil.example", "watch.example.org:8080"] {
        let client = Client::new(coordinator.http).host(name);
        for path in OF_THE_JOB {
            let refused = client.get(path);
            assert_eq!(refused.status, 421, "{path}: {refused:?}");
            assert!(refused.error().contains("--http-host"), "{refused:?}");
        }
        assert_eq!(client.get("/").status, 421);
        assert_eq!(client.get("/metrics").status, 421);
    }
    // What a proxy on this machine passes on without the name comes from elsewhere.
    let forwarded = Client::new(coordinator.http).header("x-forwarded-for", "192.0.2.7");
    assert_eq!(forwarded.get(SNAPSHOT).status, 401);
    assert_eq!(Client::new(coordinator.http).get(SNAPSHOT).status, 200);
    coordinator.running.kill();
}

#[test]
fn a_viewers_token_looks_and_an_admins_retries() {
    let watched = Watched::of(3)
        .with_tokens(&["--http-tls", "--http", "0.0.0.0:0"])
        .held("n00000003");
    let mut running = watched.job.start();
    let port = running.wait_until("it prints its address", |running| {
        let stderr = running.stderr();
        let (_, rest) = stderr.split_once("page, health and metrics at https://")?;
        rest.split_once('/')?.0.rsplit_once(':')?.1.parse().ok()
    });
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let client = Client::new(address).tls(&watched.trust("ca.pem"));
    wait_for("one class has failed", TIMEOUT, || {
        let snapshot = client.get(SNAPSHOT);
        snapshot.status == 200 && snapshot.json()["job"]["failed"] == 1
    });
    let elsewhere = client.clone().host("watch.example.org");
    for client in [&client, &elsewhere] {
        let page = client.get("/");
        assert!(page.body.contains("<html"), "{page:?}");
    }
    let body = r#"{"wnids":["n00000001"]}"#;
    let json = |client: &Client| client.clone().header(JSON.0, JSON.1);
    for path in OF_THE_JOB {
        assert_eq!(elsewhere.get(path).status, 401, "{path}");
        let worker = elsewhere.clone().token(&watched.token("worker")).get(path);
        assert_eq!(worker.status, 403, "{path}: {worker:?}");
        let wrong = elsewhere.clone().token("0123456789abcdef").get(path);
        assert_eq!(wrong.status, 401, "{path}: {wrong:?}");
    }
    for client in [&client, &elsewhere] {
        assert_eq!(
            json(client).post(RETRY, body).status,
            401,
            "without a token"
        );
        let viewer = client.clone().token(&watched.token("viewer"));
        let rights = viewer.get("/api/v1/viewer").json();
        assert_eq!(rights, json!({ "may_retry": false }));
        assert_eq!(viewer.get(SNAPSHOT).json()["job"]["failed"], 1);
        let refused = json(&viewer).post(RETRY, body);
        assert_eq!(refused.status, 403, "{refused:?}");
        assert!(
            refused.error().contains("the token of an admin"),
            "{refused:?}"
        );
    }
    let admin = elsewhere.clone().token(&watched.token("admin"));
    assert_retries(&admin, body);
    wait_for("the class is there", TIMEOUT, || {
        client.get(SNAPSHOT).json()["job"]["success"] == 2
    });
    // A browser that asks in plaintext is told why it gets nothing.
    let plain = Client::new(address).get("/");
    assert!(
        plain.status == 400 && plain.body.contains("https://"),
        "{plain:?}"
    );
    running.kill();
}

/// Asserts that an admin's unusable requests are refused, and that a usable one retries a class.
#[track_caller]
fn assert_retries(admin: &Client, body: &str) {
    let json = || admin.clone().header(JSON.0, JSON.1);
    assert_eq!(
        admin.get("/api/v1/viewer").json(),
        json!({ "may_retry": true })
    );
    for (body, status, said) in [
        (r#"{"wnids":["cat"]}"#, 400, "is not a WordNet id"),
        (r#"{"wnids":["n09999999"]}"#, 404, "not in the list"),
        ("{}", 400, "send {\"wnids\""),
    ] {
        let refused = json().post(RETRY, body);
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(refused.error().contains(said), "{refused:?}");
    }
    let retried = json().post(RETRY, body).json();
    assert_eq!(retried, json!({ "retried": 1, "invalid_rows": 0 }));
}

#[test]
fn a_page_of_another_site_can_neither_retry_nor_look() {
    let watched = Watched::of(3).held("n00000003");
    let mut running = watched.job.start();
    let http = running.wait_for_http();
    let client = Client::new(http);
    wait_for("one class has failed", TIMEOUT, || {
        let snapshot = client.get(SNAPSHOT);
        snapshot.status == 200 && snapshot.json()["job"]["failed"] == 1
    });
    let json = || client.clone().header(JSON.0, JSON.1);
    let form = client.clone().header("content-type", "text/plain");
    let body = r#"{"wnids":[]}"#;
    for (request, status) in [
        (form, 400),
        (json().header("origin", "http://evil.example"), 403),
        (json().header("origin", "null"), 403),
        (json().header("sec-fetch-site", "cross-site"), 403),
    ] {
        let refused = request.post(RETRY, body);
        assert_eq!(refused.status, status, "{refused:?}");
    }
    let embedded = client.clone().header("sec-fetch-site", "cross-site");
    assert_eq!(embedded.get(SNAPSHOT).status, 403);
    assert_eq!(
        client.get(SNAPSHOT).json()["job"]["failed"],
        1,
        "nothing was retried"
    );
    let own = json().header("origin", &format!("http://{http}"));
    assert_eq!(own.post(RETRY, body).json()["retried"], 1);
    running.kill();
}

#[test]
fn a_job_that_is_done_retries_nothing_and_says_what_does() {
    let watched = Watched::of(2).args(&["--stay"]);
    let mut running = watched.job.start();
    let client = Client::new(running.wait_for_http());
    wait_for("the job is done", TIMEOUT, || {
        let snapshot = client.get(SNAPSHOT);
        snapshot.status == 200 && snapshot.json()["job"]["done"] == true
    });
    let refused = client.header(JSON.0, JSON.1).post(RETRY, r#"{"wnids":[]}"#);
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.error().contains("--retry-failed"), "{refused:?}");
    running.kill();
}

#[test]
fn a_reverse_proxy_on_this_machine_passes_on_what_has_a_token() {
    let watched = Watched::of(2).with_tokens(&["--http-host", "watch.example.org"]);
    let coordinator = watched.start();
    let client = Client::new(coordinator.http).host("Watch.example.org");
    let client = client.header("x-forwarded-for", "192.0.2.7");
    let page = client.get("/");
    assert!(page.body.contains("<html"), "{page:?}");
    // The page works in any folder of the proxy.
    for name in ["src=\"", "href=\""] {
        let mut values = page.body.split(name).skip(1);
        assert!(values.all(|value| !value.starts_with('/')), "{name}");
    }
    assert_eq!(client.get(SNAPSHOT).status, 401);
    // A client of the proxy names this machine, and the proxy adds no header.
    let disguised = Client::new(coordinator.http).host("localhost");
    assert_eq!(disguised.get(SNAPSHOT).status, 401);
    let viewer = client.token(&watched.token("viewer"));
    assert_eq!(viewer.get(SNAPSHOT).json()["job"]["total"], 2);
    coordinator.running.kill();
}

#[test]
fn a_stream_ends_when_its_token_is_revoked() {
    let watched = Watched::of(2).with_tokens(&[]);
    let coordinator = watched.start();
    let viewer = Client::new(coordinator.http).token(&watched.token("viewer"));
    let stream = viewer.send("GET", "/api/v1/events", "");
    let mut stream = stream.expect("the port answers");
    read_until(&mut *stream, "event: snapshot");
    let tokens = std::fs::read_to_string(watched.trust("tokens")).expect("init created it");
    let lines = tokens.lines().filter(|line| !line.starts_with("viewer "));
    let others: Vec<&str> = lines.collect();
    assert!(others.len() < tokens.lines().count());
    std::fs::write(watched.trust("tokens"), others.join("\n") + "\n").expect("it is ours");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the stream ends");
    assert_eq!(viewer.get(SNAPSHOT).status, 401);
    coordinator.running.kill();
}

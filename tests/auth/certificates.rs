//! Certificates: a worker's certificate is valid for its own name only (S16), and the coordinator's
//! can be replaced at any time (S17).

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tests::{
    cluster::{Coordinator, Table},
    http::Scrape,
    log::{assert_lines, has_line, lines_with},
    wait::wait_for,
};

use super::{Cluster, text};

/// A CA for workers that is unrelated to the coordinator's CA.
fn workers_authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "workers");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// Writes `<file>.pem` and `<file>.key` for a worker; returns both paths.
fn issue(
    folder: &Path,
    file: &str,
    common: &str,
    dns: &[&str],
    issuer: &Issuer<'_, KeyPair>,
) -> [String; 2] {
    issue_until(
        folder,
        file,
        common,
        dns,
        issuer,
        SystemTime::now() + Duration::from_hours(24),
    )
}

/// The same, with an expiry time.
fn issue_until(
    folder: &Path,
    file: &str,
    common: &str,
    dns: &[&str],
    issuer: &Issuer<'_, KeyPair>,
    ends: SystemTime,
) -> [String; 2] {
    let mut params =
        CertificateParams::new(dns.iter().map(ToString::to_string).collect::<Vec<_>>())
            .expect("plain names");
    params.not_after = ends.into();
    params.distinguished_name.push(DnType::CommonName, common);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    let paths = ["pem", "key"].map(|kind| folder.join(format!("{file}.{kind}")));
    fs::write(&paths[0], certificate.pem()).expect("the folder is ours");
    fs::write(&paths[1], key.serialize_pem()).expect("the folder is ours");
    paths.map(|path| text(&path))
}

/// Two workers with these flags, which share the job's two classes.
#[track_caller]
fn assert_workers_do_the_job(
    cluster: &Cluster,
    coordinator: Coordinator,
    workers: [(&str, [&str; 6]); 2],
) {
    cluster.origin.limit_rate(10_000);
    let names = workers.map(|(name, _)| name);
    let workers = workers.map(|(name, flags)| cluster.worker(name, &coordinator, &flags));
    // A worker that registers after the end of the job would get no answer.
    wait_for(
        "both workers are registered before the job is done",
        Duration::from_secs(20),
        || {
            let log = cluster.job.log();
            names
                .iter()
                .all(|name| has_line(&log, &[&format!("registered worker=\"{name}\"")]))
        },
    );
    cluster.origin.limit_rate(100_000_000);
    for worker in workers {
        let finished = worker.wait();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    cluster
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(2, 0, 0));
}

#[test]
fn a_certificate_admits_a_worker_only_under_its_own_name() {
    let cluster = Cluster::of(2);
    let authority = workers_authority();
    let folder = cluster.job.folder().to_owned();
    fs::write(folder.join("workers.pem"), authority.pem()).expect("the folder is ours");
    let [by_name, by_name_key] = issue(&folder, "by_name", "w1", &[], &authority);
    let [by_dns, by_dns_key] = issue(&folder, "by_dns", "any", &["w2", "w3"], &authority);
    let ended = SystemTime::now() - Duration::from_hours(24);
    let [ended, ended_key] = issue_until(&folder, "ended", "w1", &[], &authority, ended);
    let [foreign, foreign_key] = issue(&folder, "foreign", "w1", &[], &workers_authority());
    let workers = text(&folder.join("workers.pem"));
    let (cluster, coordinator) = cluster.start(&["--tls-client-ca", &workers]);
    let ca = cluster.path("ca.pem");
    let token = cluster.path("worker.token");
    let shows = |certificate, key| {
        [
            "--tls-ca",
            ca.as_str(),
            "--tls-cert",
            certificate,
            "--tls-key",
            key,
        ]
    };

    let refused = |name: &str, flags: &[&str], message: &str| {
        let finished = cluster.worker(name, &coordinator, flags).wait();
        cluster.job.assert_could_not_run(&finished, &[message]);
    };
    refused(
        "w2",
        &shows(&by_name, &by_name_key),
        "the worker's certificate is for w1; give one of these names with --name",
    );
    refused(
        "w1",
        &shows(&by_dns, &by_dns_key),
        "the worker's certificate is for any, w2, w3",
    );
    // A valid token does not help.
    let with_token = [
        &shows(&by_name, &by_name_key)[..],
        &["--token-file", &token],
    ]
    .concat();
    refused("w2", &with_token, "the worker's certificate is for w1");
    // A certificate of another CA, and an expired one: both sides log the reason.
    for (certificate, key, why, logged) in [
        (
            &foreign,
            &foreign_key,
            "(it is not by the authority of its --tls-client-ca)",
            "BadSignature",
        ),
        (&ended, &ended_key, "(it has ended)", "expired"),
    ] {
        let refusal = "the coordinator refuses this program's certificate";
        let sentence = format!("{refusal} {why}: give another with --tls-cert");
        refused("w1", &shows(certificate, key), &sentence);
        wait_for(
            "the coordinator logs the rejected connection",
            Duration::from_secs(20),
            || {
                has_line(
                    &cluster.job.log(),
                    &["the TLS handshake failed", logged, "127.0.0.1:"],
                )
            },
        );
    }
    // A worker without a certificate and without a token is rejected as well.
    refused("w1", &["--tls-ca", &ca], "a token is needed here");
    let accepted = [("w1", &by_name, &by_name_key), ("w3", &by_dns, &by_dns_key)];
    let accepted = accepted.map(|(name, certificate, key)| (name, shows(certificate, key)));
    assert_workers_do_the_job(&cluster, coordinator, accepted);
}

/// Replaces the server's certificate by another one of the CA that `init` created, with renames, as
/// is recommended.
fn replace_certificate(cluster: &Cluster) {
    let authority = fs::read_to_string(cluster.file("ca.pem")).expect("init created it");
    let key =
        KeyPair::from_pem(&fs::read_to_string(cluster.file("ca.key")).expect("init created it"))
            .expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&authority, key).expect("an authority");
    let folder = cluster.job.folder().join("trust");
    let [certificate, key] = issue(
        &folder,
        "next",
        "imagenet coordinator",
        &["localhost", "127.0.0.1"],
        &issuer,
    );
    let chain = fs::read_to_string(&certificate).expect("the file was just written") + &authority;
    fs::write(&certificate, chain).expect("the folder is ours");
    fs::rename(key, cluster.file("server.key")).expect("the folder is ours");
    fs::rename(certificate, cluster.file("server.pem")).expect("the folder is ours");
}

/// The server certificate that a new connection receives.
fn served_certificate(address: SocketAddr, authority: &Path) -> Option<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority).expect("init created it"))
        .expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder
        .expect("rustls has default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let connection =
        ClientConnection::new(Arc::new(config), name).expect("the configuration is complete");
    let stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a valid time");
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").ok()?;
    let read = stream.read(&mut [0; 9]).ok()?;
    assert!(read > 0, "the coordinator answers");
    stream
        .conn
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|certificate| certificate.to_vec())
}

#[test]
fn a_new_certificate_is_used_within_seconds_and_a_broken_one_never() {
    let cluster = Cluster::of(8);
    // Slow enough that the worker stays connected during the whole test.
    cluster.origin.limit_rate(10_000);
    let (cluster, coordinator) = cluster.start(&[]);
    let worker = cluster.worker(
        "w1",
        &coordinator,
        &[
            "--token-file",
            &cluster.path("worker.token"),
            "--workers",
            "1",
        ],
    );
    let now = || served_certificate(coordinator.address, &cluster.file("ca.pem"));
    let first = now().expect("a certificate");

    replace_certificate(&cluster);
    wait_for(
        "new connections receive the new certificate",
        Duration::from_secs(5),
        || now().is_some_and(|certificate| certificate != first),
    );
    let second = now().expect("a certificate");

    // First a key that does not belong to the certificate, then a file without a certificate.
    let logged =
        |count| lines_with(&cluster.job.log(), &["the old content stays in use"]).len() >= count;
    fs::write(
        cluster.file("server.key"),
        KeyPair::generate().expect("a key").serialize_pem(),
    )
    .expect("ours");
    wait_for(
        "the mismatched pair is logged",
        Duration::from_secs(10),
        || logged(1),
    );
    assert_eq!(now(), Some(second.clone()));
    fs::write(cluster.file("server.pem"), "no certificate").expect("the folder is ours");
    wait_for(
        "the missing certificate is logged",
        Duration::from_secs(10),
        || logged(2),
    );
    assert_eq!(now(), Some(second));
    let scrape = Scrape::of(coordinator.http).expect("the coordinator answers");
    assert!(
        scrape.value("imagenet_credential_reload_failures_total{file=\"certificate\"}") > 1.5,
        "{}",
        scrape.text
    );
    assert!(
        scrape.value("imagenet_certificate_expiry_timestamp_seconds") > 1.7e9,
        "{}",
        scrape.text
    );

    cluster.origin.limit_rate(100_000_000);
    let finished = worker.wait();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(
        !finished.stderr.contains("no answer"),
        "the worker's connections stay open: {}",
        finished.stderr
    );
    cluster
        .job
        .assert_ended(&coordinator.running.wait(), 0, Table::of(8, 0, 0));
    assert_lines(&cluster.job.log(), 1, &["registered worker"]);
}

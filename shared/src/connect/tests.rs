//! Tests of addresses and of combinations of flags. The end-to-end tests with the real programs
//! cover connections.

use clap::Parser as _;

use super::*;

/// A command with the arguments of a connection.
#[derive(Debug, clap::Parser)]
struct Command {
    #[command(flatten)]
    args: ConnectArgs,
}

fn arguments(address: &str) -> ConnectArgs {
    Command::try_parse_from(["program", "--connect", address])
        .unwrap()
        .args
}

fn connector(flags: &[&str]) -> Result<Connector, String> {
    let command = Command::try_parse_from(["program"].iter().chain(flags))
        .map_err(|error| error.to_string())?;
    command.args.connector().map_err(|error| error.to_string())
}

#[test]
fn an_address_is_a_url_with_a_host_and_no_secret() {
    for wrong in [
        "127.0.0.1:50051",
        "ftp://h",
        "http://",
        "",
        "http://user:secret@h:1",
        "https://token@h",
    ] {
        assert_eq!(wrong.parse::<Address>(), Err(InvalidAddress), "{wrong}");
    }
    for (address, loopback) in [
        ("http://127.0.0.1:50051", true),
        ("https://[::1]:1", true),
        ("http://localhost", true),
        ("https://node1.example.org:50051", false),
        ("http://10.0.0.5", false),
    ] {
        assert_eq!(
            address
                .parse::<Address>()
                .map(|address| address.is_loopback()),
            Ok(loopback),
            "{address}"
        );
    }
}

#[tokio::test]
async fn a_coordinator_is_on_this_host_if_all_its_addresses_are() {
    for (address, is_here) in [
        ("http://127.0.0.2:50051", true),
        ("https://localhost", true),
        ("https://[::1]:1", true),
        ("https://192.0.2.1", false),
        ("https://[2001:db8::1]:1", false),
        ("https://name.invalid", false),
    ] {
        assert_eq!(
            arguments(address).is_on_this_host().await,
            is_here,
            "{address}"
        );
    }
    // The source address of this host, if it has a network.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect("192.0.2.1:9").is_ok() {
        let own = socket.local_addr().unwrap().ip();
        assert!(
            arguments(&format!("http://{own}")).is_on_this_host().await,
            "{own}"
        );
    }
}

#[test]
fn an_address_without_a_port_has_the_coordinators_own() {
    for (text, address) in [
        ("https://host", "https://host:50051"),
        ("http://127.0.0.1/", "http://127.0.0.1:50051"),
        ("http://[::1]", "http://[::1]:50051"),
        ("http://[::1]:7", "http://[::1]:7"),
        ("http://host:", "http://host:50051"),
        // The scheme's default port, which a URL omits.
        ("https://host:443", "https://host"),
        ("http://host:80", "http://host"),
    ] {
        assert_eq!(
            text.parse::<Address>().map(|address| address.to_string()),
            Ok(address.to_owned()),
            "{text}"
        );
    }
}

/// Paths of files with credentials.
struct Files {
    /// A token that names no authority.
    word: String,
    empty: String,
    /// A token that names an authority.
    join: String,
    _folder: tempfile::TempDir,
}

impl Files {
    fn write() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let join = crate::tls::Token::new(
            crate::tls::Authority::of(&rustls::pki_types::CertificateDer::from(b"x".to_vec())),
            [7; 32],
        );
        Self {
            word: path("word", "0123456789abcdef\n"),
            empty: path("empty", ""),
            join: path("join", join.reveal()),
            _folder: folder,
        }
    }
}

/// Each of the connections is refused with these words, and without a secret.
fn assert_refused<'flag>(cases: impl IntoIterator<Item = (Vec<&'flag str>, &'flag str)>) {
    for (flags, words) in cases {
        let flags: Vec<&str> = std::iter::once("--connect").chain(flags).collect();
        let error = connector(&flags).unwrap_err();
        assert!(error.contains(words), "{flags:?}: {error}");
        assert!(!error.contains("0123456789abcdef"), "{error}");
    }
}

#[tokio::test]
async fn flags_that_exclude_each_other_are_reported_in_one_sentence() {
    let Files {
        word, empty, join, ..
    } = &Files::write();
    assert_refused([
        (vec!["https://h:1"], "without proof: give the token"),
        (
            vec!["https://h:1", "--token-file", word],
            "names no certificate authority; give the coordinator's with --tls-ca",
        ),
        (
            vec!["https://h:1", "--tls-ca", empty],
            "holds no PEM certificate",
        ),
        (
            vec!["http://h:1", "--tls-ca", empty],
            "give --connect https://",
        ),
        (
            vec!["http://h:1", "--token-file", empty],
            "it must hold one token",
        ),
        (
            vec!["http://h:1", "--token-file", "/nowhere"],
            "read /nowhere: No such file or directory (os error 2); name a file that is there",
        ),
        (
            vec!["https://h:1", "--token-file", join, "--tls-cert", empty],
            "--tls-key",
        ),
        (
            vec![
                "https://h:1",
                "--token-file",
                join,
                "--tls-cert",
                empty,
                "--tls-key",
                empty,
            ],
            "holds no PEM",
        ),
    ]);
}

#[tokio::test]
async fn a_token_that_names_an_authority_is_never_sent_in_plaintext_over_a_network() {
    let Files { word, join, .. } = &Files::write();
    assert_refused([
        (
            vec!["http://h:1", "--token-file", join],
            "is never sent in plaintext over a network; give --connect https://",
        ),
        (
            vec!["http://10.0.0.5:1", "--token-file", join],
            "or a tunnel's end at http://127.0.0.1",
        ),
        (
            vec!["http://[fd00::1]:1", "--token-file", join],
            "is never sent in plaintext",
        ),
        (
            vec!["http://localhost.example.org:1", "--token-file", join],
            "is never sent in plaintext",
        ),
        (
            vec!["http://h:1", "--token-file", join, "--insecure"],
            "is never sent in plaintext over a network",
        ),
        (
            vec!["http://127.0.0.1:1", "--token-file", join],
            "any user of this machine can listen",
        ),
        (
            vec!["http://[::1]:1", "--token-file", join],
            "give --connect https://…, or --insecure if",
        ),
        (
            vec!["http://localhost:1", "--token-file", join],
            "any user of this machine can listen",
        ),
    ]);
    for flags in [
        vec!["http://h:1"],
        vec!["http://h:1", "--token-file", word],
        vec!["http://127.0.0.1:1", "--token-file", join, "--insecure"],
        vec!["http://127.9.9.9:1", "--token-file", join, "--insecure"],
        vec!["http://[::1]:1", "--token-file", join, "--insecure"],
        vec!["http://LOCALHOST:1", "--token-file", join, "--insecure"],
        vec!["http://127.0.0.1:1", "--token-file", word],
        vec!["https://h:1", "--token-file", join],
    ] {
        let flags: Vec<&str> = std::iter::once("--connect").chain(flags).collect();
        let connector = connector(&flags).unwrap();
        let shown = format!("{connector:?} {:?}", connector.channel());
        assert!(
            !shown.contains("0123456789abcdef") && !shown.contains("idl1"),
            "{shown}"
        );
    }
}

#[test]
fn a_token_that_is_sent_in_plaintext_causes_a_warning() {
    for (flags, is_warned) in [
        (
            &["--connect", "http://h:1", "--token-file", "word"][..],
            true,
        ),
        (&["--connect", "http://h:1"], false),
        (&["--connect", "https://h:1", "--token-file", "word"], false),
        (
            &["--connect", "http://127.0.0.1:1", "--token-file", "word"],
            true,
        ),
        (
            &[
                "--connect",
                "http://127.0.0.1:1",
                "--token-file",
                "word",
                "--insecure",
            ],
            false,
        ),
    ] {
        let command = Command::try_parse_from(["program"].iter().chain(flags)).unwrap();
        assert_eq!(!command.args.warnings().is_empty(), is_warned, "{flags:?}");
    }
}

#[test]
fn a_join_token_that_is_installed_later_is_not_sent_in_plaintext_either() {
    let files = CredentialFiles {
        tls: false,
        in_plaintext: Err(InvalidToken::Plaintext),
        token: Some("token".into()),
        roles: &["worker"],
        authority: None,
        pair: None,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "0123456789abcdef").unwrap();
    let watched = Watched::new(vec![path.clone()], move |sources| {
        files.credentials(sources)
    })
    .unwrap();
    let authority =
        crate::tls::Authority::of(&rustls::pki_types::CertificateDer::from(b"x".to_vec()));
    std::fs::write(&path, crate::tls::Token::new(authority, [7; 32]).reveal()).unwrap();
    watched.check_files();
    assert_eq!(watched.refused(), 1);
    assert_eq!(
        watched.get().bearer.as_ref().unwrap(),
        "Bearer 0123456789abcdef"
    );
}

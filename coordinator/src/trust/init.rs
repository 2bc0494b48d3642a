//! `coordinator init`: makes what a cluster needs to be closed to strangers, a certificate authority, the coordinator's
//! certificate, and a token for each role.
//!
//! Everything is made in memory first and nothing is ever overwritten: a cluster whose authority is replaced has lost its
//! workers.

use std::{
    fs::{DirBuilder, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use shared::tls::{Authority, Token};
use worker::config::host_name;

use super::Role;

/// The certificates are good for so long: about ten years.
const VALIDITY: Duration = Duration::from_hours(24 * 3650);
/// They were good a day ago: clocks differ.
const EARLIER: Duration = Duration::from_hours(24);

/// What `coordinator init` is told.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Folder for the certificates and tokens; made if it is missing
    #[arg(long, env = "IMAGENET_DIR", value_name = "DIR", default_value = "imagenet-trust")]
    pub dir: PathBuf,
    /// Names and addresses under which workers reach the coordinator, besides this host's name and loopback
    #[arg(long, env = "IMAGENET_ADVERTISE", value_name = "HOST,…", value_delimiter = ',', value_parser = host)]
    pub advertise: Vec<String>,
}

/// Why there is nothing new; fit to follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is something already.
    #[error(
        "make certificates and tokens: {} is there already and nothing is ever overwritten; use what is there, or give \
         another folder with --dir", path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file system.
    #[error("write {}: {source}; give a writable folder with --dir", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The certificates.
    #[error("make certificates: {0}; look at the names given with --advertise")]
    Certificate(#[from] rcgen::Error),
    /// The next steps.
    #[error("write to standard output: {0}")]
    Say(io::Error),
}

/// A file to be: its name, its content, and whether others may read it.
type New = (&'static str, String, bool);

/// Makes everything and says what to do next.
///
/// # Errors
/// [`InitError`]; what was written before stays.
pub fn init(arguments: &InitArgs, out: &mut impl Write) -> Result<(), InitError> {
    let files = files(&arguments.advertise)?;
    let folder = &arguments.dir;
    if let Some((name, ..)) = files.iter().find(|(name, ..)| folder.join(name).symlink_metadata().is_ok()) {
        return Err(InitError::Exists { path: folder.join(name) });
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| InitError::Write { path: folder.clone(), source })?;
    for (name, content, is_public) in &files {
        write(&folder.join(name), content, *is_public)?;
    }
    let host = arguments.advertise.first().cloned().unwrap_or_else(host_name);
    out.write_all(next_steps(folder, &host).as_bytes()).and_then(|()| out.flush()).map_err(InitError::Say)
}

fn files(advertise: &[String]) -> Result<Vec<New>, InitError> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "imagenet cluster authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_now(&mut authority);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

    let own = host_name();
    let names = ["localhost", "127.0.0.1", "::1", &own].into_iter().map(str::to_owned).chain(advertise.iter().cloned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name.push(DnType::CommonName, "imagenet coordinator");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.use_authority_key_identifier_extension = true;
    valid_now(&mut server);
    let server_key = KeyPair::generate()?;
    let server = server.signed_by(&server_key, &authority)?;

    let digest = Authority::of(authority.der());
    let [worker, viewer, admin] = [Role::Worker, Role::Viewer, Role::Admin].map(|_| Token::new(digest, rand::random()));
    let tokens = format!(
        "# For the coordinator's --token-file: a role and a token on each line. Several tokens of one role are valid at\n\
         # once, and the file is read again when it changes.\n\
         worker {}\nviewer {}\nadmin {}\n",
        worker.reveal(),
        viewer.reveal(),
        admin.reveal()
    );
    let alone = |token: &Token| format!("{}\n", token.reveal());
    Ok(vec![
        ("ca.pem", authority.pem(), true),
        ("ca.key", authority.key().serialize_pem(), false),
        ("server.pem", server.pem() + &authority.pem(), true),
        ("server.key", server_key.serialize_pem(), false),
        ("tokens", tokens, false),
        ("worker.token", alone(&worker), false),
        ("viewer.token", alone(&viewer), false),
        ("admin.token", alone(&admin), false),
    ])
}

fn valid_now(certificate: &mut CertificateParams) {
    let now = SystemTime::now();
    certificate.not_before = (now - EARLIER).into();
    certificate.not_after = (now + VALIDITY).into();
}

fn write(path: &Path, content: &str, is_public: bool) -> Result<(), InitError> {
    let mode = if is_public { 0o644 } else { 0o600 };
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes())).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists { path: path.to_owned() },
        _ => InitError::Write { path: path.to_owned(), source },
    })
}

fn next_steps(folder: &Path, host: &str) -> String {
    let folder = folder.display();
    let host = if host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    format!(
        "Made {folder}: a certificate authority, the coordinator's certificate and a token for each role.\n\
         \n\
         On this machine, the coordinator:\n\
         \n    coordinator --fname data.csv --listen 0.0.0.0:50051 --tls-cert {folder}/server.pem --tls-key {folder}/server.key --token-file {folder}/tokens\n\
         \n\
         On each machine that downloads, after copying {folder}/worker.token to it, a worker:\n\
         \n    worker --connect https://{host}:50051 --token-file worker.token --target /data/imagenet\n\
         \n\
         To look on, from anywhere:\n\
         \n    coordinator status --connect https://{host}:50051 --token-file {folder}/viewer.token\n\
         \n\
         admin.token is for `coordinator retry` and `coordinator drain`. Keep ca.key away from all of them: who has it can be\n\
         the coordinator.\n"
    )
}

/// A name or an address, without a port.
fn host(text: &str) -> Result<String, String> {
    let text = text.trim().trim_matches(['[', ']']);
    let is_name = |text: &str| {
        let fits = |character: char| character.is_ascii_alphanumeric() || "-._*".contains(character);
        !text.is_empty() && text.len() <= 253 && text.chars().all(fits)
    };
    if text.parse::<IpAddr>().is_ok() || is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("it takes names and addresses without a port, e.g. node1.example.org,10.0.0.5".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn run(dir: &Path, advertise: &[&str]) -> Result<String, InitError> {
        let arguments =
            InitArgs { dir: dir.to_owned(), advertise: advertise.iter().map(ToString::to_string).collect() };
        let mut out = Vec::new();
        init(&arguments, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn private_files_are_private_and_the_next_steps_name_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("a/b");
        let said = run(&dir, &["node1.example.org", "10.0.0.5"]).unwrap();
        for (name, mode) in [
            ("ca.pem", 0o644),
            ("ca.key", 0o600),
            ("server.pem", 0o644),
            ("server.key", 0o600),
            ("tokens", 0o600),
            ("worker.token", 0o600),
            ("viewer.token", 0o600),
            ("admin.token", 0o600),
        ] {
            assert_eq!(dir.join(name).metadata().unwrap().permissions().mode() & 0o777, mode, "{name}");
        }
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(said.contains("worker --connect https://node1.example.org:50051 --token-file worker.token"), "{said}");
        assert!(!said.contains("idl1."), "{said}");
    }

    #[test]
    fn nothing_is_ever_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), &[]).unwrap();
        let before = std::fs::read(folder.path().join("ca.pem")).unwrap();
        for name in ["ca.pem", "server.key", "tokens"] {
            let error = run(folder.path(), &[]).unwrap_err().to_string();
            assert!(error.contains("is there already and nothing is ever overwritten"), "{error}");
            std::fs::remove_file(folder.path().join(name)).unwrap();
            assert!(matches!(run(folder.path(), &[]), Err(InitError::Exists { .. })), "{name}");
            std::fs::write(folder.path().join(name), if name == "ca.pem" { before.clone() } else { vec![] }).unwrap();
        }
        assert_eq!(std::fs::read(folder.path().join("ca.pem")).unwrap(), before);
    }

    #[test]
    fn hosts_have_no_port() {
        for wrong in ["node1:50051", "https://node1", "", "a b", "10.0.0.5:1"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
        assert_eq!(host(" [fd00::1] "), Ok("fd00::1".to_owned()));
        assert_eq!(host("*.example.org"), Ok("*.example.org".to_owned()));
    }
}

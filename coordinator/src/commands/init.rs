//! `coordinator init`: makes what a cluster needs to be closed to strangers, a certificate authority, the coordinator's
//! certificate, and a token for each role.
//!
//! Nothing is ever overwritten: a cluster whose authority is replaced has lost its workers. What has been taken away is made
//! anew, by the authority that is there; so certificates and tokens are renewed.

use std::{
    fs::{DirBuilder, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _,
};
use rustls::pki_types::CertificateDer;
use shared::worker_name::host_name;
use shared::{
    own_file::{check_private_folder, is_refused},
    tls::{Authority, Source, TlsError, Token, certificates},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{auth::Role, config::InitArgs};

/// The certificates are good for so long: about ten years.
const VALIDITY: Duration = Duration::from_hours(24 * 3650);
/// They were good a day ago: clocks differ.
const EARLIER: Duration = Duration::from_hours(24);

/// Where one of the files goes.
fn file(arguments: &InitArgs, name: &str) -> PathBuf {
    match &arguments.worker_token_file {
        Some(path) if name == WORKER_TOKEN => path.clone(),
        _ => arguments.dir.join(name),
    }
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
    /// It is kept elsewhere, as it should be.
    #[error(
        "make certificates: {} is missing, which signs them; put it back for as long as this takes, or give another folder \
         with --dir", path.display()
    )]
    NoKey {
        /// The authority's key.
        path: PathBuf,
    },
    /// What it signed would be believed by nobody.
    #[error(
        "make certificates: {} is not the key of {}; put the one back that belongs to it", key.display(),
        certificate.display()
    )]
    OtherKey {
        /// The authority's certificate.
        certificate: PathBuf,
        /// The key of another.
        key: PathBuf,
    },
    /// The file system.
    #[error("write {}: {source}; give another folder, which can be written", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Other users could replace what is made, or have put some of it there already.
    #[error("write secrets into {}: {source} with {flag}", folder.display())]
    OpenFolder {
        /// The folder.
        folder: PathBuf,
        /// Who can write to it.
        source: io::Error,
        /// The flag that names the folder.
        flag: &'static str,
    },
    /// The authority that is there.
    #[error("read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The same.
    #[error(transparent)]
    Authority(#[from] TlsError),
    /// The certificates.
    #[error("make certificates: {0}; look at the names given with --advertise")]
    Certificate(#[from] rcgen::Error),
    /// The next steps.
    #[error("write to standard output: {0}")]
    Say(io::Error),
}

/// A file to be: its name, its content, and whether others may read it.
type New = (&'static str, String, bool);
/// Files that belong together: all are there, or none.
const AUTHORITY: [&str; 2] = ["ca.pem", "ca.key"];
const SERVER: [&str; 2] = ["server.pem", "server.key"];
const TOKENS: [&str; 4] = ["tokens", WORKER_TOKEN, "viewer.token", "admin.token"];
const WORKER_TOKEN: &str = "worker.token";

/// Makes what is missing and says what to do next.
///
/// # Errors
/// [`InitError`]; what was written before stays.
pub(crate) fn init(arguments: &InitArgs, out: &mut impl Write) -> Result<(), InitError> {
    let folder = &arguments.dir;
    check_folder(folder, "--dir")?;
    if let Some(file) = &arguments.worker_token_file {
        check_folder(file.parent().unwrap_or(file), "--worker-token-file")?;
    }
    let [certificate, key] = AUTHORITY.map(|name| folder.join(name));
    let [has_server, has_tokens] = [has_all(arguments, &SERVER)?, has_all(arguments, &TOKENS)?];
    if arguments.if_missing && has_server && has_tokens && is_there(&certificate) {
        return writeln!(out, "Everything is in {} already.", folder.display()).map_err(InitError::Say);
    }
    if is_there(&certificate) && !is_there(&key) {
        return Err(InitError::NoKey { path: key });
    }
    let has_authority = has_all(arguments, &AUTHORITY)?;
    let first = match (has_authority, has_server, has_tokens) {
        (true, true, true) => Some(AUTHORITY[0]),
        // Nothing that is there would belong to a new authority.
        (false, true, _) => Some(SERVER[0]),
        (false, _, true) => Some(TOKENS[0]),
        _ => None,
    };
    if let Some(name) = first {
        return Err(InitError::Exists { path: folder.join(name) });
    }
    let mut files = Vec::new();
    let authority = if has_authority { read_authority(folder)? } else { new_authority(&mut files)? };
    if !has_server {
        server(&authority, &arguments.advertise, &mut files)?;
    }
    if !has_tokens {
        tokens(&authority, &mut files);
    }
    make_folder(folder, "--dir")?;
    if let Some(file) = &arguments.worker_token_file {
        make_folder(file.parent().unwrap_or(file), "--worker-token-file")?;
    }
    for (name, content, is_public) in &files {
        write(&file(arguments, name), content, *is_public)?;
    }
    out.write_all(next_steps(arguments, &files).as_bytes()).and_then(|()| out.flush()).map_err(InitError::Say)
}

/// Makes a folder if it is missing, and checks it again: another user may have made it in between.
fn make_folder(folder: &Path, flag: &'static str) -> Result<(), InitError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    created.map_err(|source| InitError::Write { path: folder.to_owned(), source })?;
    check_folder(folder, flag)
}

/// Refuses a folder in which other users could replace the files, or have put some already.
fn check_folder(folder: &Path, flag: &'static str) -> Result<(), InitError> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    check_private_folder(folder).map_err(|source| {
        let folder = folder.to_owned();
        if is_refused(&source) {
            InitError::OpenFolder { folder, source, flag }
        } else {
            InitError::Write { path: folder, source }
        }
    })
}

/// Whether they are there, all of them or none.
fn has_all(arguments: &InitArgs, names: &[&str]) -> Result<bool, InitError> {
    let is_there = |name: &&&str| is_there(&file(arguments, name));
    match names.iter().filter(is_there).count() {
        0 => Ok(false),
        count if count == names.len() => Ok(true),
        _ => {
            let path = names.iter().find(is_there).map(|name| file(arguments, name)).unwrap_or_default();
            Err(InitError::Exists { path })
        }
    }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// What signs, and the digest of its certificate.
struct Signer {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    digest: Authority,
}

fn new_authority(files: &mut Vec<New>) -> Result<Signer, InitError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "imagenet cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_now(&mut params);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let (pem, digest) = (certificate.pem(), Authority::of(certificate.der()));
    files.push((AUTHORITY[0], pem.clone(), true));
    files.push((AUTHORITY[1], key.serialize_pem(), false));
    Ok(Signer { issuer: Issuer::new(params, key), pem, digest })
}

fn read_authority(folder: &Path) -> Result<Signer, InitError> {
    let [pem, key] = AUTHORITY.map(|name| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).map_err(|source| InitError::Read { path, source })
    });
    let (pem, key) = (pem?, KeyPair::from_pem(&key?)?);
    let source = Source { path: folder.join(AUTHORITY[0]), bytes: pem.clone().into_bytes().into() };
    let certificate = certificates(&source)?.swap_remove(0);
    if !belongs(&key, &certificate) {
        let [certificate, key] = AUTHORITY.map(|name| folder.join(name));
        return Err(InitError::OtherKey { certificate, key });
    }
    let digest = Authority::of(&certificate);
    Ok(Signer { issuer: Issuer::from_ca_cert_pem(&pem, key)?, pem, digest })
}

fn belongs(key: &KeyPair, certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, certificate)| certificate.public_key().raw == key.subject_public_key_info())
}

fn server(authority: &Signer, advertise: &[String], files: &mut Vec<New>) -> Result<(), InitError> {
    let own = host_name();
    let names = ["localhost", "127.0.0.1", "::1", &own].into_iter().map(str::to_owned).chain(advertise.iter().cloned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "imagenet coordinator");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    valid_now(&mut params);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority.issuer)?;
    // Workers know the authority by its digest, so they must be shown the certificate.
    files.push((SERVER[0], certificate.pem() + &authority.pem, true));
    files.push((SERVER[1], key.serialize_pem(), false));
    Ok(())
}

fn tokens(authority: &Signer, files: &mut Vec<New>) {
    let [worker, viewer, admin] = [(); 3].map(|()| Token::new(authority.digest, rand::random()));
    let all = format!(
        "# For the coordinator's --token-file: a role and a token on each line. Several tokens of one role are valid at\n\
         # once, and the file is read again when it changes.\n\
         {} {}\n{} {}\n{} {}\n",
        Role::Worker,
        worker.reveal(),
        Role::Viewer,
        viewer.reveal(),
        Role::Admin,
        admin.reveal()
    );
    let alone = [worker, viewer, admin].map(|token| format!("{}\n", token.reveal()));
    files.extend(TOKENS.into_iter().zip([all].into_iter().chain(alone)).map(|(name, content)| (name, content, false)));
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

fn next_steps(arguments: &InitArgs, files: &[New]) -> String {
    let made = files.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ");
    let (folder, worker_token) = (arguments.dir.display(), file(arguments, WORKER_TOKEN));
    let worker_token = worker_token.display();
    let host = arguments.advertise.iter().find(|host| can_be_reached(host)).cloned().unwrap_or_else(host_name);
    let host = if host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) { format!("[{host}]") } else { host };
    format!(
        "Made in {folder}: {made}.\n\
         \n\
         On this machine, the coordinator:\n\
         \n    coordinator --fname data.csv --max-connections 5 --delete-tar --listen 0.0.0.0:50051 --tls-cert {folder}/server.pem --tls-key {folder}/server.key --token-file {folder}/tokens\n\
         \n\
         On each machine that downloads, after copying {worker_token} to it, a worker:\n\
         \n    worker --connect https://{host}:50051 --token-file worker.token --target /data/imagenet\n\
         \n\
         To look on, from anywhere:\n\
         \n    coordinator status --connect https://{host}:50051 --token-file {folder}/viewer.token\n\
         \n\
         admin.token is for `coordinator retry` and `coordinator drain`. Keep ca.key on another machine: anyone\n\
         with ca.key can impersonate the coordinator.\n"
    )
}

/// Whether a worker can connect to it: not to a name with a star, and not to an unspecified address.
fn can_be_reached(host: &str) -> bool {
    !host.starts_with("*.") && !host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _};

    use rustls::{client::danger::ServerCertVerifier as _, pki_types::UnixTime};
    use shared::tls::{ByAuthority, provider};

    use super::*;
    use crate::config::init::host;

    fn run(dir: &Path, advertise: &[&str]) -> Result<String, InitError> {
        let advertise = advertise.iter().map(ToString::to_string).collect();
        run_with(&InitArgs { dir: dir.to_owned(), advertise, worker_token_file: None, if_missing: false })
    }

    fn run_with(arguments: &InitArgs) -> Result<String, InitError> {
        let mut out = Vec::new();
        init(arguments, &mut out)?;
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
        for (advertised, host) in [
            (&["*.example.org", "0.0.0.0", "127.0.0.2"][..], "127.0.0.2"),
            (&["::", "fd00::1"], "[fd00::1]"),
            (&["*.example.org"], &host_name()),
        ] {
            let said = run(&folder.path().join(host), advertised).unwrap();
            assert!(said.contains(&format!("worker --connect https://{host}:50051")), "{said}");
        }
    }

    /// Name and content of each file.
    fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
        let files = dir.read_dir().unwrap().map(|entry| entry.unwrap());
        files.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
    }

    #[test]
    fn nothing_is_ever_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        run(dir, &[]).unwrap();
        let all = contents(dir);
        // All is there; half of what belongs together is; what belongs to an authority that is not.
        let taken: [&[&str]; 5] =
            [&[], &["ca.pem"], &["server.key"], &["tokens"], &["ca.pem", "ca.key", "server.pem", "server.key"]];
        for taken in taken {
            for name in taken {
                std::fs::remove_file(dir.join(name)).unwrap();
            }
            let before = contents(dir);
            let error = run(dir, &[]).unwrap_err().to_string();
            assert!(error.contains("is there already and nothing is ever overwritten"), "{error}");
            assert_eq!(contents(dir), before);
            for (name, content) in &all {
                std::fs::write(dir.join(name), content).unwrap();
            }
        }
    }

    /// Between the first check and the moment at which the folder would be made.
    #[test]
    fn a_folder_that_another_user_makes_in_between_gets_no_secrets() {
        use std::{
            fs,
            os::unix::fs::{PermissionsExt as _, chown},
        };

        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root, to make folders of other users");
            return;
        }
        let host = tempfile::tempdir().unwrap();
        let folder = host.path().join("trust");
        make_folder(&folder, "--dir").unwrap();
        chown(&folder, Some(54_421), None).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = make_folder(&folder, "--dir").unwrap_err();
        assert!(matches!(refused, InitError::OpenFolder { .. }), "{refused:?}");
    }

    #[test]
    fn without_the_key_of_the_authority_it_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        run(dir, &[]).unwrap();
        let theirs = tempfile::tempdir().unwrap();
        run(theirs.path(), &[]).unwrap();
        std::fs::remove_file(dir.join("server.pem")).unwrap();
        std::fs::remove_file(dir.join("server.key")).unwrap();
        std::fs::rename(dir.join("ca.key"), dir.join("away")).unwrap();
        let before = contents(dir);
        let error = run(dir, &[]).unwrap_err().to_string();
        assert!(error.contains("ca.key is missing, which signs them; put it back"), "{error}");
        assert_eq!(contents(dir), before);

        std::fs::copy(theirs.path().join("ca.key"), dir.join("ca.key")).unwrap();
        let error = run(dir, &[]).unwrap_err().to_string();
        assert!(error.contains("ca.key is not the key of") && error.contains("put the one back"), "{error}");
        assert!(!dir.join("server.pem").exists());

        std::fs::rename(dir.join("away"), dir.join("ca.key")).unwrap();
        assert!(run(dir, &[]).unwrap().contains("server.pem, server.key"));
    }

    #[test]
    fn what_was_taken_away_is_made_anew_by_the_same_authority() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        run(dir, &[]).unwrap();
        for group in [&SERVER[..], &TOKENS] {
            let before = contents(dir);
            for name in group {
                std::fs::remove_file(dir.join(name)).unwrap();
            }
            let said = run(dir, &["node2"]).unwrap();
            assert!(said.starts_with(&format!("Made in {}: {}.", dir.display(), group.join(", "))), "{said}");
            for (name, content) in contents(dir) {
                assert_eq!(content != before[&name], group.contains(&name.as_str()), "{name}");
            }
        }
        let read = |name: &str| Source::read(dir.join(name)).unwrap();
        let chain = certificates(&read("server.pem")).unwrap();
        let token = Token::one_of(&read("worker.token"), &[]).unwrap();
        assert_eq!(token.authority(), Some(Authority::of(&chain[1])));
        assert_eq!(chain[1], certificates(&read("ca.pem")).unwrap()[0]);
        let verifier = ByAuthority::new(Authority::of(&chain[1]), provider());
        let name = "node2".try_into().unwrap();
        assert!(verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()).is_ok());
    }

    #[test]
    fn a_second_time_makes_nothing_and_is_no_error_where_only_what_is_missing_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        let worker_token_file = Some(theirs.join("worker.token"));
        let arguments = InitArgs { dir: dir.clone(), advertise: Vec::new(), worker_token_file, if_missing: true };
        let said = run_with(&arguments).unwrap();
        assert!(said.contains(&format!("after copying {}/worker.token to it", theirs.display())), "{said}");
        let all = [contents(&dir), contents(&theirs)];
        assert_eq!(all.each_ref().map(BTreeMap::len), [7, 1]);
        let secret = String::from_utf8(all[1]["worker.token"].clone()).unwrap();
        assert!(String::from_utf8(all[0]["tokens"].clone()).unwrap().contains(&format!("worker {secret}")));

        assert!(run_with(&arguments).unwrap().contains("is in"));
        assert_eq!([contents(&dir), contents(&theirs)], all);
        // As it should be: the authority's key is kept elsewhere.
        std::fs::remove_file(dir.join("ca.key")).unwrap();
        run_with(&arguments).unwrap();
        std::fs::remove_file(dir.join("tokens")).unwrap();
        run_with(&arguments).unwrap_err();
        assert_eq!(contents(&theirs), all[1]);
    }

    #[test]
    fn hosts_have_no_port() {
        for wrong in [
            "node1:50051",
            "https://node1",
            "",
            "a b",
            "10.0.0.5:1",
            "*",
            "*.",
            "a.*.org",
            "n*",
            "10.0.0.256",
            "10.0.0",
            "a..b",
        ] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
        assert_eq!(host(" [fd00::1] "), Ok("fd00::1".to_owned()));
        assert_eq!(host("*.example.org"), Ok("*.example.org".to_owned()));
    }
}

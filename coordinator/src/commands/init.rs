//! `coordinator init`: creates what a cluster needs for authentication: a certificate authority
//! (CA), the coordinator's certificate, and a token for each role.
//!
//! Invariant: no file is ever overwritten, because a cluster with a new CA loses its workers. Files
//! that were removed are created again with the existing CA; this is how certificates and tokens
//! are renewed.

use std::{
    collections::BTreeSet,
    fs::{DirBuilder, OpenOptions},
    io::{self, Write},
    net::{IpAddr, Ipv6Addr},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use rustls::pki_types::CertificateDer;
use shared::worker_name::host_name;
use shared::{
    own_file::{check_private_folder, is_refused},
    protocol::DEFAULT_PORT,
    tls::{Authority, SourceFile, TlsError, Token, certificates},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{auth::Role, config::InitArgs};

/// Validity of the certificates: about ten years.
const VALIDITY: Duration = Duration::from_hours(24 * 3650);
/// The validity starts this long ago, to allow for clock differences between hosts.
const CLOCK_SKEW: Duration = Duration::from_hours(24);

/// The path of one of the files.
fn file(arguments: &InitArgs, name: &str) -> PathBuf {
    match &arguments.worker_token_file {
        Some(path) if name == WORKER_TOKEN => path.clone(),
        _ => arguments.dir.join(name),
    }
}

/// Why nothing was created; fit to follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// One of the files exists already.
    #[error(
        "make certificates and tokens: {} is there already and nothing is ever overwritten; use what is there, or give \
         another folder with --dir", path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The CA's key is missing. Operators are advised to keep it elsewhere.
    #[error(
        "make certificates: {} is missing, which signs them; put it back for as long as this takes, or give another folder \
         with --dir", path.display()
    )]
    NoKey {
        /// The CA's key.
        path: PathBuf,
    },
    /// The key does not belong to the CA's certificate, so its signatures would not be valid.
    #[error(
        "make certificates: {} is not the key of {}; put the one back that belongs to it", key.display(),
        certificate.display()
    )]
    OtherKey {
        /// The CA's certificate.
        certificate: PathBuf,
        /// The key of another CA.
        key: PathBuf,
    },
    /// A file or folder cannot be written.
    #[error("write {}: {source}; give another folder, which can be written", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Other users could replace the files in the folder, or have put some there already.
    #[error("write secrets into {}: {source} with {flag}", folder.display())]
    OpenFolder {
        /// The folder.
        folder: PathBuf,
        /// Which users can write to it.
        source: io::Error,
        /// The flag that names the folder.
        flag: &'static str,
    },
    /// The existing CA cannot be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The existing CA is not valid.
    #[error(transparent)]
    Authority(#[from] TlsError),
    /// A certificate cannot be created.
    #[error("make certificates: {0}; look at the names given with --advertise")]
    Certificate(#[from] rcgen::Error),
}

/// A file to be written: its name, its content, and whether other users may read it.
type NewFile = (&'static str, String, bool);
/// Files that belong together: either all of them exist or none.
const AUTHORITY: [&str; 2] = ["ca.pem", "ca.key"];
const SERVER: [&str; 2] = ["server.pem", "server.key"];
const TOKENS: [&str; 4] = ["tokens", WORKER_TOKEN, "viewer.token", "admin.token"];
const WORKER_TOKEN: &str = "worker.token";

/// Creates what is missing and returns the next steps.
///
/// # Errors
/// [`InitError`]; what was written before stays.
pub(crate) fn init(arguments: &InitArgs) -> Result<String, InitError> {
    let folder = &arguments.dir;
    let token_file = arguments.worker_token_file.as_deref();
    let token_folder =
        token_file.map(|file| (file.parent().unwrap_or(file), "--worker-token-file"));
    let folders = [(folder.as_path(), "--dir")]
        .into_iter()
        .chain(token_folder);
    for (folder, flag) in folders.clone() {
        check_folder(folder, flag)?;
    }
    let [certificate, key] = AUTHORITY.map(|name| folder.join(name));
    let [has_server, has_tokens] = [has_all(arguments, &SERVER)?, has_all(arguments, &TOKENS)?];
    if arguments.if_missing && has_server && has_tokens && is_there(&certificate) {
        return Ok(format!("Everything is in {} already.", folder.display()));
    }
    if is_there(&certificate) && !is_there(&key) {
        return Err(InitError::NoKey { path: key });
    }
    let has_authority = has_all(arguments, &AUTHORITY)?;
    let first = match (has_authority, has_server, has_tokens) {
        (true, true, true) => Some(AUTHORITY[0]),
        // Existing certificates and tokens would not belong to a new CA.
        (false, true, _) => Some(SERVER[0]),
        (false, _, true) => Some(TOKENS[0]),
        _ => None,
    };
    if let Some(name) = first {
        return Err(InitError::Exists {
            path: folder.join(name),
        });
    }
    let mut files = Vec::new();
    let authority = if has_authority {
        read_authority(folder)?
    } else {
        new_authority(&mut files)?
    };
    if !has_server {
        server(&authority, &arguments.advertise, &mut files)?;
    }
    if !has_tokens {
        tokens(&authority, &mut files);
    }
    for (folder, flag) in folders {
        make_folder(folder, flag)?;
    }
    for (name, content, is_public) in &files {
        write(&file(arguments, name), content, *is_public)?;
    }
    Ok(next_steps(arguments, &files))
}

/// Creates a folder if it is missing, and checks it afterwards: another user may have created it in
/// between.
fn make_folder(folder: &Path, flag: &'static str) -> Result<(), InitError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    created.map_err(|source| not_written(folder, source))?;
    check_folder(folder, flag)
}

/// Rejects a folder in which other users could replace the files, or have put some already.
fn check_folder(folder: &Path, flag: &'static str) -> Result<(), InitError> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    check_private_folder(folder).map_err(|source| {
        if !is_refused(&source) {
            return not_written(folder, source);
        }
        InitError::OpenFolder {
            folder: folder.to_owned(),
            source,
            flag,
        }
    })
}

fn not_written(path: &Path, source: io::Error) -> InitError {
    InitError::Write {
        path: path.to_owned(),
        source,
    }
}

/// Whether all of the files exist. It is an error if only some do.
fn has_all(arguments: &InitArgs, names: &[&str]) -> Result<bool, InitError> {
    let existing = names.iter().map(|name| file(arguments, name));
    let mut existing: Vec<PathBuf> = existing.filter(|path| is_there(path)).collect();
    match existing.len() {
        0 => Ok(false),
        count if count == names.len() => Ok(true),
        _ => Err(InitError::Exists {
            path: existing.swap_remove(0),
        }),
    }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The CA that signs, and the digest of its certificate.
struct Signer {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    digest: Authority,
}

fn new_authority(files: &mut Vec<NewFile>) -> Result<Signer, InitError> {
    let mut params = certificate("imagenet cluster authority", Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let pem = certificate.pem();
    let digest = Authority::of(certificate.der());
    files.push((AUTHORITY[0], pem.clone(), true));
    files.push((AUTHORITY[1], key.serialize_pem(), false));
    Ok(Signer {
        issuer: Issuer::new(params, key),
        pem,
        digest,
    })
}

fn read_authority(folder: &Path) -> Result<Signer, InitError> {
    let [pem, key] = AUTHORITY.map(|name| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).map_err(|source| InitError::Read { path, source })
    });
    let pem = pem?;
    let key = KeyPair::from_pem(&key?)?;
    let source = SourceFile {
        path: folder.join(AUTHORITY[0]),
        bytes: pem.clone().into_bytes().into(),
    };
    let certificate = certificates(&source)?.swap_remove(0);
    if !belongs(&key, &certificate) {
        let [certificate, key] = AUTHORITY.map(|name| folder.join(name));
        return Err(InitError::OtherKey { certificate, key });
    }
    let digest = Authority::of(&certificate);
    Ok(Signer {
        issuer: Issuer::from_ca_cert_pem(&pem, key)?,
        pem,
        digest,
    })
}

fn belongs(key: &KeyPair, certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, certificate)| certificate.public_key().raw == key.subject_public_key_info())
}

fn server(
    authority: &Signer,
    advertise: &[String],
    files: &mut Vec<NewFile>,
) -> Result<(), InitError> {
    let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let names: BTreeSet<String> = local
        .into_iter()
        .chain([host_name()])
        .chain(advertise.iter().cloned())
        .collect();
    let mut params = certificate("imagenet coordinator", names.into_iter().collect())?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority.issuer)?;
    // Workers verify the CA by its digest, so the chain must contain its certificate.
    files.push((SERVER[0], certificate.pem() + &authority.pem, true));
    files.push((SERVER[1], key.serialize_pem(), false));
    Ok(())
}

fn tokens(authority: &Signer, files: &mut Vec<NewFile>) {
    let tokens = [Role::Worker, Role::Viewer, Role::Admin]
        .map(|role| (role, Token::new(authority.digest, rand::random())));
    let lines = tokens
        .iter()
        .map(|(role, token)| format!("{role} {}\n", token.reveal()));
    let all = format!(
        "# For the coordinator's --token-file: a role and a token on each line. Several tokens of one role are valid at\n\
         # once, and the file is read again when it changes.\n\
         {}",
        lines.collect::<String>()
    );
    files.push((TOKENS[0], all, false));
    for (name, (_, token)) in TOKENS[1..].iter().zip(&tokens) {
        files.push((name, format!("{}\n", token.reveal()), false));
    }
}

/// A certificate that is valid from now on, for these names and addresses.
fn certificate(common_name: &str, names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + VALIDITY).into();
    Ok(params)
}

fn write(path: &Path, content: &str, is_public: bool) -> Result<(), InitError> {
    let mode = if is_public { 0o644 } else { 0o600 };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => InitError::Exists {
                path: path.to_owned(),
            },
            _ => not_written(path, source),
        })
}

fn next_steps(arguments: &InitArgs, files: &[NewFile]) -> String {
    let made: Vec<&str> = files.iter().map(|(name, ..)| *name).collect();
    let made = made.join(", ");
    let folder = arguments.dir.display();
    let worker_token = file(arguments, WORKER_TOKEN);
    let worker_token = worker_token.display();
    let host = arguments.advertise.iter().find(|host| can_be_reached(host));
    let mut host = host.cloned().unwrap_or_else(host_name);
    if host.parse::<Ipv6Addr>().is_ok() {
        host = format!("[{host}]");
    }
    format!(
        "Made in {folder}: {made}.\n\
         \n\
         On this machine, the coordinator:\n\
         \n    coordinator --fname data.csv --max-connections 5 --delete-tar --listen 0.0.0.0:{DEFAULT_PORT} --tls-cert {folder}/server.pem --tls-key {folder}/server.key --token-file {folder}/tokens\n\
         \n\
         On each machine that downloads, after copying {worker_token} to it, a worker:\n\
         \n    worker --connect https://{host}:{DEFAULT_PORT} --token-file worker.token --target /data/imagenet\n\
         \n\
         To look on, from anywhere:\n\
         \n    coordinator status --connect https://{host}:{DEFAULT_PORT} --token-file {folder}/viewer.token\n\
         \n\
         admin.token is for `coordinator retry` and `coordinator drain`. Keep ca.key on another machine: anyone\n\
         with ca.key can impersonate the coordinator."
    )
}

/// Whether a worker can connect to `host`: it is neither a wildcard nor an unspecified address.
fn can_be_reached(host: &str) -> bool {
    !host.starts_with("*.")
        && !host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _};

    use rustls::{client::danger::ServerCertVerifier as _, pki_types::UnixTime};
    use shared::tls::AuthorityVerifier;

    use super::*;
    use crate::config::init::host;

    fn run(dir: &Path, advertise: &[&str]) -> Result<String, InitError> {
        let advertise = advertise.iter().map(ToString::to_string).collect();
        run_with(&InitArgs {
            dir: dir.to_owned(),
            advertise,
            worker_token_file: None,
            if_missing: false,
        })
    }

    fn run_with(arguments: &InitArgs) -> Result<String, InitError> {
        init(arguments)
    }

    #[test]
    fn private_files_have_mode_600_and_the_output_contains_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("a/b");
        let output = run(&dir, &["node1.example.org", "10.0.0.5"]).unwrap();
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
            assert_eq!(
                dir.join(name).metadata().unwrap().permissions().mode() & 0o777,
                mode,
                "{name}"
            );
        }
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(
            output.contains(
                "worker --connect https://node1.example.org:50051 --token-file worker.token"
            ),
            "{output}"
        );
        assert!(!output.contains("idl1."), "{output}");
        for (advertised, host) in [
            (&["*.example.org", "0.0.0.0", "127.0.0.2"][..], "127.0.0.2"),
            (&["::", "fd00::1"], "[fd00::1]"),
            (&["*.example.org"], &host_name()),
        ] {
            let output = run(&folder.path().join(host), advertised).unwrap();
            assert!(
                output.contains(&format!("worker --connect https://{host}:50051")),
                "{output}"
            );
        }
    }

    /// Name and content of each file.
    fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
        let files = dir.read_dir().unwrap().map(|entry| entry.unwrap());
        files
            .map(|entry| {
                (
                    entry.file_name().into_string().unwrap(),
                    std::fs::read(entry.path()).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn existing_files_are_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        run(dir, &[]).unwrap();
        let all = contents(dir);
        // All files exist; half of a group exists; files exist that belong to a missing CA.
        let taken: [&[&str]; 5] = [
            &[],
            &["ca.pem"],
            &["server.key"],
            &["tokens"],
            &["ca.pem", "ca.key", "server.pem", "server.key"],
        ];
        for taken in taken {
            for name in taken {
                std::fs::remove_file(dir.join(name)).unwrap();
            }
            let before = contents(dir);
            let error = run(dir, &[]).unwrap_err().to_string();
            assert!(
                error.contains("is there already and nothing is ever overwritten"),
                "{error}"
            );
            assert_eq!(contents(dir), before);
            for (name, content) in &all {
                std::fs::write(dir.join(name), content).unwrap();
            }
        }
    }

    /// Another user creates the folder between the first check and its creation.
    #[test]
    fn a_folder_that_another_user_creates_in_between_is_refused() {
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
        assert!(
            matches!(refused, InitError::OpenFolder { .. }),
            "{refused:?}"
        );
    }

    #[test]
    fn a_missing_or_wrong_ca_key_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        run(dir, &[]).unwrap();
        let other = tempfile::tempdir().unwrap();
        run(other.path(), &[]).unwrap();
        std::fs::remove_file(dir.join("server.pem")).unwrap();
        std::fs::remove_file(dir.join("server.key")).unwrap();
        std::fs::rename(dir.join("ca.key"), dir.join("away")).unwrap();
        let before = contents(dir);
        let error = run(dir, &[]).unwrap_err().to_string();
        assert!(
            error.contains("ca.key is missing, which signs them; put it back"),
            "{error}"
        );
        assert_eq!(contents(dir), before);

        std::fs::copy(other.path().join("ca.key"), dir.join("ca.key")).unwrap();
        let error = run(dir, &[]).unwrap_err().to_string();
        assert!(
            error.contains("ca.key is not the key of") && error.contains("put the one back"),
            "{error}"
        );
        assert!(!dir.join("server.pem").exists());

        std::fs::rename(dir.join("away"), dir.join("ca.key")).unwrap();
        assert!(run(dir, &[]).unwrap().contains("server.pem, server.key"));
    }

    #[test]
    fn removed_files_are_created_again_with_the_same_ca() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        run(dir, &[]).unwrap();
        for group in [&SERVER[..], &TOKENS] {
            let before = contents(dir);
            for name in group {
                std::fs::remove_file(dir.join(name)).unwrap();
            }
            let output = run(dir, &["node2"]).unwrap();
            assert!(
                output.starts_with(&format!("Made in {}: {}.", dir.display(), group.join(", "))),
                "{output}"
            );
            for (name, content) in contents(dir) {
                assert_eq!(
                    content != before[&name],
                    group.contains(&name.as_str()),
                    "{name}"
                );
            }
        }
        let read = |name: &str| SourceFile::read(dir.join(name)).unwrap();
        let chain = certificates(&read("server.pem")).unwrap();
        let token = Token::one_of(&read("worker.token"), &[]).unwrap();
        assert_eq!(token.authority(), Some(Authority::of(&chain[1])));
        assert_eq!(chain[1], certificates(&read("ca.pem")).unwrap()[0]);
        let verifier = AuthorityVerifier::new(Authority::of(&chain[1]));
        let name = "node2".try_into().unwrap();
        assert!(
            verifier
                .verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now())
                .is_ok()
        );
    }

    #[test]
    fn a_second_init_with_if_missing_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ours");
        let other = folder.path().join("other");
        let worker_token_file = Some(other.join("worker.token"));
        let arguments = InitArgs {
            dir: dir.clone(),
            advertise: Vec::new(),
            worker_token_file,
            if_missing: true,
        };
        let output = run_with(&arguments).unwrap();
        assert!(
            output.contains(&format!(
                "after copying {}/worker.token to it",
                other.display()
            )),
            "{output}"
        );
        let all = [contents(&dir), contents(&other)];
        assert_eq!(all.each_ref().map(BTreeMap::len), [7, 1]);
        let secret = String::from_utf8(all[1]["worker.token"].clone()).unwrap();
        assert!(
            String::from_utf8(all[0]["tokens"].clone())
                .unwrap()
                .contains(&format!("worker {secret}"))
        );

        assert!(run_with(&arguments).unwrap().contains("is in"));
        assert_eq!([contents(&dir), contents(&other)], all);
        // Keeping the CA's key elsewhere is recommended.
        std::fs::remove_file(dir.join("ca.key")).unwrap();
        run_with(&arguments).unwrap();
        std::fs::remove_file(dir.join("tokens")).unwrap();
        run_with(&arguments).unwrap_err();
        assert_eq!(contents(&other), all[1]);
    }

    #[test]
    fn hosts_with_a_port_or_a_scheme_are_rejected() {
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

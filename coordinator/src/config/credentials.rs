//! The flags for authentication, and the check of their combination: connections from other hosts
//! need TLS and a credential.

use std::net::SocketAddr;

use clap::Args;

use super::ConfigError;
use crate::auth::ServerCredentialFiles;

/// The flags for authentication.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Who may join (`coordinator init` makes certificates and tokens)")]
pub struct AuthConfig {
    /// The credentials.
    #[command(flatten)]
    pub files: ServerCredentialFiles,
    /// Listen in plaintext, or without asking for a credential, where others can connect: only on a
    /// network that is closed itself, or, where the job has credentials for the origin, on a
    /// machine without other users
    #[arg(long)]
    pub insecure: bool,
}

/// Which programs can connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Programs on this machine only.
    Loopback,
    /// Programs on other hosts, with TLS and a credential.
    Closed,
    /// Programs on other hosts, without TLS or without a credential, as `--insecure` permits.
    Insecure,
}

impl AuthConfig {
    /// The files, and the exposure at this address. Without an address it is the same as on
    /// loopback.
    ///
    /// A job with secrets requires a credential: a worker receives the secrets when it registers,
    /// and every program that can connect can register.
    pub(super) fn check(
        self,
        listen: Option<SocketAddr>,
        has_secrets: bool,
    ) -> Result<(ServerCredentialFiles, Exposure), ConfigError> {
        let Self { files, insecure } = self;
        let has_tls = files.has_tls();
        let has_credential = files.requires_credential();
        let exposure = match listen {
            None => Exposure::Loopback,
            Some(address) if address.ip().is_loopback() => {
                match (has_secrets && !has_credential, insecure) {
                    (false, _) => Exposure::Loopback,
                    (true, true) => Exposure::Insecure,
                    (true, false) => return Err(ConfigError::Secrets(address)),
                }
            }
            Some(_) if has_tls && has_credential => Exposure::Closed,
            Some(_) if insecure => Exposure::Insecure,
            Some(address) if !has_tls => return Err(ConfigError::Plaintext(address)),
            Some(address) => return Err(ConfigError::NoCredential(address)),
        };
        Ok((files, exposure))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn check(listen: &str, flags: &[&str]) -> Result<Exposure, String> {
        check_job(listen, flags, false)
    }

    fn check_job(listen: &str, flags: &[&str], has_secrets: bool) -> Result<Exposure, String> {
        let path = |flag| flags.contains(&flag).then(|| PathBuf::from(flag));
        let config = AuthConfig {
            files: ServerCredentialFiles {
                tls_cert: path("tls"),
                tls_key: path("tls"),
                tls_client_ca: path("client-ca"),
                token_file: path("token"),
            },
            insecure: flags.contains(&"insecure"),
        };
        config
            .check(listen.parse().ok(), has_secrets)
            .map(|(_, exposure)| exposure)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn loopback_needs_no_credential() {
        for listen in ["127.0.0.1:50051", "127.9.9.9:1", "[::1]:1", "nowhere"] {
            for flags in [
                &[][..],
                &["token"],
                &["tls", "token"],
                &["tls"],
                &["insecure"],
            ] {
                assert_eq!(
                    check(listen, flags),
                    Ok(Exposure::Loopback),
                    "{listen} {flags:?}"
                );
            }
        }
    }

    #[test]
    fn on_loopback_a_job_with_secrets_needs_a_credential() {
        for listen in ["127.0.0.1:50051", "[::1]:1"] {
            for flags in [&["token"][..], &["tls", "token"], &["tls", "client-ca"]] {
                assert_eq!(
                    check_job(listen, flags, true),
                    Ok(Exposure::Loopback),
                    "{listen} {flags:?}"
                );
            }
            assert_eq!(
                check_job(listen, &["insecure"], true),
                Ok(Exposure::Insecure)
            );
            for flags in [&[][..], &["tls"]] {
                let error = check_job(listen, flags, true).unwrap_err();
                for fix in [
                    "coordinator init",
                    "--tls-cert",
                    "--tls-key",
                    "--token-file",
                    "--dev",
                    "--insecure",
                ] {
                    assert!(error.contains(fix), "{fix}: {error}");
                }
            }
        }
        assert_eq!(
            check_job("nothing that listens", &[], true),
            Ok(Exposure::Loopback)
        );
        assert_eq!(
            check_job("10.0.0.5:50051", &["insecure"], true),
            Ok(Exposure::Insecure)
        );
    }

    #[test]
    fn other_addresses_need_tls_and_a_credential_or_insecure() {
        for listen in [
            "0.0.0.0:50051",
            "10.0.0.5:50051",
            "[::]:50051",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(check(listen, &["tls", "token"]), Ok(Exposure::Closed));
            assert_eq!(check(listen, &["tls", "client-ca"]), Ok(Exposure::Closed));
            for flags in [
                &["insecure"][..],
                &["insecure", "token"],
                &["insecure", "tls"],
            ] {
                assert_eq!(check(listen, flags), Ok(Exposure::Insecure), "{flags:?}");
            }
            for flags in [&[][..], &["token"]] {
                let error = check(listen, flags).unwrap_err();
                for fix in [
                    "coordinator init",
                    "--tls-cert",
                    "--tls-key",
                    "--token-file",
                    "--listen 127.0.0.1",
                    "--insecure",
                ] {
                    assert!(error.contains(fix), "{fix}: {error}");
                }
            }
            let error = check(listen, &["tls"]).unwrap_err();
            assert!(
                error.contains("--token-file") && error.contains("--tls-client-ca"),
                "{error}"
            );
        }
    }
}

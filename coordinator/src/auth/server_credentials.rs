//! The server's credentials: its certificate, the tokens, and whether clients must authenticate.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use clap::Args;
use shared::{
    http::TlsSource,
    lock::lock,
    metrics::{MetricsSource, Page},
    tls::{self, TlsError, Watched},
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{
    server_tls::{ServerTls, server_tls},
    tokens::Tokens,
};

/// Interval at which the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Interval of the warning that the certificate expires soon.
const WARNING_INTERVAL: Duration = Duration::from_hours(24);

/// The flags for the files. Without a certificate the connection is plaintext.
#[derive(Debug, Clone, Default, Args)]
pub struct ServerCredentialFiles {
    /// The coordinator's certificate and those of its issuers, PEM; read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Authority whose certificates let workers in, PEM; each worker under the name in its
    /// certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Tokens that let in, one `role token` a line (worker, viewer, admin; a token alone is a
    /// worker's); read again when it changes
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// The current content of the files.
#[derive(Debug)]
pub struct ServerCredentials {
    pub(super) tls: Option<Watched<ServerTls>>,
    pub(super) tokens: Option<Watched<Tokens>>,
    pub(super) has_client_authority: bool,
}

impl ServerCredentialFiles {
    /// The files that hold secrets.
    pub fn secret_paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.tls_key.iter().chain(&self.token_file)
    }

    /// Whether the server has TLS: a certificate and its key.
    pub fn has_tls(&self) -> bool {
        self.tls().is_some()
    }

    /// Whether clients must authenticate.
    pub fn requires_credential(&self) -> bool {
        self.token_file.is_some() || self.tls_client_ca.is_some()
    }

    fn tls(&self) -> Option<(&PathBuf, &PathBuf)> {
        self.tls_cert.as_ref().zip(self.tls_key.as_ref())
    }

    /// Reads all files.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub fn open(&self) -> Result<ServerCredentials, TlsError> {
        let tls = self.tls().map(|(certificate, key)| {
            let paths = [certificate, key].into_iter().chain(&self.tls_client_ca);
            Watched::new(paths.cloned().collect(), server_tls)
        });
        let tokens = self.token_file.as_ref().map(|path| {
            let earlier = Mutex::new(None);
            Watched::new(vec![path.clone()], move |sources| {
                let mut earlier = lock(&earlier);
                let tokens = reload(&sources[0], earlier.as_ref())?;
                *earlier = Some(tokens.clone());
                Ok(tokens)
            })
        });
        Ok(ServerCredentials {
            tls: tls.transpose()?,
            tokens: tokens.transpose()?,
            has_client_authority: self.tls_client_ca.is_some(),
        })
    }
}

/// The tokens of a changed file. An empty file revokes all tokens; at the start it is an error.
fn reload(source: &tls::SourceFile, earlier: Option<&Tokens>) -> Result<Tokens, TlsError> {
    let Some(earlier) = earlier else {
        return Tokens::read(source);
    };
    let tokens = match Tokens::read(source) {
        Err(TlsError::NoTokens { path }) => {
            tracing::warn!(
                "{} holds no token any more: all tokens are revoked",
                path.display()
            );
            Tokens::default()
        }
        read => read?,
    };
    Ok(tokens.replacing(earlier))
}

impl MetricsSource for ServerCredentials {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        if let Some(tls) = &self.tls {
            let ends = tls.get().ends.duration_since(SystemTime::UNIX_EPOCH);
            let ends = ends.unwrap_or_default();
            let help = "Expiry of the coordinator's certificate, in seconds since 1970-01-01 UTC.";
            page.gauge("certificate_expiry_timestamp_seconds", help, ends.as_secs())?;
        }
        let refused = [
            ("certificate", self.tls.as_ref().map(Watched::refused)),
            ("tokens", self.tokens.as_ref().map(Watched::refused)),
        ];
        let help =
            "Changed files that were rejected; the previous certificate or tokens stay in use.";
        let refused = refused.into_iter();
        let refused = refused.filter_map(|(file, refused)| Some((("file", file), refused?)));
        let refused: Vec<_> = refused.collect();
        page.counters("credential_reload_failures", help, &refused)
    }
}

impl ServerCredentials {
    /// Whether connections are encrypted.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether clients must authenticate.
    pub fn requires_credential(&self) -> bool {
        self.tokens.is_some() || self.has_client_authority
    }

    /// Whether there are tokens.
    pub(crate) fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Whether there are files that may change.
    pub(crate) fn has_files(&self) -> bool {
        self.has_tls() || self.has_tokens()
    }

    /// The TLS configuration of the HTTP port, always the current one. `None` without a
    /// certificate.
    pub(crate) fn http_tls(self: &Arc<Self>) -> Option<TlsSource> {
        self.tls.as_ref()?;
        let credentials = Arc::clone(self);
        Some(Arc::new(move || {
            let tls = credentials.tls.as_ref().expect("it was there before");
            Arc::clone(&tls.get().http)
        }))
    }

    /// The name in the certificate under which workers of other hosts reach the coordinator.
    pub fn advertised_name(&self) -> Option<String> {
        self.tls.as_ref().and_then(|tls| tls.get().name.clone())
    }

    /// The flags that a worker needs to connect, with the file names that `coordinator init` and
    /// its documentation use. A worker accepts `--insecure` for loopback only.
    pub fn worker_flags(&self, is_loopback: bool) -> &'static str {
        match (&self.tokens, &self.tls) {
            (Some(_), None) if is_loopback => " --token-file worker.token --insecure",
            (Some(_), _) => " --token-file worker.token",
            (None, Some(_)) if self.has_client_authority => {
                " --tls-ca ca.pem --tls-cert worker.pem --tls-key worker.key"
            }
            (None, Some(_)) => " --tls-ca ca.pem",
            (None, None) => "",
        }
    }

    /// Checks the files for changes and warns before the certificate expires. Never ends.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut warn_at = Instant::now();
        loop {
            if warn_at <= Instant::now()
                && let Some(left) = self
                    .tls
                    .as_ref()
                    .and_then(|tls| tls.get().ends_soon(SystemTime::now()))
            {
                warn_at = Instant::now() + WARNING_INTERVAL;
                tracing::warn!(
                    "the coordinator's certificate {}; replace the files of --tls-cert and --tls-key",
                    end_in_words(left)
                );
            }
            sleep(CHECK_INTERVAL).await;
            let credentials = Arc::clone(&self);
            let checked = spawn_blocking(move || {
                if let Some(tls) = &credentials.tls {
                    tls.check_files();
                }
                if let Some(tokens) = &credentials.tokens {
                    tokens.check_files();
                }
            });
            if checked.await.is_err() {
                tracing::warn!("certificates and tokens could not be looked at, trying again");
            }
        }
    }
}

fn end_in_words(left: Duration) -> String {
    match (left.is_zero(), left.as_secs() / (24 * 3600)) {
        (true, _) => "has ended, and no worker believes it any more".to_owned(),
        (false, 0) => "ends within a day".to_owned(),
        (false, 1) => "ends in 1 day".to_owned(),
        (false, days) => format!("ends in {days} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_command_has_the_flags_that_the_credentials_require() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = crate::config::InitArgs {
            dir: folder.path().to_owned(),
            advertise: Vec::new(),
            worker_token_file: None,
            if_missing: false,
        };
        crate::commands::init::init(&arguments).unwrap();
        let path = |name| folder.path().join(name);
        let plaintext = ServerCredentialFiles::default();
        let tls = ServerCredentialFiles {
            tls_cert: Some(path("server.pem")),
            tls_key: Some(path("server.key")),
            ..plaintext.clone()
        };
        let authority = ServerCredentialFiles {
            tls_client_ca: Some(path("ca.pem")),
            ..tls.clone()
        };
        let with_tokens = |files: &ServerCredentialFiles| ServerCredentialFiles {
            token_file: Some(path("tokens")),
            ..files.clone()
        };
        for (files, flags) in [
            (
                with_tokens(&plaintext),
                " --token-file worker.token --insecure",
            ),
            (plaintext, ""),
            (with_tokens(&authority), " --token-file worker.token"),
            (
                authority,
                " --tls-ca ca.pem --tls-cert worker.pem --tls-key worker.key",
            ),
            (tls, " --tls-ca ca.pem"),
        ] {
            assert_eq!(files.open().unwrap().worker_flags(true), flags, "{files:?}");
            let over_network = flags.trim_end_matches(" --insecure");
            assert_eq!(
                files.open().unwrap().worker_flags(false),
                over_network,
                "{files:?}"
            );
        }
    }

    #[test]
    fn an_emptied_token_file_revokes_all_tokens_and_a_rewritten_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let text = "worker worker-0123456789\n";
        let files = ServerCredentialFiles {
            token_file: Some(path.clone()),
            ..ServerCredentialFiles::default()
        };
        std::fs::write(&path, "# none\n").unwrap();
        assert!(
            files.open().is_err(),
            "at the start an empty file is an error"
        );
        std::fs::write(&path, text).unwrap();
        let tokens = files.open().unwrap().tokens.unwrap();
        let grant = || tokens.get().authenticate(b"worker-0123456789");
        let first = grant().unwrap();
        for content in ["", text, "# none\n", text] {
            std::fs::write(&path, content).unwrap();
            tokens.check_files();
            assert!(
                grant().is_some() && !first.revoked.is_cancelled(),
                "{content:?}"
            );
        }
        std::fs::write(&path, "# none\n").unwrap();
        for is_revoked in [false, true, true] {
            tokens.check_files();
            assert_eq!(
                (grant().is_none(), first.revoked.is_cancelled()),
                (is_revoked, is_revoked)
            );
        }
        std::fs::write(&path, text).unwrap();
        tokens.check_files();
        assert!(!grant().unwrap().revoked.is_cancelled());
        assert_eq!(tokens.refused(), 0);
    }

    #[test]
    fn the_time_until_expiry_is_worded_in_days() {
        let hour = Duration::from_hours(1);
        for (left, words) in [
            (
                Duration::ZERO,
                "has ended, and no worker believes it any more",
            ),
            (hour, "ends within a day"),
            (hour * 25, "ends in 1 day"),
            (hour * 300, "ends in 12 days"),
        ] {
            assert_eq!(end_in_words(left), words);
        }
    }
}

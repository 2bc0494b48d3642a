//! The errors of the library's functions. Each message is a complete sentence.

use shared::{
    class_list::ClassListError, job::InvalidUrl, refusal::Refusal, refused_sample::OriginRefuses,
};

use super::Stats;
use crate::{fetch::context::JobContextError, storage::target::TargetError};

/// Why no ids could be read.
#[derive(Debug, thiserror::Error)]
#[error("{}", sentence(.0))]
pub struct ReadError(#[from] ClassListError);

impl ReadError {
    /// The reason, for programs that handle them separately.
    pub fn reason(&self) -> &ClassListError {
        &self.0
    }
}

/// The missing column has its own wording, see [`ClassListError`].
fn sentence(error: &ClassListError) -> String {
    match error {
        ClassListError::MissingColumn { .. } => error.to_string(),
        ClassListError::Unusable { .. } => format!("cannot {error}"),
    }
}

/// Why a batch did not run, or did not finish. Completed classes stay, and the same call continues
/// with the rest.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The URL is invalid.
    #[error("cannot use the URL: {0}")]
    Url(#[from] InvalidUrl),
    /// A number in [`Options`](super::Options) is 0 and must be at least 1.
    #[error("cannot download with {option} = 0: give at least 1")]
    Zero {
        /// The field's name.
        option: &'static str,
    },
    /// The target folder or the HTTP client cannot be used.
    #[error("cannot {0}")]
    JobContext(#[from] JobContextError),
    /// The target failed during the batch, for example because the disk is full.
    #[error("cannot {0}")]
    Target(#[from] TargetError),
    /// The origin refuses every class in the same way, for example because of a wrong URL or a
    /// missing login.
    #[error("cannot get any class from {origin}: {refuses}. {}No class is counted as failed", advice(.refuses.refusal))]
    OriginRefuses {
        /// Scheme, host and port.
        origin: String,
        /// How it refused a sample of the list.
        refuses: Box<OriginRefuses>,
    },
    /// [`Options::cancellation`](super::Options::cancellation) was cancelled before every class had
    /// ended.
    #[error("cancelled after {} classes", .stats.total())]
    Cancelled {
        /// Results of the classes that had ended.
        stats: Stats,
    },
}

/// The fields of [`Options`](super::Options) to check. Empty if the failure names them.
fn advice(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Status(407) => {
            "The proxy asks for a login: give it in HTTP_PROXY or HTTPS_PROXY. "
        }
        Refusal::Status(404 | 410) => {
            "There is nothing under these URLs: check the path in Options::url. "
        }
        Refusal::Status(_) | Refusal::Redirect | Refusal::NotATar => {
            "Check Options::url, and give a login in Options::headers if the origin needs one. "
        }
        Refusal::Certificate | Refusal::Scheme => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::{Options, download_batch, load_part_ids_from_csv};

    #[test]
    fn an_unusable_csv_is_reported_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("other.csv"), "id\nn00000001\n").unwrap();
        let missing = load_part_ids_from_csv(path("none.csv"))
            .unwrap_err()
            .to_string();
        let start = format!(
            "cannot read {}: there is no such file",
            path("none.csv").display()
        );
        assert!(missing.starts_with(&start), "{missing}");
        let other = load_part_ids_from_csv(path("other.csv"))
            .unwrap_err()
            .to_string();
        assert_eq!(other, "CSV file must contain 'wnid' column (found: id)");
    }

    #[tokio::test]
    async fn invalid_options_are_reported_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            url: "http://127.0.0.1:1".to_owned(),
            ..Options::default()
        };
        for (options, sentence) in [
            (
                Options {
                    workers: 0,
                    ..options.clone()
                },
                "cannot download with workers = 0: give at least 1",
            ),
            (
                Options {
                    max_connections: Some(0),
                    ..options.clone()
                },
                "cannot download with max_connections = 0: give at least 1",
            ),
            (
                Options {
                    max_rate: Some(0),
                    ..options.clone()
                },
                "cannot download with max_rate = 0: give at least 1",
            ),
            (
                Options {
                    url: "ftp://host".to_owned(),
                    ..options.clone()
                },
                "cannot use the URL: its scheme is ftp:, and only http and https are spoken",
            ),
        ] {
            let error = download_batch(["n00000001"], folder.path(), &options)
                .await
                .unwrap_err();
            assert_eq!(error.to_string(), sentence);
        }
    }

    #[tokio::test]
    async fn a_batch_that_is_cancelled_before_its_start_downloads_nothing_and_reports_it() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            url: "http://127.0.0.1:1".to_owned(),
            ..Options::default()
        };
        options.cancellation.cancel();
        let error = download_batch(["n00000001", "bad"], folder.path(), &options)
            .await
            .unwrap_err();
        let BatchError::Cancelled { stats } = error else {
            panic!("{error}")
        };
        assert_eq!(
            (stats.failed, stats.total()),
            (1, 1),
            "the invalid id has ended"
        );
    }
}

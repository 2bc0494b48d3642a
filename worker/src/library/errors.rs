//! Why the functions of the library fail. Each message is a sentence of its own.

use shared::{class_list::ClassListError, job::InvalidUrl, refusal::Refusal, refused_sample::OriginRefuses};

use super::Stats;
use crate::{fetch::context::JobContextError, storage::target::TargetError};

/// Why there are no ids.
#[derive(Debug, thiserror::Error)]
#[error("{}", sentence(.0))]
pub struct ReadError(#[from] ClassListError);

impl ReadError {
    /// The reason, for programs that tell them apart.
    pub fn reason(&self) -> &ClassListError {
        &self.0
    }
}

/// The missing column has a wording of its own, see [`ClassListError`].
fn sentence(error: &ClassListError) -> String {
    match error {
        ClassListError::MissingColumn { .. } => error.to_string(),
        _ => format!("cannot {error}"),
    }
}

/// Why a batch could not run, or not to its end. What was completed stays, and the same call
/// continues with the rest.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The URL.
    #[error("cannot use the URL: {0}")]
    Url(#[from] InvalidUrl),
    /// A number of [`Options`](super::Options) that has to be at least 1.
    #[error("cannot download with {option} = 0: give at least 1")]
    Zero {
        /// The field's name.
        option: &'static str,
    },
    /// The target folder, or the HTTP client.
    #[error("cannot {0}")]
    JobContext(#[from] JobContextError),
    /// The target failed during the batch, e.g. because it is full.
    #[error("cannot {0}")]
    Target(#[from] TargetError),
    /// The origin refuses every class alike, as with a wrong URL or without a login.
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
        /// What became of the classes that had ended.
        stats: Stats,
    },
}

/// The fields of [`Options`](super::Options) to look at. Nothing where the failure names them.
fn advice(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Status(407) => "The proxy asks for a login: give it in HTTP_PROXY or HTTPS_PROXY. ",
        Refusal::Status(404 | 410) => "There is nothing under these URLs: check the path in Options::url. ",
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
    fn a_csv_that_cannot_be_used_is_told_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("other.csv"), "id\nn00000001\n").unwrap();
        let missing = load_part_ids_from_csv(path("none.csv")).unwrap_err().to_string();
        let start = format!("cannot read {}: there is no such file", path("none.csv").display());
        assert!(missing.starts_with(&start), "{missing}");
        let other = load_part_ids_from_csv(path("other.csv")).unwrap_err().to_string();
        assert_eq!(other, "CSV file must contain 'wnid' column (found: id)");
    }

    #[tokio::test]
    async fn options_that_make_no_sense_are_told_in_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { url: "http://127.0.0.1:1".to_owned(), ..Options::default() };
        for (options, sentence) in [
            (Options { workers: 0, ..options.clone() }, "cannot download with workers = 0: give at least 1"),
            (
                Options { max_connections: Some(0), ..options.clone() },
                "cannot download with max_connections = 0: give at least 1",
            ),
            (Options { max_rate: Some(0), ..options.clone() }, "cannot download with max_rate = 0: give at least 1"),
            (
                Options { url: "ftp://host".to_owned(), ..options.clone() },
                "cannot use the URL: its scheme is ftp:, and only http and https are spoken",
            ),
        ] {
            let error = download_batch(["n00000001"], folder.path(), &options).await.unwrap_err();
            assert_eq!(error.to_string(), sentence);
        }
    }

    #[tokio::test]
    async fn a_batch_that_is_cancelled_before_its_begin_downloads_nothing_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { url: "http://127.0.0.1:1".to_owned(), ..Options::default() };
        options.cancellation.cancel();
        let error = download_batch(["n00000001", "bad"], folder.path(), &options).await.unwrap_err();
        let BatchError::Cancelled { stats } = error else { panic!("{error}") };
        assert_eq!((stats.failed, stats.total()), (1, 1), "the invalid id has ended");
    }
}

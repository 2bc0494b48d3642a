//! Proves a folder or a tar in the target by the length that the origin says the class's tar has.

use url::Url;

use crate::{
    fetch::unfinished::Unfinished,
    origin::{
        Origin, Question,
        download::describe,
        download_error::DownloadError,
        retry::{RetryDecision, retry_decision},
    },
    source::Source,
};

/// Why the origin's word proves nothing.
#[derive(Debug)]
pub(crate) enum NotProved {
    /// It contradicts what is there, or gives no length.
    Differs(String),
    /// It refuses to say anything, and will when it is asked again.
    Refused(DownloadError),
}

/// Asks the origin, and judges what is there by its answer; the inner error of `judge` says why
/// that is no proof.
///
/// Many origins answer a `HEAD` with another length than a `GET`, with none, or not at all: it can
/// prove what is there, but what does not fit it disproves nothing, and the first byte is asked for.
///
/// # Errors
/// [`Unfinished`] where the origin does not answer; the inner error where its answer is no proof.
pub(crate) async fn prove<T>(
    origin: &Origin,
    url: &Url,
    retries: u32,
    judge: impl Fn(&Source) -> Result<Result<T, String>, Unfinished>,
) -> Result<Result<T, NotProved>, Unfinished> {
    if let Ok(source) = origin.describe(url, Question::Head).await
        && let Ok(proved) = judge(&source)?
    {
        return Ok(Ok(proved));
    }
    match describe(origin, url, retries).await {
        Ok(source) => Ok(judge(&source)?.map_err(NotProved::Differs)),
        Err(error) => match retry_decision(&error) {
            // Tried to the end: the origin's fault, and no word about what is there.
            RetryDecision::Retry { .. } => Err(Unfinished::Failed(error.into())),
            RetryDecision::GiveUp => Ok(Err(NotProved::Refused(error))),
        },
    }
}

//! Verifies a folder or a tar in the target by the length that the origin announces for the class's
//! tar.

use crate::{
    fetch::{attempt::Attempt, unfinished::Unfinished},
    origin::{Question, download::describe, download_error::DownloadError, retry::retry_delay},
    source::Source,
};

/// Why the origin's answer proves nothing.
#[derive(Debug)]
pub(crate) enum NotProved {
    /// The answer contradicts what is there, or has no length.
    Differs(String),
    /// The origin refuses to answer, and repeating the request will not change that.
    Refused(DownloadError),
}

impl Attempt<'_> {
    /// Requests the length of the tar, and calls `judge` with the answer; the inner error of
    /// `judge` is the reason why it is no proof.
    ///
    /// Many origins answer a `HEAD` with another length than a `GET`, without a length, or not at
    /// all. So an answer to `HEAD` can prove what is there, but cannot disprove it: in that case
    /// the first byte is requested with `GET`.
    ///
    /// # Errors
    /// [`Unfinished`] if the origin does not answer; the inner error if its answer is no proof.
    pub(super) async fn prove<T>(
        &self,
        judge: impl Fn(&Source) -> Result<Result<T, String>, Unfinished>,
    ) -> Result<Result<T, NotProved>, Unfinished> {
        if let Ok(source) = self.origin.describe(&self.tar.url, Question::Head).await
            && let Ok(proved) = judge(&source)?
        {
            return Ok(Ok(proved));
        }
        match describe(self.origin, &self.tar.url, self.tar.retries).await {
            Ok(source) => Ok(judge(&source)?.map_err(NotProved::Differs)),
            // All retries failed: that is the origin's fault and does not disprove what is there.
            Err(error) if retry_delay(&error).is_some() => Err(error.into()),
            Err(error) => Ok(Err(NotProved::Refused(error))),
        }
    }
}

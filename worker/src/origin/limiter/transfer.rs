//! A response body that is received over a connection for which the limiter has issued a permit.

use bytes::Bytes;
use reqwest::Response;

use super::{Permit, bucket::Place};

/// A response and the permit of its connection. Dropping it releases the permit, so the next
/// request can start.
#[derive(Debug)]
pub(crate) struct Transfer {
    response: Response,
    permit: Permit,
    /// The position in the token bucket after the bytes received last; `None` without a rate
    /// limit.
    place: Option<Place>,
}

impl Transfer {
    pub(crate) fn new(response: Response, mut permit: Permit) -> Self {
        permit.flows();
        Self {
            response,
            permit,
            place: None,
        }
    }

    /// Status and header fields of the response.
    pub(crate) fn response(&self) -> &Response {
        &self.response
    }

    /// Waits until the rate limit permits more bytes. This time is not the origin's: timeouts for
    /// the origin must not include it.
    pub(crate) async fn wait_for_rate(&mut self) {
        if let Some(place) = self.place.take() {
            self.permit.limiter.room_after(place).await;
        }
    }

    /// The next bytes of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> reqwest::Result<Option<Bytes>> {
        let chunk = self.response.chunk().await?;
        if let Some(bytes) = &chunk {
            self.place = self.permit.limiter.came(bytes.len());
        }
        Ok(chunk)
    }
}

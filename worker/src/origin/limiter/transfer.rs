//! A body on its way over a connection that the gate has given leave for.

use bytes::Bytes;
use reqwest::Response;

use super::{Permit, bucket::Place};

/// See the module. Dropped as soon as no more is wanted of it, it makes room for the next request.
#[derive(Debug)]
pub(crate) struct Transfer {
    response: Response,
    permit: Permit,
    /// Of the bytes that came last, where they may not come as fast as they can.
    place: Option<Place>,
}

impl Transfer {
    pub(crate) fn new(response: Response, mut permit: Permit) -> Self {
        permit.flows();
        Self { response, permit, place: None }
    }

    /// The answer's head.
    pub(crate) fn response(&self) -> &Response {
        &self.response
    }

    /// Waits until more may come. Whoever waits here waits for us and not for the origin.
    pub(crate) async fn room(&mut self) {
        if let Some(place) = self.place.take() {
            self.permit.gate().room_after(place).await;
        }
    }

    /// The next bytes; `None` when the body has ended.
    pub(crate) async fn chunk(&mut self) -> reqwest::Result<Option<Bytes>> {
        let chunk = self.response.chunk().await?;
        if let Some(bytes) = &chunk {
            self.place = self.permit.gate().came(bytes.len());
        }
        Ok(chunk)
    }
}

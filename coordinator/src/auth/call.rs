//! A call from its head to the last byte of its response. It ends as soon as its credential is
//! revoked, also while it waits or streams.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{BoxError, body::Body};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::connection::OpenCall;

const REVOKED: &str =
    "the token is not valid any more: give the file with one that is with --token-file";

/// Answers the call unless its credential is revoked first. `call` is dropped after the last byte
/// of the response.
pub(super) async fn until_revoked(
    answer: impl Future<Output = Response<Body>>,
    revoked: CancellationToken,
    call: Option<OpenCall>,
) -> Response<Body> {
    let Some(answer) = revoked.run_until_cancelled(answer).await else {
        return Status::unauthenticated(REVOKED).into_http();
    };
    answer.map(|body| {
        Body::new(RevocableBody {
            body,
            revoked: Box::pin(revoked.cancelled_owned()),
            _call: call,
        })
    })
}

/// The body of a response.
struct RevocableBody {
    body: Body,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
    _call: Option<OpenCall>,
}

impl HttpBody for RevocableBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.body.is_end_stream() && self.revoked.as_mut().poll(context).is_ready() {
            self.body = Body::empty();
            let mut trailers = HeaderMap::new();
            Status::unauthenticated(REVOKED).add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

//! Looks at each call before its body is read: who calls, and may they?

use std::{
    convert::Infallible,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tokio::time::{Instant, sleep_until};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    Door, Peer, Role,
    role::is_for_everybody,
    throttle::{Answer, Throttle},
};

/// Who calls; stands in the extensions of each request.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    names: Option<Arc<[String]>>,
}

impl Caller {
    /// Whether it may register as a worker of this name: a certificate is good for the names in it alone.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, in words for the worker's operator.
    pub fn may_be_named(&self, name: &str) -> Result<(), Status> {
        match &self.names {
            Some(names) if !names.iter().any(|own| own == name) => Err(Status::permission_denied(format!(
                "the worker's certificate is for {}; give one of these names with --name, or the worker's own certificate",
                if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
            ))),
            _ => Ok(()),
        }
    }
}

/// The gate; a layer around the services.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Rules>);

#[derive(Debug)]
enum Rules {
    /// In this process, or nothing was asked for.
    Open,
    Locked {
        door: Arc<Door>,
        throttle: Mutex<Throttle>,
    },
}

/// Why a call goes no further.
enum Refusal {
    /// Of a credential, or for want of one.
    Unknown(&'static str),
    Forbidden {
        role: Role,
        needed: Role,
    },
}

const NO_TOKEN: &str = "a token is needed here: give the file with one of this cluster's with --token-file";
const WRONG_TOKEN: &str =
    "the token is not one of this cluster's: give the file with one that is valid with --token-file";
const TOO_MANY: &str = "too many wrong tokens came from this address; try again later, with a valid one";

impl Gate {
    /// For connections within the process.
    pub fn open() -> Self {
        Self(Arc::new(Rules::Open))
    }

    /// For connections from outside.
    pub fn of(door: Arc<Door>) -> Self {
        if !door.is_locked() {
            return Self::open();
        }
        Self(Arc::new(Rules::Locked { door, throttle: Mutex::default() }))
    }
}

impl Rules {
    fn check(&self, path: &str, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Caller, Refusal> {
        let Self::Locked { door, .. } = self else {
            peer.inspect(|peer| peer.admit());
            return Ok(Caller::default());
        };
        if is_for_everybody(path) {
            return Ok(Caller::default());
        }
        let names = peer.and_then(Peer::names);
        let role = match (bearer(headers), &door.tokens, &names) {
            (Some(shown), Some(tokens), _) => tokens.get().role_of(shown).ok_or(Refusal::Unknown(WRONG_TOKEN))?,
            (Some(_), None, None) => return Err(Refusal::Unknown(WRONG_TOKEN)),
            (_, _, Some(_)) => Role::Worker,
            (None, _, None) => return Err(Refusal::Unknown(NO_TOKEN)),
        };
        peer.inspect(|peer| peer.admit());
        let needed = Role::needed_for(path);
        if role.includes(needed) { Ok(Caller { names }) } else { Err(Refusal::Forbidden { role, needed }) }
    }

    /// When this address is told that its credential is of no use.
    fn failed(&self, address: Option<IpAddr>) -> Answer {
        match (self, address) {
            (Self::Locked { throttle, .. }, Some(address)) => {
                throttle.lock().unwrap_or_else(PoisonError::into_inner).failed(address, Instant::now())
            }
            _ => Answer::Now,
        }
    }

    async fn refuse(self: Arc<Self>, refusal: Refusal, address: Option<IpAddr>) -> Status {
        let what = match refusal {
            Refusal::Forbidden { role, needed } => {
                return Status::permission_denied(format!(
                    "this takes a token for the role {needed}, and the one given is for the role {role}"
                ));
            }
            Refusal::Unknown(what) => what,
        };
        match self.failed(address) {
            Answer::Now => tracing::info!(?address, "a call was refused: {what}"),
            Answer::At(when) => sleep_until(when).await,
            Answer::Refuse => return Status::resource_exhausted(TOO_MANY),
        }
        Status::unauthenticated(what)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { rules: Arc::clone(&self.0), inner }
    }
}

/// The services behind the gate.
#[derive(Debug, Clone)]
pub struct Gated<S> {
    rules: Arc<Rules>,
    inner: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().cloned();
        match self.rules.check(request.uri().path(), request.headers(), peer.as_ref()) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Box::pin(self.inner.call(request))
            }
            Err(refusal) => {
                let refused = Arc::clone(&self.rules).refuse(refusal, peer.map(|peer| peer.address()));
                Box::pin(async move { Ok(refused.await.into_http()) })
            }
        }
    }
}

//! The auth layer: authenticates and authorizes each call before its body is read.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use axum::{body::Body, extract::State, middleware::Next};
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use shared::{ids::CredentialId, lock::lock, tls::Watched};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    Peer, Role, ServerCredentials, call::until_revoked, connections::TooManyCalls,
    log_limiter::LogLimiter, role::needs_no_credential, tokens::Authenticated,
};

/// The authenticated caller. It is stored in the extensions of each request.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    names: Option<Arc<[String]>>,
    /// The credential that the caller has shown.
    credential: Option<CredentialId>,
    /// The valid credentials.
    credentials: Option<Arc<ServerCredentials>>,
}

impl Caller {
    /// The credential that the caller has shown; `None` where none is required.
    pub fn credential(&self) -> Option<CredentialId> {
        self.credential
    }

    /// All credentials of workers that are valid now.
    pub fn valid(&self) -> Vec<CredentialId> {
        let Some(credentials) = &self.credentials else {
            return Vec::new();
        };
        let tokens = credentials.tokens.as_ref().map(Watched::get);
        let certificates = credentials.has_client_authority;
        let certificates = certificates.then_some(CredentialId::CERTIFICATE);
        let tokens = tokens.iter().flat_map(|tokens| tokens.of_workers());
        tokens.chain(certificates).collect()
    }

    /// Whether the caller may register as a worker of this name. A certificate is valid only for
    /// the names in it.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, with a message for the worker's operator.
    pub fn may_be_named(&self, name: &str) -> Result<(), Status> {
        match &self.names {
            Some(names) if !names.iter().any(|own| own == name) => {
                Err(Status::permission_denied(format!(
                    "the worker's certificate is for {}; give one of these names with --name, or the worker's own certificate",
                    if names.is_empty() {
                        "no name".to_owned()
                    } else {
                        names.join(", ")
                    }
                )))
            }
            _ => Ok(()),
        }
    }
}

/// The auth layer around the services.
#[derive(Debug, Clone)]
pub struct AuthLayer(Arc<Rules>);

/// Which callers are accepted.
#[derive(Debug)]
enum Rules {
    /// No credential is required: connections within the process, or no credentials are configured.
    NoCredentials,
    /// Connections over the Unix socket in the target: the operating system has authenticated the
    /// user.
    Operator,
    Credentials {
        credentials: Arc<ServerCredentials>,
        limiter: Mutex<LogLimiter>,
    },
}

/// The reason why a call is rejected.
enum Refusal {
    /// The credential is missing or not valid.
    Unknown(&'static str),
    Forbidden {
        role: Role,
        needed: Role,
    },
    /// The connection has too many concurrent calls.
    Busy,
}

const BUSY: &str = "this connection has too many calls at the same time; wait for their answers, or open another one";
const NO_TOKEN: &str =
    "a token is needed here: give the file with one of this cluster's with --token-file";
const WRONG_TOKEN: &str = "the token is not one of this cluster's: give the file with one that is valid with --token-file";

impl AuthLayer {
    /// For connections within the process.
    pub fn open() -> Self {
        Self(Arc::new(Rules::NoCredentials))
    }

    /// For connections of the user who runs the coordinator. They have the role of an admin.
    pub fn operator() -> Self {
        Self(Arc::new(Rules::Operator))
    }

    /// For connections from outside.
    pub fn of(credentials: Arc<ServerCredentials>) -> Self {
        if !credentials.requires_credential() {
            return Self::open();
        }
        Self(Arc::new(Rules::Credentials {
            credentials,
            limiter: Mutex::default(),
        }))
    }
}

impl Rules {
    /// The caller, and the token that is cancelled when its credential is revoked. Admits the
    /// connection unless the method needs no credential.
    fn check(
        &self,
        path: &str,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> Result<(Caller, CancellationToken), Refusal> {
        // Without a credential that can be revoked, only the end of the connection ends the call.
        let never = CancellationToken::new();
        if needs_no_credential(path) {
            return Ok((Caller::default(), never));
        }
        let needed = Role::needed_for(path);
        let (caller, role, revoked) = match self {
            // Every caller may make every call; its connection counts as a worker's.
            Self::NoCredentials => {
                peer.inspect(|peer| peer.admit(Role::Worker, &never));
                return Ok((Caller::default(), never));
            }
            Self::Operator => (Caller::default(), Role::Admin, never),
            Self::Credentials { credentials, .. } => {
                let names = peer.and_then(Peer::names);
                let shown = authenticate(credentials, bearer(headers), names.is_some())?;
                let Authenticated {
                    role,
                    mut credential,
                    revoked,
                } = shown;
                // A certificate takes precedence over a token, because it carries the worker's
                // name.
                if names.is_some() {
                    credential = CredentialId::CERTIFICATE;
                }
                let caller = Caller {
                    names,
                    credential: Some(credential),
                    credentials: Some(Arc::clone(credentials)),
                };
                peer.inspect(|peer| peer.admit(role, &revoked));
                (caller, role, revoked)
            }
        };
        if role.includes(needed) {
            Ok((caller, revoked))
        } else {
            Err(Refusal::Forbidden { role, needed })
        }
    }

    fn refuse(&self, refusal: &Refusal, address: Option<IpAddr>) -> Status {
        let what = match refusal {
            Refusal::Forbidden { role, needed } => {
                return Status::permission_denied(format!(
                    "this takes a token for the role {needed}, and the one given is for the role {role}"
                ));
            }
            Refusal::Busy => return Status::resource_exhausted(BUSY),
            Refusal::Unknown(what) => what,
        };
        if let Self::Credentials { limiter, .. } = self
            && let Some(untold) = lock(limiter).may_log(Instant::now())
        {
            tracing::info!(?address, untold, "a call was refused: {what}");
        }
        Status::unauthenticated(*what)
    }
}

/// The token that the caller has shown, or its certificate.
fn authenticate(
    credentials: &ServerCredentials,
    shown: Option<&[u8]>,
    has_certificate: bool,
) -> Result<Authenticated, Refusal> {
    match (shown, &credentials.tokens) {
        (Some(shown), Some(tokens)) => {
            let found = tokens.get().authenticate(shown);
            found.ok_or(Refusal::Unknown(WRONG_TOKEN))
        }
        _ if has_certificate => Ok(Authenticated {
            role: Role::Worker,
            credential: CredentialId::CERTIFICATE,
            revoked: CancellationToken::new(),
        }),
        (Some(_), None) => Err(Refusal::Unknown(WRONG_TOKEN)),
        (None, _) => Err(Refusal::Unknown(NO_TOKEN)),
    }
}

/// The token in the headers of a request.
#[derive(Debug)]
pub(crate) enum ShownToken {
    /// There is none.
    None,
    /// It is not valid.
    Wrong,
    /// It is valid.
    Valid {
        /// Its role.
        role: Role,
        /// Cancelled when it is no longer valid for this role.
        revoked: CancellationToken,
    },
}

impl ServerCredentials {
    /// The token in the headers of a request over HTTP.
    pub(crate) fn shown_token(&self, headers: &HeaderMap) -> ShownToken {
        if !headers.contains_key(AUTHORIZATION) {
            return ShownToken::None;
        }
        let tokens = self.tokens.as_ref().map(Watched::get);
        let found = tokens.zip(bearer(headers));
        match found.and_then(|(tokens, shown)| tokens.authenticate(shown)) {
            Some(Authenticated { role, revoked, .. }) => ShownToken::Valid { role, revoked },
            None => ShownToken::Wrong,
        }
    }
}

/// The token of the `Authorization` header, whose scheme has no case (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let shown = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = shown.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// Answers a call if its caller may make it. The [`Caller`] is in the extensions of the request.
pub async fn authenticated(
    State(AuthLayer(rules)): State<AuthLayer>,
    mut request: Request<Body>,
    next: Next,
) -> Response<Body> {
    let peer = request.extensions().get::<Peer>().cloned();
    let checked = rules.check(request.uri().path(), request.headers(), peer.as_ref());
    let begun = checked.and_then(|(caller, revoked)| {
        let call = peer.as_ref().map(Peer::call).transpose();
        let call = call.map_err(|TooManyCalls| Refusal::Busy)?;
        Ok((caller, revoked, call.flatten()))
    });
    match begun {
        Ok((caller, revoked, call)) => {
            request.extensions_mut().insert(caller);
            until_revoked(next.run(request), revoked, call).await
        }
        Err(refusal) => {
            let address = peer.map(|peer| peer.address());
            rules.refuse(&refusal, address).into_http()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{
        super::connections::{Connections, Limits},
        *,
    };
    use crate::auth::ServerCredentialFiles;

    const WATCH: &str = "/imagenet.v1.Coordinator/Watch";
    const RENEW: &str = "/imagenet.v1.Coordinator/Renew";
    const HEALTH: &str = "/grpc.health.v1.Health/Watch";

    /// The peer of a connection that was just accepted.
    fn pending() -> Peer {
        let connections = Arc::new(Connections::new(Limits::within(None)));
        Peer::new(
            Ipv4Addr::LOCALHOST.into(),
            None,
            connections.enter(Instant::now()),
        )
    }

    #[test]
    fn a_health_check_does_not_admit_its_connection_and_a_valid_token_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::fs::write(&path, "viewer viewer-0123456789\n").unwrap();
        let files = ServerCredentialFiles {
            token_file: Some(path),
            ..ServerCredentialFiles::default()
        };
        let locked = || AuthLayer::of(Arc::new(files.open().unwrap()));
        let bearer = |token: &str| {
            HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
        };
        let none = HeaderMap::new();
        let wrong = bearer("worker-0123456789");
        let valid = bearer("viewer-0123456789");
        for (layer, path, headers, is_let_through, is_pending) in [
            (AuthLayer::open(), HEALTH, &none, true, true),
            (AuthLayer::open(), WATCH, &none, true, false),
            (locked(), HEALTH, &none, true, true),
            (locked(), HEALTH, &valid, true, true),
            (locked(), WATCH, &none, false, true),
            (locked(), WATCH, &wrong, false, true),
            (locked(), WATCH, &valid, true, false),
            (locked(), RENEW, &valid, false, false),
        ] {
            let peer = pending();
            let checked = layer.0.check(path, headers, Some(&peer));
            assert_eq!(
                (checked.is_ok(), peer.is_pending()),
                (is_let_through, is_pending),
                "{path}"
            );
        }
    }
}

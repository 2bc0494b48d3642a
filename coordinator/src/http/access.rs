//! Who may look at the job, and who may retry classes.
//!
//! A program on this machine that asks for this machine may look. Everything else needs the token
//! of a viewer or an admin, over TLS or from a reverse proxy on this machine, which is trusted to
//! have TLS. Only health, readiness and metrics are outside of this.

use http::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN},
};
use shared::http::{Peer, Source};
use tokio_util::sync::CancellationToken;

use crate::auth::{Role, ServerCredentials, ShownToken};

/// Set by browsers (Fetch Metadata): whether a page of another site sends the request.
const FETCH_SITE: &str = "sec-fetch-site";

/// What the sender of a request may do.
#[derive(Debug)]
pub(super) struct Viewer {
    /// Whether it may retry failed classes.
    pub(super) may_retry: bool,
    /// Cancelled when its token is revoked.
    pub(super) revoked: CancellationToken,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// It comes from elsewhere, in plaintext.
    #[error(
        "this port shows the job only to this machine: use `ssh -L` or `kubectl port-forward` and \
         ask for localhost, or start the coordinator with --http-tls"
    )]
    Plaintext,
    /// It comes from elsewhere, and tokens are not configured.
    #[error(
        "nothing lets other machines see the job: give the coordinator tokens with --token-file, \
         for example those of `coordinator init`"
    )]
    NoTokens,
    /// It has no token.
    #[error("this takes a token: send that of {}", whose(*.needed))]
    NoToken {
        /// The least role that is needed.
        needed: Role,
    },
    /// Its token is not valid.
    #[error("the token is not one of this cluster's: send that of a viewer or an admin")]
    WrongToken,
    /// Its token has another role.
    #[error("this takes the token of {}, and the one given has the role {role}", whose(*.needed))]
    Role {
        /// The role of the token.
        role: Role,
        /// The least role that is needed.
        needed: Role,
    },
    /// A page of another site sends it.
    #[error("a page of another site has sent this request: open the page of the coordinator")]
    OtherSite,
    /// The body of a POST is not announced as JSON, so any page could have sent it.
    #[error("send the request with `content-type: application/json`")]
    NotJson,
}

fn whose(role: Role) -> &'static str {
    if role == Role::Admin {
        "an admin"
    } else {
        "a viewer or an admin"
    }
}

impl Refusal {
    /// The status of the answer.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Plaintext | Self::NoTokens | Self::NoToken { .. } | Self::WrongToken => {
                StatusCode::UNAUTHORIZED
            }
            Self::Role { .. } | Self::OtherSite => StatusCode::FORBIDDEN,
            Self::NotJson => StatusCode::BAD_REQUEST,
        }
    }
}

/// Whether the files of the page are served. They hold no data: over an encrypted connection the
/// page asks for the token itself.
pub(super) fn may_load_page(source: Source, peer: Peer) -> bool {
    source != Source::Elsewhere || peer.has_tls
}

/// Whether the sender may look at the job.
pub(super) fn viewer(
    source: Source,
    peer: Peer,
    headers: &HeaderMap,
    credentials: &ServerCredentials,
) -> Result<Viewer, Refusal> {
    // Also with a valid token: sent in plaintext it could have been read on the way.
    if !may_load_page(source, peer) {
        return Err(Refusal::Plaintext);
    }
    let site = headers.get(FETCH_SITE).map(http::HeaderValue::as_bytes);
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return Err(Refusal::OtherSite);
    }
    match credentials.shown_token(headers) {
        ShownToken::Valid { role, revoked } if role.includes(Role::Viewer) => Ok(Viewer {
            may_retry: role.includes(Role::Admin),
            revoked,
        }),
        ShownToken::Valid { role, .. } => Err(Refusal::Role {
            role,
            needed: Role::Viewer,
        }),
        ShownToken::Wrong => Err(Refusal::WrongToken),
        ShownToken::None if source == Source::ThisMachine => Ok(Viewer {
            may_retry: !credentials.requires_credential(),
            revoked: CancellationToken::new(),
        }),
        ShownToken::None if credentials.has_tokens() => Err(Refusal::NoToken {
            needed: Role::Viewer,
        }),
        ShownToken::None => Err(Refusal::NoTokens),
    }
}

/// Whether the sender, who may look, may also retry classes.
///
/// Without a configured token a browser on this machine could be made to send this by any page that
/// it shows. Such a page cannot announce JSON without being asked for permission first (CORS), and
/// its browser names it in `Origin`. A browser adds no token to what another site's page sends, so
/// with one the `Origin` may be another name of the same page, such as a proxy's port.
pub(super) fn may_retry(viewer: &Viewer, headers: &HeaderMap) -> Result<(), Refusal> {
    if !viewer.may_retry {
        let has_token = headers.contains_key(AUTHORIZATION);
        let role = Role::Viewer;
        let needed = Role::Admin;
        return Err(if has_token {
            Refusal::Role { role, needed }
        } else {
            Refusal::NoToken { needed }
        });
    }
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        return Err(Refusal::NotJson);
    }
    match headers.get(ORIGIN) {
        Some(_) if headers.contains_key(AUTHORIZATION) => Ok(()),
        Some(origin) if !is_own(origin.as_bytes(), headers) => Err(Refusal::OtherSite),
        _ => Ok(()),
    }
}

/// Whether an `Origin` is that of the requested host.
fn is_own(origin: &[u8], headers: &HeaderMap) -> bool {
    let schemes = [&b"http://"[..], b"https://"];
    let mut authorities = schemes
        .iter()
        .filter_map(|scheme| origin.strip_prefix(*scheme));
    let host = headers.get(HOST).map(http::HeaderValue::as_bytes);
    authorities.any(|authority| Some(authority) == host)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::auth::ServerCredentialFiles;

    const TOKENS: &str = "worker worker-0123456789\nviewer viewer-0123456789\n\
                          admin admin-0123456789\n";

    fn credentials(tokens: Option<&str>) -> ServerCredentials {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::fs::write(&path, tokens.unwrap_or_default()).unwrap();
        let files = ServerCredentialFiles {
            token_file: tokens.map(|_| path),
            ..ServerCredentialFiles::default()
        };
        files.open().unwrap()
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        pairs.collect()
    }

    fn peer(has_tls: bool) -> Peer {
        let address = ([127, 0, 0, 1], 5000).into();
        Peer { address, has_tls }
    }

    /// Whether a retry is permitted, if looking is.
    fn access(
        source: Source,
        has_tls: bool,
        token: &str,
        credentials: &ServerCredentials,
    ) -> Result<bool, Refusal> {
        let shown = format!("Bearer {token}");
        let pairs: &[(&str, &str)] = if token.is_empty() {
            &[]
        } else {
            &[("authorization", &shown)]
        };
        let viewer = viewer(source, peer(has_tls), &headers(pairs), credentials);
        viewer.map(|viewer| viewer.may_retry)
    }

    #[test]
    fn other_machines_need_an_encrypted_connection_and_a_token() {
        let credentials = credentials(Some(TOKENS));
        let [viewer, admin] = ["viewer-0123456789", "admin-0123456789"];
        let needed = Role::Viewer;
        let none = Refusal::NoToken { needed };
        let worker = Refusal::Role {
            role: Role::Worker,
            needed,
        };
        for (source, has_tls, token, expected) in [
            (Source::ThisMachine, false, "", Ok(false)),
            (Source::ThisMachine, false, viewer, Ok(false)),
            (Source::ThisMachine, false, admin, Ok(true)),
            (
                Source::ThisMachine,
                false,
                "unknown",
                Err(Refusal::WrongToken),
            ),
            (Source::Proxy, false, "", Err(none)),
            (Source::Proxy, false, viewer, Ok(false)),
            (Source::Proxy, false, admin, Ok(true)),
            (Source::Elsewhere, false, "", Err(Refusal::Plaintext)),
            (Source::Elsewhere, false, admin, Err(Refusal::Plaintext)),
            (Source::Elsewhere, true, "", Err(none)),
            (Source::Elsewhere, true, "worker-0123456789", Err(worker)),
            (Source::Elsewhere, true, viewer, Ok(false)),
            (Source::Elsewhere, true, admin, Ok(true)),
        ] {
            let found = access(source, has_tls, token, &credentials);
            assert_eq!(found, expected, "{source:?} {has_tls} {token}");
        }
    }

    #[test]
    fn a_retry_without_a_token_is_told_to_send_an_admins() {
        let credentials = credentials(Some(TOKENS));
        let none = headers(&[]);
        let viewer = viewer(Source::ThisMachine, peer(false), &none, &credentials).unwrap();
        let refusal = may_retry(&viewer, &none).unwrap_err();
        let expected = "this takes a token: send that of an admin";
        assert_eq!(refusal.to_string(), expected);
    }

    #[test]
    fn without_configured_tokens_only_this_machine_sees_the_job_and_may_retry() {
        let credentials = credentials(None);
        assert_eq!(
            access(Source::ThisMachine, false, "", &credentials),
            Ok(true)
        );
        for source in [Source::Proxy, Source::Elsewhere] {
            let found = access(source, true, "", &credentials);
            assert_eq!(found, Err(Refusal::NoTokens), "{source:?}");
        }
        let found = access(Source::ThisMachine, false, "unknown", &credentials);
        assert_eq!(found, Err(Refusal::WrongToken));
    }

    #[test]
    fn with_a_token_the_page_may_have_another_name_at_a_proxy() {
        let credentials = credentials(Some(TOKENS));
        let headers = headers(&[
            ("authorization", "bearer admin-0123456789"),
            ("content-type", "application/json"),
            ("host", "watch.example.org"),
            ("origin", "https://watch.example.org:8443"),
        ]);
        let viewer = viewer(Source::Proxy, peer(false), &headers, &credentials).unwrap();
        assert_eq!(may_retry(&viewer, &headers), Ok(()));
    }

    #[test]
    fn a_page_of_another_site_can_neither_look_nor_retry() {
        let credentials = credentials(None);
        let json = ("content-type", "application/json; charset=utf-8");
        let host = ("host", "localhost:9000");
        let retry = |pairs: &[(&str, &str)]| {
            let headers = headers(pairs);
            let viewer = viewer(Source::ThisMachine, peer(false), &headers, &credentials)?;
            may_retry(&viewer, &headers)
        };
        for (pairs, expected) in [
            (&[host, json][..], Ok(())),
            (&[host, json, ("origin", "http://localhost:9000")], Ok(())),
            (&[host, json, ("sec-fetch-site", "same-origin")], Ok(())),
            (
                &[host, json, ("origin", "http://localhost:9001")],
                Err(Refusal::OtherSite),
            ),
            (
                &[host, json, ("origin", "http://evil.example")],
                Err(Refusal::OtherSite),
            ),
            (&[host, json, ("origin", "null")], Err(Refusal::OtherSite)),
            (
                &[host, json, ("sec-fetch-site", "cross-site")],
                Err(Refusal::OtherSite),
            ),
            (
                &[host, json, ("sec-fetch-site", "same-site")],
                Err(Refusal::OtherSite),
            ),
            (&[host], Err(Refusal::NotJson)),
            (
                &[host, ("content-type", "text/plain")],
                Err(Refusal::NotJson),
            ),
        ] {
            assert_eq!(retry(pairs), expected, "{pairs:?}");
        }
    }
}

//! One request for a tar, from the configured URL over redirects to the host that answers it.
//!
//! Invariant: secrets (`--header-file`, user and password of the URL) are sent to the origin only.
//! Cookies that a redirect sets are sent by their own rules (RFC 6265), and dropped after the
//! request.

use cookie_store::{CookieStore, RawCookie};
use reqwest::{
    Method, RequestBuilder, Response,
    header::{self, HeaderMap, HeaderValue},
};
use url::Url;

use crate::{
    origin::{
        client::{Clients, Connections},
        redirect::{self, RefusedRedirect, host_of},
    },
    source::shown,
};

/// The state of a request that follows redirects.
#[derive(Debug)]
pub(crate) struct Route<'origin> {
    clients: &'origin Clients,
    connections: &'origin Connections,
    /// The URL of the next request.
    url: Url,
    /// The URLs that have redirected.
    visited: Vec<Url>,
    /// The cookies of the redirects so far.
    cookies: CookieStore,
}

impl<'origin> Route<'origin> {
    /// Begins at a URL of the origin.
    pub(crate) fn new(
        clients: &'origin Clients,
        connections: &'origin Connections,
        url: Url,
    ) -> Self {
        Self {
            clients,
            connections,
            url,
            visited: Vec::new(),
            cookies: CookieStore::default(),
        }
    }

    /// The URL of the next request.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// The number of redirects so far.
    pub(crate) fn redirects(&self) -> usize {
        self.visited.len()
    }

    /// The next request to send; `headers`: its headers.
    pub(crate) fn request(
        &self,
        method: Method,
        headers: &HeaderMap,
    ) -> Result<RequestBuilder, RefusedRedirect> {
        let Clients {
            base,
            secrets,
            proxies,
            ..
        } = self.clients;
        let is_proxied = proxies
            .for_url(&self.url)
            .map_err(|why| RefusedRedirect::Proxy {
                host: host_of(&self.url),
                why,
            })?;
        // A proxy resolves the name itself, so there is no address to check.
        let is_chosen = base.host() == self.url.host() || is_proxied.is_some();
        let client = if is_chosen {
            &self.connections.chosen
        } else {
            &self.connections.guarded
        };
        let mut all = HeaderMap::new();
        if redirect::shares_secrets(base, &self.url) {
            all.extend(secrets.clone());
        }
        all.append(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        let known = all
            .get_all(header::COOKIE)
            .into_iter()
            .map(|value| value.as_bytes().to_vec());
        let set = self
            .cookies
            .get_request_values(&self.url)
            .map(|(name, value)| format!("{name}={value}").into_bytes());
        let cookies: Vec<Vec<u8>> = known.chain(set).collect();
        if let Ok(mut value) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
            && !cookies.is_empty()
        {
            value.set_sensitive(true);
            all.insert(header::COOKIE, value);
        }
        all.extend(headers.clone());
        Ok(client.request(method, self.url.clone()).headers(all))
    }

    /// Follows the redirect of a response; returns whether it is a redirect.
    pub(crate) async fn follow(&mut self, response: &Response) -> Result<bool, RefusedRedirect> {
        let Some(mut to) = redirect::location(&self.url, response)? else {
            return Ok(false);
        };
        self.visited.push(self.url.clone());
        redirect::judge(&self.url, &to, self.visited.len())?;
        let base = &self.clients.base;
        let checked = self.clients.addresses.check(&to).await;
        checked.map_err(|_| RefusedRedirect::Private { host: host_of(&to) })?;
        let set = response.headers().get_all(header::SET_COOKIE).into_iter();
        let set = set.filter_map(|value| RawCookie::parse(value.to_str().ok()?.to_owned()).ok());
        self.cookies.store_response_cookies(set, &self.url);
        let has_cookies = self.cookies.iter_any().next().is_some();
        if redirect::shares_secrets(base, &to)
            && to.username().is_empty()
            && to.password().is_none()
        {
            // An absolute `Location` does not contain them.
            let failed = to
                .set_username(base.username())
                .and_then(|()| to.set_password(base.password()));
            failed.expect("an http URL has a host");
        }
        if self.visited.contains(&to) && !has_cookies {
            return Err(RefusedRedirect::Loop { url: shown(&to) });
        }
        self.url = to;
        Ok(true)
    }
}

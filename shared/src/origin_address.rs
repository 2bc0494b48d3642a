//! The address of an origin in messages: scheme, host and port.

use url::Url;

use crate::job::UrlTemplate;

impl UrlTemplate {
    /// Scheme, host and port, for messages.
    pub fn address(&self) -> String {
        origin_address(&self.for_class("n00000000".parse().expect("a well-formed id")))
    }
}

/// Scheme, host and port of a URL: `https://image-net.org:443`. Includes the port even if it is the
/// scheme's default; never includes credentials.
pub fn origin_address(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_always_included_and_credentials_never() {
        for (url, address) in [
            (
                "https://image-net.org/data/n1.tar",
                "https://image-net.org:443",
            ),
            ("http://user:secret@host/?token=1", "http://host:80"),
            ("http://127.0.0.1:8099/x", "http://127.0.0.1:8099"),
            ("https://[::1]/x", "https://[::1]:443"),
        ] {
            assert_eq!(origin_address(&url.parse().unwrap()), address);
        }
    }
}

//! What people are told about how to reach the page.

use std::net::{Ipv4Addr, SocketAddr};

use shared::{
    http::{self, text_page},
    worker_name::host_name,
};

use crate::auth::ServerCredentials;

/// The end of the refusal of another host name on a loopback port.
pub(super) const PROXY_REMEDY: &str =
    ", or name your reverse proxy on this machine with --http-host";

/// The line with the address of the port.
pub(super) fn announcement(
    address: SocketAddr,
    has_tls: bool,
    credentials: &ServerCredentials,
) -> String {
    let is_local = address.ip().is_loopback();
    if !has_tls {
        let line = http::announcement(address);
        return match (is_local, local(address)) {
            (true, _) => format!("page, {line}"),
            (false, Some(local)) => format!("{line}; the page is at http://{local}/"),
            (false, None) => format!("{line}; the page needs --http-tls there"),
        };
    }
    // Browsers verify the name in the certificate.
    let name = credentials.advertised_name().filter(|_| !is_local);
    let name = name.or_else(|| address.ip().is_unspecified().then(host_name));
    let at = name.map_or_else(
        || address.to_string(),
        |name| format!("{name}:{}", address.port()),
    );
    let tokens = match (is_local, credentials.has_tokens()) {
        (true, _) => "",
        (false, true) => "; for other machines the page takes a token of --token-file",
        (false, false) => "; without --token-file other machines do not see the page's figures",
    };
    format!("page, health and metrics at https://{at}/{tokens}")
}

/// The address at which a program of this machine reaches the port over loopback.
fn local(address: SocketAddr) -> Option<SocketAddr> {
    let port = address.port();
    match address.ip() {
        ip if ip.is_loopback() => Some(address),
        ip if ip.is_unspecified() => Some((Ipv4Addr::LOCALHOST, port).into()),
        _ => None,
    }
}

/// The page for clients that may not load the real one: what there is, and how to reach the rest.
pub(super) fn text(address: SocketAddr) -> String {
    let port = address.port();
    let tunnels = local(address).map_or_else(String::new, |local| {
        format!(
            "\x20 ssh -L {port}:{local} THIS_HOST               then http://127.0.0.1:{port}/\n\
             \x20 kubectl port-forward POD {port}:{port}        the same, in Kubernetes\n"
        )
    });
    let more = format!(
        "\nThe page of the job is for this machine. To see it from another one:\n\
         {tunnels}\
         \x20 --http-tls --tls-cert … --tls-key … --token-file …   the coordinator's flags to show\n\
         \x20                                  it over TLS to viewers with a token\n\
         \x20 --http-host NAME --token-file …  the flags for a reverse proxy on this machine that\n\
         \x20                                  passes on the header Host\n"
    );
    text_page("coordinator", &more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::ServerCredentialFiles;

    #[test]
    fn the_line_has_the_address_and_says_who_sees_the_page() {
        let none = ServerCredentialFiles::default().open().unwrap();
        let line = |address: &str, has_tls| announcement(address.parse().unwrap(), has_tls, &none);
        assert_eq!(
            line("127.0.0.1:80", false),
            "page, health and metrics at http://127.0.0.1:80/"
        );
        assert_eq!(
            line("[::1]:80", true),
            "page, health and metrics at https://[::1]:80/"
        );
        let open = line("0.0.0.0:80", false);
        assert!(
            open.starts_with("warning: health and metrics at http://0.0.0.0:80/ are plaintext")
                && open.ends_with("; the page is at http://127.0.0.1:80/"),
            "{open}"
        );
        let one = line("192.0.2.7:80", false);
        assert!(one.ends_with("; the page needs --http-tls there"), "{one}");
        let encrypted = line("192.0.2.7:80", true);
        assert_eq!(
            encrypted,
            "page, health and metrics at https://192.0.2.7:80/; without --token-file other \
             machines do not see the page's figures"
        );
    }

    #[test]
    fn the_text_names_tunnels_only_where_they_lead_to_the_page() {
        let any = text("0.0.0.0:8080".parse().unwrap());
        assert!(any.contains("ssh -L 8080:127.0.0.1:8080 "), "{any}");
        for named in [
            "/metrics",
            "kubectl port-forward",
            "--http-tls",
            "--http-host",
        ] {
            assert!(any.contains(named), "{named}: {any}");
        }
        let one = text("192.0.2.7:8080".parse().unwrap());
        assert!(
            !one.contains("ssh -L") && one.contains("--http-tls"),
            "{one}"
        );
    }
}

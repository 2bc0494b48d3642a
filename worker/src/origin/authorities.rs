//! Verifies server certificates of the origin. Trusted are certificates that chain to an authority
//! of the system or of `--cacert`, and the certificates in `--cacert` themselves.
//!
//! Invariant: the name and the validity period of the server's certificate are checked in each
//! case.

use std::sync::OnceLock;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use rustls_platform_verifier::Verifier;
use shared::tls::provider;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Version};

/// Verifies the origin's certificate during the handshake.
///
/// The system's authorities are read once, because they are many. For an origin without `https`
/// they are read only when it redirects to an `https` URL.
#[derive(Debug)]
pub(crate) struct Authorities {
    /// The certificates of `--cacert`.
    named: Vec<CertificateDer<'static>>,
    verifier: OnceLock<Result<Verifier, Error>>,
}

impl Authorities {
    /// Trusts the system's authorities and the given certificates.
    pub(crate) fn new(named: Vec<CertificateDer<'static>>) -> Self {
        Self {
            named,
            verifier: OnceLock::new(),
        }
    }

    /// Reads the system's authorities. If there are none and `--cacert` has no certificates, that
    /// is an error.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.named.is_empty() {
            self.verifier().map(drop)
        } else {
            Ok(())
        }
    }

    fn verifier(&self) -> Result<&Verifier, Error> {
        let read = || {
            let authorities = self
                .named
                .iter()
                .filter(|certificate| is_authority(certificate))
                .cloned();
            Verifier::new_with_extra_roots(authorities, provider())
        };
        self.verifier
            .get_or_init(read)
            .as_ref()
            .map_err(Clone::clone)
    }
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // webpki never accepts a trust anchor as a server's certificate; curl and wget do.
        if self.named.iter().any(|named| named == server) {
            return verify_named(server, name, now);
        }
        let verifier = self.verifier().map_err(|error| {
            if self.named.is_empty() {
                error
            } else {
                CertificateError::UnknownIssuer.into()
            }
        })?;
        verifier.verify_server_cert(server, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, server, signed, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        server: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, server, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// Checks everything but the issuer of a certificate that is trusted itself.
fn verify_named(
    server: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    verify_server_name(&ParsedCertificate::try_from(server)?, name)?;
    let (_, certificate) =
        X509Certificate::from_der(server).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > certificate.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    let usage = certificate
        .extended_key_usage()
        .map_err(|_| CertificateError::BadEncoding)?;
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    Ok(ServerCertVerified::assertion())
}

/// Whether a certificate may sign others, by the rules of OpenSSL. A server's own certificate may
/// not, so its key cannot certify another name.
fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let constraints = certificate.basic_constraints().ok().flatten();
    let usage = certificate.key_usage().ok().flatten();
    match (constraints, usage) {
        (Some(constraints), _) => constraints.value.ca,
        (None, Some(usage)) => usage.value.key_cert_sign(),
        (None, None) => certificate.version() == X509Version::V1,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };

    use super::*;

    /// Within the validity period of certificates from rcgen (1975 to 4096).
    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn params(name: &str) -> CertificateParams {
        CertificateParams::new(vec![name.to_owned()]).unwrap()
    }

    fn authority(mut params: CertificateParams) -> CertificateParams {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn self_signed(params: &CertificateParams) -> CertificateDer<'static> {
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .clone()
    }

    /// The result of a handshake with `host` whose certificate is `server`, with `named` in
    /// `--cacert`.
    fn verify(
        named: &CertificateDer<'static>,
        server: &CertificateDer<'_>,
        host: &str,
        now: Duration,
    ) -> Result<(), Error> {
        let authorities = Authorities::new(vec![named.clone()]);
        let host = ServerName::try_from(host.to_owned()).unwrap();
        authorities
            .verify_server_cert(server, &[], &host, &[], UnixTime::since_unix_epoch(now))
            .map(drop)
    }

    #[test]
    fn a_certificate_in_cacert_is_trusted_for_its_own_names_only() {
        for params in [params("origin.test"), authority(params("origin.test"))] {
            let server = self_signed(&params);
            assert_eq!(verify(&server, &server, "origin.test", NOW), Ok(()));
            for host in ["other.test", "sub.origin.test", "127.0.0.1"] {
                let refused = verify(&server, &server, host, NOW).unwrap_err();
                assert!(
                    refused.to_string().contains("not valid for name"),
                    "{host}: {refused}"
                );
            }
            let same_name = self_signed(&params);
            assert!(
                verify(&server, &same_name, "origin.test", NOW).is_err(),
                "another key"
            );
        }
        let server = self_signed(&params("127.0.0.1"));
        assert_eq!(verify(&server, &server, "127.0.0.1", NOW), Ok(()));
    }

    #[test]
    fn validity_and_purpose_of_a_certificate_in_cacert_are_checked() {
        let mut short = params("origin.test");
        short.not_before = rcgen::date_time_ymd(2023, 1, 1);
        short.not_after = rcgen::date_time_ymd(2024, 1, 1);
        let server = self_signed(&short);
        assert_eq!(verify(&server, &server, "origin.test", NOW), Ok(()));
        let year = Duration::from_hours(24 * 365);
        assert_eq!(
            verify(&server, &server, "origin.test", NOW + year),
            Err(CertificateError::Expired.into())
        );
        assert_eq!(
            verify(
                &server,
                &server,
                "origin.test",
                NOW.checked_sub(year).unwrap()
            ),
            Err(CertificateError::NotValidYet.into())
        );
        for (usage, is_accepted) in [
            (ExtendedKeyUsagePurpose::ServerAuth, true),
            (ExtendedKeyUsagePurpose::Any, true),
            (ExtendedKeyUsagePurpose::ClientAuth, false),
        ] {
            let mut params = params("origin.test");
            params.extended_key_usages = vec![usage.clone()];
            let server = self_signed(&params);
            assert_eq!(
                verify(&server, &server, "origin.test", NOW).is_ok(),
                is_accepted,
                "{usage:?}"
            );
        }
    }

    #[test]
    fn only_an_authority_may_sign_other_certificates() {
        for (issuer, is_accepted) in [
            (authority(params("issuer")), true),
            (params("issuer"), false),
        ] {
            let key = KeyPair::generate().unwrap();
            let named = issuer.self_signed(&key).unwrap().der().clone();
            let server_key = KeyPair::generate().unwrap();
            let server = params("origin.test")
                .signed_by(&server_key, &Issuer::new(issuer, &key))
                .unwrap();
            assert_eq!(
                verify(&named, server.der(), "origin.test", NOW).is_ok(),
                is_accepted
            );
        }
    }
}

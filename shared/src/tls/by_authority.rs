//! Verifies a server against the authority that a join token names, without a file with the
//! authority's certificate.
//!
//! The server sends its authority's certificate in its chain, and the digest in the token verifies
//! that certificate. There is no trust on first use, and verification ends before the first byte of
//! a request is sent.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{Authority, provider};

/// Accepts the servers of one authority, of which only the digest is known.
#[derive(Debug)]
pub struct AuthorityVerifier {
    authority: Authority,
    provider: Arc<CryptoProvider>,
}

impl AuthorityVerifier {
    /// A verifier for the servers of this authority.
    pub fn new(authority: Authority) -> Self {
        Self {
            authority,
            provider: provider(),
        }
    }
}

impl ServerCertVerifier for AuthorityVerifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let named = chain
            .iter()
            .find(|certificate| Authority::of(certificate) == self.authority);
        let authority = named.ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let provider = Arc::clone(&self.provider);
        WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(server, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    use super::*;

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn authority() -> Issuer {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn server(issuer: &Issuer, ends: Duration) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = (SystemTime::UNIX_EPOCH + ends).into();
        params
            .signed_by(&KeyPair::generate().unwrap(), issuer)
            .unwrap()
            .der()
            .clone()
    }

    fn check(
        named: &Issuer,
        server: &CertificateDer<'_>,
        chain: &[&Issuer],
        name: &str,
    ) -> Result<(), Error> {
        let verifier = AuthorityVerifier::new(Authority::of(named.der()));
        let chain: Vec<_> = chain.iter().map(|issuer| issuer.der().clone()).collect();
        let name = ServerName::try_from(name).unwrap();
        verifier
            .verify_server_cert(server, &chain, &name, &[], UnixTime::now())
            .map(drop)
    }

    #[test]
    fn only_certificates_that_the_named_authority_signed_for_this_name_are_accepted() {
        let ours = authority();
        let theirs = authority();
        let later = Duration::from_secs(UnixTime::now().as_secs() + 3600);
        let (good, forged, old) = (
            server(&ours, later),
            server(&theirs, later),
            server(&ours, Duration::from_hours(1)),
        );
        assert_eq!(check(&ours, &good, &[&ours], "localhost"), Ok(()));
        assert_eq!(check(&ours, &good, &[&theirs, &ours], "localhost"), Ok(()));
        for (what, refused) in [
            (
                "the authority is not in the chain",
                check(&ours, &good, &[], "localhost"),
            ),
            (
                "another cluster",
                check(&ours, &forged, &[&theirs], "localhost"),
            ),
            (
                "the chain has our authority, and the certificate is of the other one",
                check(&ours, &forged, &[&ours], "localhost"),
            ),
            (
                "both authorities are in the chain",
                check(&ours, &forged, &[&theirs, &ours], "localhost"),
            ),
            ("another name", check(&ours, &good, &[&ours], "elsewhere")),
            ("expired", check(&ours, &old, &[&ours], "localhost")),
            (
                "the authority itself as the server",
                check(&ours, ours.der(), &[&ours], "localhost"),
            ),
        ] {
            assert!(
                matches!(refused, Err(Error::InvalidCertificate(_))),
                "{what}: {refused:?}"
            );
        }
    }
}

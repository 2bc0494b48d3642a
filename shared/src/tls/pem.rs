//! Certificates and keys out of PEM files.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{Source, TlsError, bundle};

/// All certificates of a file, in its order; at least one.
///
/// # Errors
/// [`TlsError::Certificate`].
pub fn certificates(source: &Source) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    bundle::read(&source.bytes).map_err(|why| TlsError::Certificate { path: source.path.clone(), why })
}

/// The first private key of a file.
///
/// # Errors
/// [`TlsError::Key`].
pub fn private_key(source: &Source) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&source.bytes).map_err(|_| TlsError::Key { path: source.path.clone() })
}

/// The certificates of a file as those that others are checked against.
///
/// # Errors
/// [`TlsError`], also when one of them cannot be an authority.
pub fn roots(source: &Source) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(source)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Authority { path: source.path.clone(), reason: error.to_string() })?;
    }
    Ok(roots)
}

//! Reads certificates and keys from PEM files.

use std::sync::Arc;

use rustls::{
    Error, InconsistentKeys, RootCertStore,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
};
use zeroize::Zeroizing;

use super::{SourceFile, TlsError, bundle};

/// All certificates of a file, in the order of the file; at least one.
///
/// # Errors
/// [`TlsError::Certificate`].
pub fn certificates(source: &SourceFile) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    bundle::read(&source.bytes).map_err(|why| TlsError::Certificate {
        path: source.path.clone(),
        why,
    })
}

/// The certificate of one file, with those of its issuers, and the first private key of another
/// file. The key is erased from memory after the signing library has copied it.
///
/// # Errors
/// [`TlsError`], also if the two do not match.
pub fn certified_key(
    certificate: &SourceFile,
    key: &SourceFile,
) -> Result<Arc<SingleCertAndKey>, TlsError> {
    let chain = certificates(certificate)?;
    let der = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|_| TlsError::Key {
        path: key.path.clone(),
    })?;
    let der = Zeroizing::new(der);
    let pair = any_supported_type(&der).and_then(|signer| {
        let pair = CertifiedKey::new(chain, signer);
        match pair.keys_match() {
            // For some kinds of keys the library cannot decide whether they match.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair),
            Err(error) => Err(error),
        }
    });
    let pair = pair.map_err(|source| TlsError::Pair {
        certificate: certificate.path.clone(),
        key: key.path.clone(),
        source,
    })?;
    Ok(Arc::new(pair.into()))
}

/// The certificates of a file as trusted authorities.
///
/// # Errors
/// [`TlsError`], also if one of them cannot be an authority.
pub fn roots(source: &SourceFile) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(source)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Authority {
                path: source.path.clone(),
                reason: error.to_string(),
            })?;
    }
    Ok(roots)
}

//! Reads the certificates of a PEM file.
//!
//! Invariant: either all certificates in the file are returned, or the file is refused with the
//! line of the unusable one. A PEM reader skips what it does not recognise, so that otherwise a
//! byte-order mark or a missing line end would remove a certificate silently.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// Reasons for which a file of certificates cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBundle {
    /// The file is neither PEM nor DER.
    #[error("it holds no PEM certificate (-----BEGIN CERTIFICATE-----)")]
    Empty,
    /// The file is probably DER.
    #[error(
        "it holds no PEM certificate (-----BEGIN CERTIFICATE-----) but looks like DER; convert it \
         with `openssl x509 -inform der -in FILE -out FILE.pem`"
    )]
    Der,
    /// The file has an encoding in which the PEM markers are not ASCII.
    #[error("it is UTF-16 text; save it as ASCII or UTF-8")]
    Utf16,
    /// A certificate with OpenSSL's trust settings, which may forbid the intended use.
    #[error(
        "line {line} begins a TRUSTED CERTIFICATE, with trust settings that only OpenSSL reads; \
         convert it with `openssl x509 -in FILE -out FILE.pem`"
    )]
    TrustSettings {
        /// Line number, counted from 1.
        line: usize,
    },
    /// A certificate that cannot be decoded.
    #[error("the certificate that begins in line {line} is damaged ({why}); replace or remove it")]
    Damaged {
        /// Line number, counted from 1.
        line: usize,
        /// Description of the damage.
        why: String,
    },
}

const BEGIN: &str = "BEGIN ";
const DASHES: &str = "-----";
/// Labels of a certificate; the second one is OpenSSL's old name for the first (RFC 7468 §5).
const LABELS: [&str; 2] = ["CERTIFICATE", "X509 CERTIFICATE"];
const TRUSTED: &str = "TRUSTED CERTIFICATE";

/// All certificates of a PEM file, in the order of the file; at least one.
///
/// Byte-order marks, any line ends, indentation, text between the blocks and blocks of other kinds
/// are accepted.
///
/// # Errors
/// [`InvalidBundle`], also when one of several certificates cannot be used.
pub fn read(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidBundle> {
    let begins_in = |wide: &[u8]| pem.windows(wide.len()).any(|bytes| bytes == wide);
    if begins_in(b"B\0E\0G\0I\0N\0") || begins_in(b"\0B\0E\0G\0I\0N") {
        return Err(InvalidBundle::Utf16);
    }
    let text = String::from_utf8_lossy(pem)
        .replace('\u{feff}', "")
        .replace("\r\n", "\n")
        .replace('\r', "\n");
    let mut certificates = Vec::new();
    for (position, _) in text.match_indices(BEGIN) {
        let before = text[..position].trim_end_matches(' ');
        let after = &text[position + BEGIN.len()..];
        let Some((label, rest)) = after.split_once('-') else {
            continue;
        };
        let line = text[..position].matches('\n').count() + 1;
        if before.ends_with('-') && label.trim() == TRUSTED {
            return Err(InvalidBundle::TrustSettings { line });
        }
        if !before.ends_with('-') || !LABELS.contains(&label.trim()) {
            continue;
        }
        let damaged = |why: String| InvalidBundle::Damaged { line, why };
        let body = body(before, label, rest)
            .ok_or_else(|| damaged("its first or last line is not PEM".to_owned()))?;
        certificates.push(certificate(body).map_err(damaged)?);
    }
    if !certificates.is_empty() {
        return Ok(certificates);
    }
    // A DER certificate is a SEQUENCE of more than 255 bytes.
    Err(if pem.starts_with(&[0x30, 0x82]) {
        InvalidBundle::Der
    } else {
        InvalidBundle::Empty
    })
}

/// The text between the two markers of a block.
fn body<'text>(before: &str, label: &str, rest: &'text str) -> Option<&'text str> {
    let rest = rest
        .strip_prefix(&DASHES[1..])
        .filter(|_| before.ends_with(DASHES))?;
    let (body, _) = rest.split_once(&format!("{DASHES}END {label}{DASHES}"))?;
    (!body.contains('-')).then_some(body)
}

/// Decodes the base64 text of a certificate, and checks that it is a certificate.
fn certificate(base64: &str) -> Result<CertificateDer<'static>, String> {
    let lines: Vec<&str> = base64.split_whitespace().collect();
    let block = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    );
    let certificate =
        CertificateDer::from_pem_slice(block.as_bytes()).map_err(|error| error.to_string())?;
    RootCertStore::empty()
        .add(certificate.clone())
        .map_err(|error| error.to_string())?;
    Ok(certificate)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pem(name: &str) -> String {
        let key = KeyPair::generate().unwrap();
        CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap()
            .pem()
            .replace("\r\n", "\n")
    }

    fn count(text: impl AsRef<[u8]>) -> Result<usize, InvalidBundle> {
        read(text.as_ref()).map(|certificates| certificates.len())
    }

    #[test]
    fn every_certificate_is_read_however_the_file_was_edited() {
        let one = pem("one");
        let two = pem("two");
        let both = format!("{one}{two}");
        let expected = read(both.as_bytes()).unwrap();
        assert_eq!(expected.len(), 2);
        let old_label = both.replace("CERTIFICATE-----", "X509 CERTIFICATE-----");
        for text in [
            format!("\u{feff}{one}\u{feff}{two}"),
            both.replace('\n', "\r\n"),
            both.replace('\n', "\r"),
            format!("{}{two}", one.trim_end()),
            format!("  {}", both.replace('\n', " \n  ")),
            format!(
                "# BEGIN of the list\nsubject: CN=one\n{one}\nissuer=…\n{two}trailing text without an end"
            ),
            format!(
                "{one}-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n{two}"
            ),
            format!(
                "{one}-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE \
                 REQUEST-----\n{two}"
            ),
            both.trim_end().to_owned(),
            old_label,
        ] {
            assert_eq!(read(text.as_bytes()).as_ref(), Ok(&expected), "{text}");
        }
        assert_eq!(
            count([&b"n\xf6te\n"[..], one.as_bytes()].concat()),
            Ok(1),
            "text that is not UTF-8"
        );
    }

    #[test]
    fn an_unusable_certificate_makes_the_file_invalid_and_its_line_is_reported() {
        let one = pem("one");
        let two = pem("two");
        let lines = one.lines().count();
        for (text, line) in [
            (
                format!("{one}{}", two.replace("-----BEGIN CERT", "----BEGIN CERT")),
                lines + 1,
            ),
            (
                format!("{one}{}", two.replace("-----BEGIN CERT", "---- BEGIN CERT")),
                lines + 1,
            ),
            (
                format!("{one}{}", two.replace("-----END CERTIFICATE-----", "")),
                lines + 1,
            ),
            (
                format!("{}{two}", one.replace("-----END CERTIFICATE-----", "")),
                1,
            ),
            (format!("{one}{}", two.replacen("MI", "M!", 1)), lines + 1),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
                1,
            ),
            (
                "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".to_owned(),
                1,
            ),
        ] {
            let refused = read(text.as_bytes()).unwrap_err();
            assert!(
                matches!(refused, InvalidBundle::Damaged { line: found, .. } if found == line),
                "{refused}\n{text}"
            );
        }
        let trusted = two.replace("CERTIFICATE-----", "TRUSTED CERTIFICATE-----");
        assert_eq!(
            count(format!("{one}{trusted}")),
            Err(InvalidBundle::TrustSettings { line: lines + 1 })
        );
    }

    #[test]
    fn a_file_without_any_certificate_is_refused_with_the_reason() {
        let one = pem("one");
        let wide =
            |bytes: fn(u16) -> [u8; 2]| one.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        assert_eq!(count(wide(u16::to_le_bytes)), Err(InvalidBundle::Utf16));
        assert_eq!(count(wide(u16::to_be_bytes)), Err(InvalidBundle::Utf16));
        assert_eq!(
            count(read(one.as_bytes()).unwrap()[0].as_ref()),
            Err(InvalidBundle::Der)
        );
        for text in [
            "",
            "no certificate",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            assert_eq!(count(text), Err(InvalidBundle::Empty), "{text}");
        }
    }
}

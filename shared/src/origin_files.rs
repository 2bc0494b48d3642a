//! The files for requests to the origin: additional headers, and certificate authorities.

use std::{
    io,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{
    job::SecretHeader,
    private_file::{self, NotRead, WritableByOthers},
    tls::{InvalidBundle, bundle},
};

/// Reasons for which a file cannot be used; they follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum OriginFileError {
    /// Other users can change the file.
    #[error(transparent)]
    Writable(#[from] WritableByOthers),
    /// The file cannot be read.
    #[error("read {}, given with {option}: {source}", path.display())]
    File {
        /// The option that names it.
        option: &'static str,
        /// Its value.
        path: PathBuf,
        /// The operating system's error, or that the content is not valid UTF-8.
        source: io::Error,
    },
    /// A line is not `Name: value`. The text is secret and is not shown.
    #[error("use the header file {}: line {line} is not of the form `Name: value`", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
    },
    /// A line sets a header that the program sets itself.
    #[error("use the header file {}: line {line} sets `{name}`, which the program sets itself; \
             remove this line", path.display())]
    OwnHeader {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// The name, as the program writes it.
        name: &'static str,
    },
    /// The file has no certificate, or one that cannot be used.
    #[error("use {}, given with {option}: {why}", path.display())]
    Certificate {
        /// The option that names it.
        option: &'static str,
        /// Its value.
        path: PathBuf,
        /// The defect of the file.
        why: InvalidBundle,
    },
}

/// Headers that say which bytes are asked for, of which host, and how the message is framed.
const OWN_HEADERS: [&str; 6] = [
    "Connection",
    "Content-Length",
    "Host",
    "If-Range",
    "Range",
    "Transfer-Encoding",
];

/// Reads a file that an option names. The content is erased from memory when it is dropped.
fn read(option: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, OriginFileError> {
    private_file::read(path).map_err(|why| match why {
        NotRead::Writable(why) => why.into(),
        NotRead::File(source) => OriginFileError::File {
            option,
            path: path.to_owned(),
            source,
        },
    })
}

/// Certificates in PEM format from the file that `option` names.
///
/// # Errors
/// [`OriginFileError`].
pub fn certificates(option: &'static str, path: &Path) -> Result<Vec<u8>, OriginFileError> {
    let pem = read(option, path)?;
    bundle::read(&pem).map_err(|why| OriginFileError::Certificate {
        option,
        path: path.to_owned(),
        why,
    })?;
    Ok(pem.to_vec())
}

/// Request headers from the file that `option` names, one in each line; lines that begin with `#`
/// are comments.
///
/// # Errors
/// [`OriginFileError`].
pub fn headers(option: &'static str, path: &Path) -> Result<Vec<SecretHeader>, OriginFileError> {
    let bytes = read(option, path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| OriginFileError::File {
        option,
        path: path.to_owned(),
        // The text of the standard library for the same fault.
        source: io::Error::new(
            io::ErrorKind::InvalidData,
            "stream did not contain valid UTF-8",
        ),
    })?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let lines = (1..).zip(lines);
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(line, text)| {
            let found = header(text).ok_or_else(|| OriginFileError::Header {
                path: path.to_owned(),
                line,
            })?;
            let is_same = |own: &&str| own.eq_ignore_ascii_case(&found.name);
            OWN_HEADERS
                .into_iter()
                .find(is_same)
                .map_or(Ok(()), |name| {
                    let path = path.to_owned();
                    Err(OriginFileError::OwnHeader { path, line, name })
                })?;
            Ok(found)
        })
        .collect()
}

/// A header according to RFC 9110: a token, a colon, visible text.
fn header(line: &str) -> Option<SecretHeader> {
    let (name, value) = line.split_once(':')?;
    let name = name.trim();
    let value = value.trim();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let fits =
        !name.is_empty() && name.bytes().all(is_token) && !value.chars().any(char::is_control);
    fits.then(|| SecretHeader {
        name: name.to_owned(),
        value: value.as_bytes().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_line_by_line_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            headers("--header-file", &path)
                .map_err(|error| error.to_string().replace(&path.display().to_string(), "F"))
        };
        let found = read("\u{feff}# mine\n\nCookie: a=b; c=d\r\n X-Token :  secret:1 \n").unwrap();
        let header = |name: &str, value: &str| SecretHeader {
            name: name.to_owned(),
            value: value.into(),
        };
        assert_eq!(
            found,
            [header("Cookie", "a=b; c=d"), header("X-Token", "secret:1")]
        );
        for text in [
            "A: b\nsecret\n",
            "A: b\nse cret: x\n",
            "A: b\n: secret\n",
            "A: b\nC: se\x01cret\n",
        ] {
            let said = "use the header file F: line 2 is not of the form `Name: value`";
            assert_eq!(read(text).unwrap_err(), said);
        }
    }

    #[test]
    fn a_header_that_the_program_sets_itself_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        for name in [
            "Range",
            "host",
            "Content-Length",
            "transfer-encoding",
            "Connection",
        ] {
            std::fs::write(&path, format!("Cookie: a=b\n{name}: 1\n")).unwrap();
            let error = headers("--header-file", &path).unwrap_err().to_string();
            assert!(error.contains("line 2 sets"), "{error}");
        }
        std::fs::write(&path, "X-Range: 1\n").unwrap();
        assert_eq!(headers("--header-file", &path).unwrap().len(), 1);
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "key").unwrap();
        assert!(matches!(
            certificates("--cacert", &path),
            Err(OriginFileError::Certificate { .. })
        ));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").unwrap();
        let refused = certificates("--cacert", &path).unwrap_err().to_string();
        assert!(
            refused
                .contains("given with --cacert: the certificate that begins in line 1 is damaged"),
            "{refused}"
        );
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap()
            .pem();
        std::fs::write(&path, &pem).unwrap();
        assert_eq!(certificates("--cacert", &path).unwrap(), pem.into_bytes());
    }
}

//! What the whole job has in common: options that the coordinator hands to every worker, and the job's counts.

use std::{fmt, time::Duration};

use clap::ValueEnum;
use url::{Position, Url};

use crate::{
    protocol::MAX_RETRY_AFTER,
    url_secrets::{HIDDEN, PLACEHOLDER, has_secrets, without_credentials},
    wnid::Wnid,
};

mod status;

pub use status::JobStatus;

/// A sync of a slow disk brings no byte either, however little the job waits for the origin.
const LEAST_SILENCE: Duration = Duration::from_hours(2);

/// Options of a job. The worker's own flags say only where to and how many at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOptions {
    /// The same for all processes of one run; written into each manifest.
    pub run_id: String,
    /// Where the tars are.
    pub url: UrlTemplate,
    /// No tar is left behind.
    pub delete_tar: bool,
    /// Attempts without progress, after the first.
    pub retries: u32,
    /// Time without a byte.
    pub timeout: Duration,
    /// What becomes of a class folder that has no manifest.
    pub existing: Existing,
    /// What a published class survives.
    pub durability: Durability,
    /// Extra certificate authorities for the origin, PEM.
    pub ca_pem: Vec<u8>,
    /// Extra request headers for the origin.
    pub headers: Vec<SecretHeader>,
}

impl JobOptions {
    /// Whether the job has secrets, which each worker gets when it registers and no log may show.
    pub fn has_secrets(&self) -> bool {
        !self.headers.is_empty() || self.url.has_secrets()
    }

    /// The longest time for which a class may bring no byte although nothing is wrong with its worker: every attempt waits for
    /// `timeout`, and then for as long as the origin asks.
    pub fn longest_silence(&self) -> Duration {
        let attempts = self.retries.saturating_add(1);
        self.timeout.saturating_add(MAX_RETRY_AFTER).saturating_mul(attempts).max(LEAST_SILENCE)
    }
}

/// What becomes of a class folder that has no manifest.
///
/// The comments on the values are the help text of `--existing`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Existing {
    /// Prove it against the origin; a folder that does not match stays untouched and the class fails
    #[default]
    Adopt,
    /// Download the class and put it in the folder's place
    Replace,
    /// Believe that it is complete; one that this program wrote, too
    Trust,
}

/// What a published class survives.
///
/// The comments on the values are the help text of `--durability`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// A power cut
    #[default]
    Power,
    /// The end of the process, also by SIGKILL; faster on slow disks
    Process,
}

/// A request header whose value never shows in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretHeader {
    /// The header's name, e.g. `Cookie`.
    pub name: String,
    /// The header's value.
    pub value: Vec<u8>,
}

impl fmt::Debug for SecretHeader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: (hidden)", self.name)
    }
}

/// Where the tars are: a base URL, to which `/<wnid>.tar` is added, or a template that holds `{wnid}`.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlTemplate {
    text: String,
    /// Fit for a log; made from what the parser understood, which takes more spellings than anybody thinks of.
    shown: String,
}

/// Why a text is no usable URL template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// It cannot be read as a URL.
    #[error("it is no URL ({0}); give one like https://host/path")]
    Unreadable(url::ParseError),
    /// Another scheme.
    #[error("its scheme is {0}:, and only http and https are spoken")]
    Scheme(String),
    /// A query or fragment, where `/<wnid>.tar` would be lost.
    #[error("it has a query or a fragment; put {{wnid}} where the id belongs")]
    Query,
    /// `{wnid}` in the host, where an id would choose whom to ask.
    #[error("{{wnid}} may only stand in the path or the query")]
    Placeholder,
    /// Braces that are not those of `{wnid}`; not shown, for they may stand in a password.
    #[error(
        "it holds a placeholder other than {{wnid}}, and there is no other; put {{wnid}} where the id belongs, and write braces that are meant as %7B and %7D"
    )]
    OtherPlaceholder,
    /// A placeholder that changes nothing of what is asked for.
    #[error(
        "{{wnid}} does not reach the server there (what follows # is never sent), so every class would be the same file; put it into the path or the query"
    )]
    NeverSent,
}

/// The same in a path, as the parser writes it.
const ENCODED_PLACEHOLDER: &str = "%7Bwnid%7D";

impl UrlTemplate {
    /// Reads a base URL or a template.
    ///
    /// # Errors
    /// [`InvalidUrl`] says in which way the text is none.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let text = text.trim();
        if text.replace(PLACEHOLDER, "").contains(['{', '}']) {
            return Err(InvalidUrl::OtherPlaceholder);
        }
        let template = if text.contains(PLACEHOLDER) {
            text.to_owned()
        } else {
            let base = Url::parse(text).map_err(InvalidUrl::Unreadable)?;
            if base.query().is_some() || base.fragment().is_some() {
                return Err(InvalidUrl::Query);
            }
            format!("{}/{PLACEHOLDER}.tar", text.trim_end_matches('/'))
        };
        let probe = |id: &str| Url::parse(&template.replace(PLACEHOLDER, id)).map_err(InvalidUrl::Unreadable);
        let (one, other) = (probe("n00000001")?, probe("n00000002")?);
        if !matches!(one.scheme(), "http" | "https") {
            // Before a mere colon it may as well be the name of a user.
            let scheme = if template.contains("://") { one.scheme() } else { HIDDEN };
            return Err(InvalidUrl::Scheme(scheme.to_owned()));
        }
        if one.origin() != other.origin() || one.username() != other.username() || one.password() != other.password() {
            return Err(InvalidUrl::Placeholder);
        }
        if one[..Position::AfterQuery] == other[..Position::AfterQuery] {
            return Err(InvalidUrl::NeverSent);
        }
        let shown = without_credentials(&template).replace(ENCODED_PLACEHOLDER, PLACEHOLDER);
        Ok(Self { text: template, shown })
    }

    /// The URL of a class's tar.
    pub fn for_class(&self, wnid: Wnid) -> Url {
        Url::parse(&self.text.replace(PLACEHOLDER, &wnid.to_string())).expect("the template was tried when it was read")
    }

    /// The template as it was given; may hold credentials, so not for a log.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has a user, a password or a secret in its query.
    pub fn has_secrets(&self) -> bool {
        has_secrets(&self.text)
    }

    /// What follows the first `?`, to tell origins from one another that look the same when they are shown; not for a log.
    pub fn query(&self) -> Option<&str> {
        let (_, query) = self.text.split_once('?')?;
        Some(query)
    }
}

impl fmt::Display for UrlTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

impl fmt::Debug for UrlTemplate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl From<JobOptions> for proto::JobOptions {
    fn from(job: JobOptions) -> Self {
        Self {
            run_id: job.run_id,
            url_template: job.url.text,
            delete_tar: job.delete_tar,
            retries: job.retries,
            timeout_ms: u64::try_from(job.timeout.as_millis()).unwrap_or(u64::MAX),
            existing: match job.existing {
                Existing::Adopt => proto::Existing::Adopt,
                Existing::Replace => proto::Existing::Replace,
                Existing::Trust => proto::Existing::Trust,
            }
            .into(),
            durability: match job.durability {
                Durability::Power => proto::Durability::Power,
                Durability::Process => proto::Durability::Process,
            }
            .into(),
            ca_pem: job.ca_pem,
            headers: job
                .headers
                .into_iter()
                .map(|header| proto::Header { name: header.name, value: header.value })
                .collect(),
        }
    }
}

/// Bytes of the URL template that a worker takes.
const LONGEST_URL: usize = 8 << 10;
/// Extra request headers that a worker takes, and their bytes.
const MOST_HEADERS: usize = 256;
const LONGEST_HEADERS: usize = 64 << 10;
/// Bytes of extra certificates that a worker takes; all that a system has are 220 KB.
const LONGEST_CERTIFICATES: usize = 512 << 10;
/// Characters of a run's id.
const LONGEST_RUN_ID: usize = 64;
/// A coordinator takes no longer time for `--timeout`.
const LONGEST_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;

/// Why a job cannot be worked on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJob {
    /// Where the tars are.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// It becomes part of each manifest.
    #[error("the id of its run is no word of at most {LONGEST_RUN_ID} letters and digits")]
    RunId,
    /// No job has so much of something.
    #[error("its {what} are {found}, and at most {most} are taken")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How much.
        found: usize,
        /// The limit.
        most: usize,
    },
}

/// Refuses what no coordinator sends that a person has started.
fn check_job(wire: &proto::JobOptions) -> Result<(), InvalidJob> {
    let header_bytes = |header: &proto::Header| header.name.len() + header.value.len();
    for (what, found, most) in [
        ("bytes of URL", wire.url_template.len(), LONGEST_URL),
        ("request headers", wire.headers.len(), MOST_HEADERS),
        ("bytes of request headers", wire.headers.iter().map(header_bytes).sum(), LONGEST_HEADERS),
        ("bytes of certificates", wire.ca_pem.len(), LONGEST_CERTIFICATES),
    ] {
        if found > most {
            return Err(InvalidJob::TooLarge { what, found, most });
        }
    }
    let is_word = wire.run_id.len() <= LONGEST_RUN_ID && wire.run_id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_word { Ok(()) } else { Err(InvalidJob::RunId) }
}

impl TryFrom<proto::JobOptions> for JobOptions {
    type Error = InvalidJob;

    fn try_from(wire: proto::JobOptions) -> Result<Self, InvalidJob> {
        check_job(&wire)?;
        Ok(Self {
            existing: match wire.existing() {
                proto::Existing::Unspecified | proto::Existing::Adopt => Existing::Adopt,
                proto::Existing::Replace => Existing::Replace,
                proto::Existing::Trust => Existing::Trust,
            },
            durability: match wire.durability() {
                proto::Durability::Unspecified | proto::Durability::Power => Durability::Power,
                proto::Durability::Process => Durability::Process,
            },
            run_id: wire.run_id,
            url: UrlTemplate::parse(&wire.url_template)?,
            delete_tar: wire.delete_tar,
            retries: wire.retries,
            timeout: Duration::from_millis(wire.timeout_ms.clamp(1, LONGEST_TIMEOUT_MS)),
            ca_pem: wire.ca_pem,
            headers: wire
                .headers
                .into_iter()
                .map(|header| SecretHeader { name: header.name, value: header.value })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(template: &str) -> Result<String, InvalidUrl> {
        UrlTemplate::parse(template).map(|template| template.for_class("n02124075".parse().unwrap()).to_string())
    }

    #[test]
    fn a_base_or_a_template_becomes_the_url_of_a_class() {
        for (template, expected) in [
            ("https://image-net.org/data/winter21_whole", "https://image-net.org/data/winter21_whole/n02124075.tar"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/n02124075.tar"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/n02124075.tar"),
            ("http://[::1]:8080/a//", "http://[::1]:8080/a/n02124075.tar"),
            ("https://h/get?id={wnid}&key=1", "https://h/get?id=n02124075&key=1"),
            ("https://u:p@h/x", "https://u:p@h/x/n02124075.tar"),
        ] {
            assert_eq!(url(template).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_class_may_be_silent_for_as_long_as_all_its_attempts_may_wait() {
        let silence = |retries, timeout| {
            let options = JobOptions {
                run_id: String::new(),
                url: UrlTemplate::parse("http://h/x").unwrap(),
                delete_tar: false,
                retries,
                timeout,
                existing: Existing::Adopt,
                durability: Durability::Power,
                ca_pem: Vec::new(),
                headers: Vec::new(),
            };
            options.longest_silence()
        };
        let hours = Duration::from_hours;
        assert_eq!(silence(5, Duration::from_mins(2)), hours(2), "the defaults");
        assert_eq!(silence(0, Duration::from_secs(1)), hours(2));
        assert_eq!(silence(5, hours(24)), 6 * (hours(24) + MAX_RETRY_AFTER));
        assert_eq!(silence(u32::MAX, Duration::MAX), Duration::MAX);
    }

    #[test]
    fn what_is_no_url_is_refused_with_the_reason() {
        assert!(matches!(url("image-net.org/data"), Err(InvalidUrl::Unreadable(_))));
        assert!(matches!(url(""), Err(InvalidUrl::Unreadable(_))));
        assert_eq!(url("ftp://h/x"), Err(InvalidUrl::Scheme("ftp".to_owned())));
        assert_eq!(url("file:///etc"), Err(InvalidUrl::Scheme("file".to_owned())));
        assert_eq!(url("https://h/x?key=1"), Err(InvalidUrl::Query));
        assert_eq!(url("https://{wnid}.h/x"), Err(InvalidUrl::Placeholder));
        for template in
            ["http://h/{wind}.tar", "http://h/{x}/{wnid}.tar", "http://h/{WNID}", "http://h/{wnid", "http://h/{}"]
        {
            assert_eq!(url(template), Err(InvalidUrl::OtherPlaceholder), "{template}");
        }
    }

    #[test]
    fn a_placeholder_that_no_server_sees_is_refused() {
        for template in
            ["http://h/x#{wnid}", "http://h/x?key=1#{wnid}", "http://h/{wnid}/../x", "http://h/{wnid}/%2e%2e/x"]
        {
            assert_eq!(url(template), Err(InvalidUrl::NeverSent), "{template}");
        }
        assert_eq!(url("http://h/{wnid}#x").as_deref(), Ok("http://h/n02124075#x"));
        let said = InvalidUrl::NeverSent.to_string();
        assert!(said.starts_with("{wnid} does not reach the server there (what follows # is never sent)"), "{said}");
    }

    #[test]
    fn nothing_secret_is_ever_shown_however_it_is_spelled() {
        for (template, expected) in [
            ("https://user:secret@host/x@y", "https://host/x@y/{wnid}.tar"),
            ("http:/u:secret@h/x", "http://h/x/{wnid}.tar"),
            ("http:u:secret@h/x", "http://h/x/{wnid}.tar"),
            ("http:\\\\u:secret@h/x", "http://h/x/{wnid}.tar"),
            ("http:///u:secret@h/x", "http://h/x/{wnid}.tar"),
            ("http://u:secret@h\\x", "http://h/x/{wnid}.tar"),
            ("ht\ntp:/\n/u:sec\nret@h/x", "http://h/x/{wnid}.tar"),
            ("http://secret@h/x", "http://h/x/{wnid}.tar"),
            ("http://u:/secret@h/x", "http://u/secret@h/x/{wnid}.tar"),
            ("https://h/{wnid}.tar?key=secret", "https://h/{wnid}.tar?key=…"),
            ("https://h/{wnid}.tar?secret#secret", "https://h/{wnid}.tar?…"),
            ("https://h/get?id={wnid}&key=secret&a=secret=", "https://h/get?id={wnid}&key=…&a=…"),
            ("https://h/get?{wnid}&=secret&id=secret{wnid}", "https://h/get?{wnid}&…&id=…"),
        ] {
            let template = UrlTemplate::parse(template).unwrap();
            assert_eq!((template.to_string(), format!("{template:?}")), (expected.to_owned(), expected.to_owned()));
            let class = without_credentials(template.for_class("n02124075".parse().unwrap()).as_str());
            assert_eq!(class, expected.replace(PLACEHOLDER, "n02124075"));
        }
        for refused in ["u:secret@h/x", "user:secret@h/x?y", "http://u:secret@", "secret:x@h/x", "mailto:u:secret@h"] {
            let error = UrlTemplate::parse(refused).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
            assert!(!without_credentials(refused).contains(":secret"), "{refused}");
        }
        let header = SecretHeader { name: "Cookie".to_owned(), value: b"secret".to_vec() };
        assert!(!format!("{header:?}").contains("secret"));
    }

    #[test]
    fn a_job_beyond_all_measure_is_refused_with_what_is_too_large() {
        let job = || proto::JobOptions {
            url_template: "https://h/x".to_owned(),
            run_id: "0af3".to_owned(),
            ..proto::JobOptions::default()
        };
        let header = |bytes| proto::Header { name: "A".to_owned(), value: vec![b'b'; bytes] };
        for (wire, said) in [
            (proto::JobOptions { url_template: String::new(), ..job() }, "it is no URL"),
            (proto::JobOptions { url_template: format!("https://h/{}", "x".repeat(9000)), ..job() }, "bytes of URL"),
            (proto::JobOptions { headers: vec![header(1); 257], ..job() }, "request headers are 257"),
            (proto::JobOptions { headers: vec![header(1); 400_000], ..job() }, "request headers are 400000"),
            (proto::JobOptions { headers: vec![header(1000); 100], ..job() }, "bytes of request headers"),
            (proto::JobOptions { ca_pem: vec![b'-'; 600_000], ..job() }, "bytes of certificates"),
            (proto::JobOptions { run_id: "\u{1b}[2J".to_owned(), ..job() }, "the id of its run"),
            (proto::JobOptions { run_id: "a".repeat(65), ..job() }, "the id of its run"),
        ] {
            let refused = JobOptions::try_from(wire).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
        for (sent, taken) in [(0, 1), (1, 1), (u64::MAX, LONGEST_TIMEOUT_MS)] {
            let job = JobOptions::try_from(proto::JobOptions { timeout_ms: sent, ..job() }).unwrap();
            assert_eq!(job.timeout, Duration::from_millis(taken));
        }
        let status = JobStatus { success: u64::MAX, skipped: u64::MAX, failed: 1, ..JobStatus::default() };
        assert_eq!((status.settled(), status.is_done()), (u64::MAX, false));
    }

    #[test]
    fn options_survive_the_wire() {
        let job = JobOptions {
            run_id: "r".to_owned(),
            url: UrlTemplate::parse("https://h/{wnid}.tar").unwrap(),
            delete_tar: true,
            retries: 7,
            timeout: Duration::from_millis(1500),
            existing: Existing::Replace,
            durability: Durability::Process,
            ca_pem: b"pem".to_vec(),
            headers: vec![SecretHeader { name: "A".to_owned(), value: b"b".to_vec() }],
        };
        let back = JobOptions::try_from(proto::JobOptions::from(job.clone())).unwrap();
        assert_eq!(format!("{job:?}"), format!("{back:?}"));
        assert_eq!(job.headers, back.headers);
    }
}

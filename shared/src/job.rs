//! What the whole job has in common: the options that the coordinator sends to every worker, and
//! the job's counts.

use std::{fmt, time::Duration};

use clap::ValueEnum;
use url::{Position, Url};

use crate::{
    protocol::{MAX_RETRY_AFTER, milliseconds},
    url_secrets::{HIDDEN, PLACEHOLDER, has_secrets, without_credentials},
    wire_enum,
    wnid::Wnid,
};

mod status;

pub use status::JobStatus;

/// A sync of a slow disk brings no byte either, however little the job waits for the origin.
const LEAST_SILENCE: Duration = Duration::from_hours(2);

/// Options of a job. The worker's own flags only give the target and the number of concurrent
/// downloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOptions {
    /// The same for all processes of one run; written into each manifest.
    pub run_id: String,
    /// The location of the tars.
    pub url: UrlTemplate,
    /// Whether tars are discarded after unpacking.
    pub delete_tar: bool,
    /// Number of retries without progress.
    pub retries: u32,
    /// Longest time without a received byte.
    pub timeout: Duration,
    /// How a class folder without a manifest is treated.
    pub existing: Existing,
    /// The failures that a published class survives.
    pub durability: Durability,
    /// Extra certificate authorities for the origin, PEM.
    pub ca_pem: Vec<u8>,
    /// Extra request headers for the origin.
    pub headers: Vec<SecretHeader>,
}

impl JobOptions {
    /// Whether the job has secrets. Each worker receives them when it registers; they must not be
    /// logged.
    pub fn has_secrets(&self) -> bool {
        !self.headers.is_empty() || self.url.has_secrets()
    }

    /// The longest time without received bytes for which a class may be held while its worker works
    /// correctly. Every attempt waits for `timeout` and then as long as the origin requests.
    pub fn longest_silence(&self) -> Duration {
        let attempts = self.retries.saturating_add(1);
        self.timeout
            .saturating_add(MAX_RETRY_AFTER)
            .saturating_mul(attempts)
            .max(LEAST_SILENCE)
    }
}

/// What becomes of a class folder that has no manifest.
///
/// The comments on the values are the help text of `--existing`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Existing {
    /// Prove it against the origin; a folder that does not match stays untouched and the class
    /// fails
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

/// A request header whose value is never logged.
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

/// The location of the tars: a base URL, to which `/<wnid>.tar` is added, or a template that
/// contains `{wnid}`.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlTemplate {
    text: String,
    /// The text for logs. It is made from the parsed URL, because the parser accepts many spellings
    /// of the same URL.
    shown: String,
}

/// Why a text is no usable URL template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// The text cannot be parsed as a URL.
    #[error("it is no URL ({0}); give one like https://host/path")]
    Unreadable(url::ParseError),
    /// Another scheme.
    #[error("its scheme is {0}:, and only http and https are spoken")]
    Scheme(String),
    /// A query or a fragment, to which `/<wnid>.tar` cannot be added.
    #[error("it has a query or a fragment; put {{wnid}} where the id belongs")]
    Query,
    /// `{wnid}` in the host, where the id would select the server.
    #[error("{{wnid}} may only stand in the path or the query")]
    Placeholder,
    /// Braces other than those of `{wnid}`. They are not shown, because they may be part of a
    /// password.
    #[error(
        "it holds a placeholder other than {{wnid}}, and there is no other; put {{wnid}} where \
         the id belongs, and write braces that are meant as %7B and %7D"
    )]
    OtherPlaceholder,
    /// A placeholder in a part of the URL that is not sent to the server.
    #[error(
        "{{wnid}} does not reach the server there (what follows # is never sent), so every class \
         would be the same file; put it into the path or the query"
    )]
    NeverSent,
}

/// The placeholder in a path, as the parser encodes it.
const ENCODED_PLACEHOLDER: &str = "%7Bwnid%7D";

impl UrlTemplate {
    /// Parses a base URL or a template.
    ///
    /// # Errors
    /// [`InvalidUrl`] with the reason.
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
        let probe = |id: &str| {
            Url::parse(&template.replace(PLACEHOLDER, id)).map_err(InvalidUrl::Unreadable)
        };
        let one = probe("n00000001")?;
        let other = probe("n00000002")?;
        if !matches!(one.scheme(), "http" | "https") {
            // Without `://` the text before the colon may be a user name, so it is not shown.
            let scheme = if template.contains("://") {
                one.scheme()
            } else {
                HIDDEN
            };
            return Err(InvalidUrl::Scheme(scheme.to_owned()));
        }
        if one[..Position::BeforePath] != other[..Position::BeforePath] {
            return Err(InvalidUrl::Placeholder);
        }
        if one[..Position::AfterQuery] == other[..Position::AfterQuery] {
            return Err(InvalidUrl::NeverSent);
        }
        let shown = without_credentials(&template).replace(ENCODED_PLACEHOLDER, PLACEHOLDER);
        Ok(Self {
            text: template,
            shown,
        })
    }

    /// The URL of a class's tar.
    pub fn for_class(&self, wnid: Wnid) -> Url {
        Url::parse(&self.text.replace(PLACEHOLDER, &wnid.to_string()))
            .expect("the template was tried when it was read")
    }

    /// The template as it was given. It may contain credentials, so it must not be logged.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the URL has a user, a password or a secret in its query.
    pub fn has_secrets(&self) -> bool {
        has_secrets(&self.text)
    }

    /// The text after the first `?`. It distinguishes origins that look the same when shown; it
    /// must not be logged.
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

wire_enum!(Existing: Adopt, Replace, Trust);
wire_enum!(Durability: Power, Process);

impl From<JobOptions> for proto::JobOptions {
    fn from(job: JobOptions) -> Self {
        Self {
            run_id: job.run_id,
            url_template: job.url.text,
            delete_tar: job.delete_tar,
            retries: job.retries,
            timeout_ms: milliseconds(job.timeout),
            existing: proto::Existing::from(job.existing).into(),
            durability: proto::Durability::from(job.durability).into(),
            ca_pem: job.ca_pem,
            headers: job
                .headers
                .into_iter()
                .map(|header| proto::Header {
                    name: header.name,
                    value: header.value,
                })
                .collect(),
        }
    }
}

/// Maximum length in bytes of the URL template that a worker accepts.
const LONGEST_URL: usize = 8 << 10;
/// Maximum number of extra request headers that a worker accepts, and their maximum size in bytes.
const MAX_HEADERS: usize = 256;
const LONGEST_HEADERS: usize = 64 << 10;
/// Maximum size in bytes of extra certificates that a worker accepts. All certificates of a system
/// have 220 KB.
const LONGEST_CERTIFICATES: usize = 512 << 10;
/// Maximum length of a run's id in characters.
const LONGEST_RUN_ID: usize = 64;
/// The longest `--timeout` that a coordinator accepts, in milliseconds.
const LONGEST_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;

/// Why a worker refuses a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJob {
    /// The URL of the tars is invalid.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The id of the run is invalid. It is written to each manifest.
    #[error("the id of its run is no word of at most {LONGEST_RUN_ID} letters and digits")]
    RunId,
    /// A field exceeds its limit.
    #[error("its {what} are {found}, and at most {most} are taken")]
    TooLarge {
        /// The field.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The limit.
        most: usize,
    },
}

/// Refuses values that a coordinator started with valid options never sends.
fn check_job(wire: &proto::JobOptions) -> Result<(), InvalidJob> {
    let header_bytes = |header: &proto::Header| header.name.len() + header.value.len();
    for (what, found, most) in [
        ("bytes of URL", wire.url_template.len(), LONGEST_URL),
        ("request headers", wire.headers.len(), MAX_HEADERS),
        (
            "bytes of request headers",
            wire.headers.iter().map(header_bytes).sum(),
            LONGEST_HEADERS,
        ),
        (
            "bytes of certificates",
            wire.ca_pem.len(),
            LONGEST_CERTIFICATES,
        ),
    ] {
        if found > most {
            return Err(InvalidJob::TooLarge { what, found, most });
        }
    }
    let is_word = wire.run_id.len() <= LONGEST_RUN_ID
        && wire.run_id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_word {
        Ok(())
    } else {
        Err(InvalidJob::RunId)
    }
}

impl TryFrom<proto::JobOptions> for JobOptions {
    type Error = InvalidJob;

    fn try_from(wire: proto::JobOptions) -> Result<Self, InvalidJob> {
        check_job(&wire)?;
        Ok(Self {
            existing: wire.existing().into(),
            durability: wire.durability().into(),
            run_id: wire.run_id,
            url: UrlTemplate::parse(&wire.url_template)?,
            delete_tar: wire.delete_tar,
            retries: wire.retries,
            timeout: Duration::from_millis(wire.timeout_ms.clamp(1, LONGEST_TIMEOUT_MS)),
            ca_pem: wire.ca_pem,
            headers: wire
                .headers
                .into_iter()
                .map(|header| SecretHeader {
                    name: header.name,
                    value: header.value,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(template: &str) -> Result<String, InvalidUrl> {
        UrlTemplate::parse(template)
            .map(|template| template.for_class("n02124075".parse().unwrap()).to_string())
    }

    #[test]
    fn the_url_of_a_class_is_made_from_a_base_or_a_template() {
        for (template, expected) in [
            (
                "https://image-net.org/data/winter21_whole",
                "https://image-net.org/data/winter21_whole/n02124075.tar",
            ),
            (
                "http://127.0.0.1:8080/",
                "http://127.0.0.1:8080/n02124075.tar",
            ),
            (
                "http://127.0.0.1:8080",
                "http://127.0.0.1:8080/n02124075.tar",
            ),
            ("http://[::1]:8080/a//", "http://[::1]:8080/a/n02124075.tar"),
            (
                "https://h/get?id={wnid}&key=1",
                "https://h/get?id=n02124075&key=1",
            ),
            ("https://u:p@h/x", "https://u:p@h/x/n02124075.tar"),
        ] {
            assert_eq!(url(template).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn the_longest_silence_is_the_sum_of_the_waits_of_all_attempts() {
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
    fn an_invalid_url_is_refused_with_the_reason() {
        assert!(matches!(
            url("image-net.org/data"),
            Err(InvalidUrl::Unreadable(_))
        ));
        assert!(matches!(url(""), Err(InvalidUrl::Unreadable(_))));
        assert_eq!(url("ftp://h/x"), Err(InvalidUrl::Scheme("ftp".to_owned())));
        assert_eq!(
            url("file:///etc"),
            Err(InvalidUrl::Scheme("file".to_owned()))
        );
        assert_eq!(url("https://h/x?key=1"), Err(InvalidUrl::Query));
        assert_eq!(url("https://{wnid}.h/x"), Err(InvalidUrl::Placeholder));
        for template in [
            "http://h/{wind}.tar",
            "http://h/{x}/{wnid}.tar",
            "http://h/{WNID}",
            "http://h/{wnid",
            "http://h/{}",
        ] {
            assert_eq!(
                url(template),
                Err(InvalidUrl::OtherPlaceholder),
                "{template}"
            );
        }
    }

    #[test]
    fn a_placeholder_that_is_not_sent_to_the_server_is_refused() {
        for template in [
            "http://h/x#{wnid}",
            "http://h/x?key=1#{wnid}",
            "http://h/{wnid}/../x",
            "http://h/{wnid}/%2e%2e/x",
        ] {
            assert_eq!(url(template), Err(InvalidUrl::NeverSent), "{template}");
        }
        assert_eq!(
            url("http://h/{wnid}#x").as_deref(),
            Ok("http://h/n02124075#x")
        );
        let said = InvalidUrl::NeverSent.to_string();
        assert!(
            said.starts_with(
                "{wnid} does not reach the server there (what follows # is never sent)"
            ),
            "{said}"
        );
    }

    #[test]
    fn secrets_are_not_shown_in_any_spelling_of_the_url() {
        for (template, expected) in [
            (
                "https://user:secret@host/x@y",
                "https://host/x@y/{wnid}.tar",
            ),
            ("http:/u:secret@h/x", "http://h/x/{wnid}.tar"),
            ("http:u:secret@h/x", "http://h/x/{wnid}.tar"),
            ("http:\\\\u:secret@h/x", "http://h/x/{wnid}.tar"),
            ("http:///u:secret@h/x", "http://h/x/{wnid}.tar"),
            ("http://u:secret@h\\x", "http://h/x/{wnid}.tar"),
            ("ht\ntp:/\n/u:sec\nret@h/x", "http://h/x/{wnid}.tar"),
            ("http://secret@h/x", "http://h/x/{wnid}.tar"),
            ("http://u:/secret@h/x", "http://u/secret@h/x/{wnid}.tar"),
            (
                "https://h/{wnid}.tar?key=secret",
                "https://h/{wnid}.tar?key=…",
            ),
            (
                "https://h/{wnid}.tar?secret#secret",
                "https://h/{wnid}.tar?…",
            ),
            (
                "https://h/get?id={wnid}&key=secret&a=secret=",
                "https://h/get?id={wnid}&key=…&a=…",
            ),
            (
                "https://h/get?{wnid}&=secret&id=secret{wnid}",
                "https://h/get?{wnid}&…&id=…",
            ),
        ] {
            let template = UrlTemplate::parse(template).unwrap();
            assert_eq!(
                (template.to_string(), format!("{template:?}")),
                (expected.to_owned(), expected.to_owned())
            );
            let class =
                without_credentials(template.for_class("n02124075".parse().unwrap()).as_str());
            assert_eq!(class, expected.replace(PLACEHOLDER, "n02124075"));
        }
        for refused in [
            "u:secret@h/x",
            "user:secret@h/x?y",
            "http://u:secret@",
            "secret:x@h/x",
            "mailto:u:secret@h",
        ] {
            let error = UrlTemplate::parse(refused).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
            assert!(
                !without_credentials(refused).contains(":secret"),
                "{refused}"
            );
        }
        let header = SecretHeader {
            name: "Cookie".to_owned(),
            value: b"secret".to_vec(),
        };
        assert!(!format!("{header:?}").contains("secret"));
    }

    fn wire_job() -> proto::JobOptions {
        proto::JobOptions {
            url_template: "https://h/x".to_owned(),
            run_id: "0af3".to_owned(),
            ..proto::JobOptions::default()
        }
    }

    fn headers(count: usize, bytes: usize) -> Vec<proto::Header> {
        let header = proto::Header {
            name: "A".to_owned(),
            value: vec![b'b'; bytes],
        };
        vec![header; count]
    }

    #[test]
    fn a_job_with_a_value_above_its_limit_is_refused_with_the_reason() {
        type Change = fn(&mut proto::JobOptions);
        let cases: [(Change, &str); 8] = [
            (|job| job.url_template.clear(), "it is no URL"),
            (|job| job.url_template += &"x".repeat(9000), "bytes of URL"),
            (
                |job| job.headers = headers(257, 1),
                "request headers are 257",
            ),
            (
                |job| job.headers = headers(400_000, 1),
                "request headers are 400000",
            ),
            (
                |job| job.headers = headers(100, 1000),
                "bytes of request headers",
            ),
            (
                |job| job.ca_pem = vec![b'-'; 600_000],
                "bytes of certificates",
            ),
            (
                |job| job.run_id = "\u{1b}[2J".to_owned(),
                "the id of its run",
            ),
            (|job| job.run_id = "a".repeat(65), "the id of its run"),
        ];
        for (change, said) in cases {
            let mut wire = wire_job();
            change(&mut wire);
            let refused = JobOptions::try_from(wire).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn a_timeout_is_limited_and_counts_of_any_size_are_added() {
        for (sent, taken) in [(0, 1), (1, 1), (u64::MAX, LONGEST_TIMEOUT_MS)] {
            let mut wire = wire_job();
            wire.timeout_ms = sent;
            let job = JobOptions::try_from(wire).unwrap();
            assert_eq!(job.timeout, Duration::from_millis(taken));
        }
        let status = JobStatus {
            success: u64::MAX,
            skipped: u64::MAX,
            failed: 1,
            ..JobStatus::default()
        };
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
            headers: vec![SecretHeader {
                name: "A".to_owned(),
                value: b"b".to_vec(),
            }],
        };
        let back = JobOptions::try_from(proto::JobOptions::from(job.clone())).unwrap();
        assert_eq!(format!("{job:?}"), format!("{back:?}"));
        assert_eq!(job.headers, back.headers);
    }
}

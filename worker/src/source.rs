//! Identifies one version of a tar at the origin, so that bytes of two versions are never mixed.

use std::{
    ops::Not,
    time::{Duration, SystemTime},
};

use reqwest::{
    Response, StatusCode,
    header::{self, HeaderMap},
};
use serde::{Deserialize, Serialize};
use url::Url;

use shared::url_secrets::without_credentials;

/// If `Date` is later than `Last-Modified` by at least this much, `Last-Modified` is a strong
/// validator (RFC 9110 §8.8.2.2): the tar cannot have changed again within the second that
/// `Last-Modified` denotes.
const STRONG_AFTER: Duration = Duration::from_secs(1);
/// The same limit if `Date` is missing and this machine's clock is used instead.
const STRONG_AFTER_BY_OUR_CLOCK: Duration = Duration::from_mins(1);

/// A tar at the origin: its URL, its length, and the validators that distinguish its versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// URL without credentials.
    pub(crate) url: String,
    /// Length in bytes, if the origin announced it.
    pub(crate) length: Option<u64>,
    /// `ETag`, verbatim.
    pub(crate) etag: Option<String>,
    /// `Last-Modified`, verbatim.
    pub(crate) last_modified: Option<String>,
    /// Whether `Last-Modified` is a strong validator.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(crate) date_is_strong: bool,
    /// Whether the rest is requested with `Last-Modified` although there is an `ETag`, because the
    /// origin did not honour that.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(crate) by_date: bool,
}

impl Source {
    /// The tar that a response describes, and the range of it that the body contains.
    pub(crate) fn of_answer(url: &Url, response: &Response) -> (Self, BodyRange) {
        let headers = response.headers();
        let body = BodyRange::of(response.status(), headers);
        let from = match body {
            BodyRange::From(from) => from,
            BodyRange::Whole | BodyRange::Unclear => 0,
        };
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // `Content-Length` has no meaning together with a transfer encoding (RFC 9112 §6.3).
        let length =
            text(header::CONTENT_LENGTH).filter(|_| text(header::TRANSFER_ENCODING).is_none());
        let rest =
            || length.and_then(|length| length.trim().parse::<u64>().ok()?.checked_add(from));
        let last_modified = text(header::LAST_MODIFIED);
        let is_strong = |modified| is_strong_date(modified, text(header::DATE), SystemTime::now());
        let source = Self {
            url: shown(url),
            length: total_length(headers).or_else(rest),
            etag: text(header::ETAG).map(str::to_owned),
            last_modified: last_modified.map(str::to_owned),
            date_is_strong: last_modified.is_some_and(is_strong),
            by_date: false,
        };
        (source, body)
    }

    /// The value of `If-Range`: a strong `ETag`, else a strong `Last-Modified` if the length is
    /// known too. Without one an interrupted download starts anew, because nothing would prove that
    /// the rest belongs to the same version (RFC 9110 §13.1.5).
    pub(crate) fn validator(&self) -> Option<&str> {
        if self.asks_by_tag() {
            self.etag.as_deref()
        } else {
            self.strong_date()
        }
    }

    /// The version alone, without the fields that control requests. Block digests and manifests use
    /// it.
    pub(crate) fn version(&self) -> Self {
        Self {
            date_is_strong: false,
            by_date: false,
            ..self.clone()
        }
    }

    /// Whether the `ETag` failed although the version is the same: it was sent in a request for the
    /// rest, and the response is not that rest, but has the same length and the same
    /// `Last-Modified`, which prove the version equally well. Then the origin does not honour
    /// `If-Range` with an `ETag`, or its replicas have different `ETag`s.
    pub(crate) fn etag_is_ignored_by(&self, answer: &Self) -> bool {
        let is_same = self.last_modified == answer.last_modified && self.length == answer.length;
        self.asks_by_tag()
            && self.strong_date().is_some()
            && answer.strong_date().is_some()
            && is_same
    }

    /// Whether a partial response, described by `part`, continues this version. An `ETag` that was
    /// sent must come back, as RFC 9110 §15.3.7 demands, so that an origin which ignores `If-Range`
    /// is detected. A date need not come back, but the length must. If the date is used instead of
    /// an `ETag`, one of the two must come back.
    pub(crate) fn is_continued_by(&self, part: &Self) -> bool {
        fn agree<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
            one.zip(other).is_none_or(|(one, other)| one == other)
        }
        if self.asks_by_tag() {
            return self.etag == part.etag && agree(self.length.as_ref(), part.length.as_ref());
        }
        let is_proved =
            !self.has_strong_tag() || self.etag == part.etag || part.last_modified.is_some();
        is_proved
            && self.length == part.length
            && agree(self.last_modified.as_ref(), part.last_modified.as_ref())
    }

    fn asks_by_tag(&self) -> bool {
        self.has_strong_tag() && !(self.by_date && self.strong_date().is_some())
    }

    fn has_strong_tag(&self) -> bool {
        let etag = self.etag.as_ref();
        etag.is_some_and(|etag| etag.starts_with('"'))
    }

    fn strong_date(&self) -> Option<&str> {
        self.last_modified
            .as_deref()
            .filter(|_| self.date_is_strong && self.length.is_some())
    }
}

/// Whether `Last-Modified` is a strong validator in a response with this `Date`, or else received
/// at `now`.
fn is_strong_date(modified: &str, date: Option<&str>, now: SystemTime) -> bool {
    let parse = |text| httpdate::parse_http_date(text).ok();
    let earliest = match date.and_then(parse) {
        Some(date) => date.checked_sub(STRONG_AFTER),
        None => now.checked_sub(STRONG_AFTER_BY_OUR_CLOCK),
    };
    parse(modified)
        .zip(earliest)
        .is_some_and(|(modified, earliest)| modified <= earliest)
}

/// The length of the whole tar, if `Content-Range` has it.
pub(crate) fn total_length(headers: &HeaderMap) -> Option<u64> {
    ContentRange::of(headers)?.total
}

/// A `Content-Range` with the byte range of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ContentRange {
    /// Offset of the first byte.
    first: u64,
    /// Offset of the last byte.
    last: u64,
    /// Length of the whole tar, if known.
    total: Option<u64>,
}

impl ContentRange {
    /// The range in the headers; `None` if there is none or it is invalid.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let (unit, range) = text.trim().split_once(' ')?;
        let (bytes, total) = range.split_once('/')?;
        let (first, last) = bytes.split_once('-')?;
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let range = Self {
            first: number(first)?,
            last: number(last)?,
            total: match total.trim() {
                "*" => None,
                total => Some(number(total)?),
            },
        };
        let is_possible =
            range.first <= range.last && range.total.is_none_or(|total| range.last < total);
        (unit.eq_ignore_ascii_case("bytes") && is_possible).then_some(range)
    }
}

/// The range of a tar that a body contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyRange {
    /// All of it.
    Whole,
    /// The bytes from this offset on.
    From(u64),
    /// The headers of the response contradict one another.
    Unclear,
}

impl BodyRange {
    /// Some origins answer 200 and still send a part, and some proxies answer every request with
    /// 206. Only these are unambiguous: 206 with `Content-Range: bytes 5-9/10`, 200 without that
    /// header, and either with the range of the whole.
    fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        let is_partial = status == StatusCode::PARTIAL_CONTENT;
        match ContentRange::of(headers) {
            None if !is_partial && !headers.contains_key(header::CONTENT_RANGE) => Self::Whole,
            Some(range) if range.first == 0 && range.total == Some(range.last + 1) => Self::Whole,
            Some(range) if is_partial => Self::From(range.first),
            _ => Self::Unclear,
        }
    }
}

/// A URL for logs, without credentials.
pub(crate) fn shown(url: &Url) -> String {
    without_credentials(url.as_str())
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn source(length: Option<u64>, etag: Option<&str>, last_modified: Option<&str>) -> Source {
        Source {
            url: String::new(),
            length,
            etag: etag.map(str::to_owned),
            last_modified: last_modified.map(str::to_owned),
            date_is_strong: last_modified.is_some(),
            by_date: false,
        }
    }

    #[test]
    fn only_a_strong_tag_or_a_date_with_a_length_validates() {
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        for (source, validator) in [
            (source(Some(1), Some("\"a\""), Some(date)), Some("\"a\"")),
            (source(None, Some("\"a\""), None), Some("\"a\"")),
            (source(Some(1), Some("W/\"a\""), Some(date)), Some(date)),
            (source(None, Some("W/\"a\""), Some(date)), None),
            (source(Some(1), None, None), None),
        ] {
            assert_eq!(source.validator(), validator);
        }
    }

    #[test]
    fn a_part_must_repeat_the_tag_that_was_sent() {
        let known = source(Some(10), Some("\"a\""), Some("date"));
        assert!(known.is_continued_by(&source(Some(10), Some("\"a\""), None)));
        assert!(
            !known.is_continued_by(&source(Some(10), None, Some("date"))),
            "it can be any version"
        );
        assert!(!known.is_continued_by(&source(Some(10), Some("\"b\""), Some("date"))));
        assert!(!known.is_continued_by(&source(Some(11), Some("\"a\""), Some("date"))));
    }

    #[test]
    fn if_a_date_was_sent_the_length_must_be_the_same() {
        let known = source(Some(10), Some("W/\"a\""), Some("date"));
        assert!(known.is_continued_by(&source(Some(10), None, None)));
        assert!(!known.is_continued_by(&source(None, None, Some("date"))));
        assert!(!known.is_continued_by(&source(Some(11), None, Some("date"))));
        assert!(!known.is_continued_by(&source(Some(10), None, Some("another date"))));
    }

    const MODIFIED: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

    #[test]
    fn a_date_is_strong_only_if_the_tar_cannot_have_changed_again_within_its_second() {
        let now =
            |seconds| httpdate::parse_http_date(MODIFIED).unwrap() + Duration::from_secs(seconds);
        for (date, now, is_strong) in [
            (Some("Wed, 21 Oct 2015 07:28:00 GMT"), now(3600), false),
            (Some("Wed, 21 Oct 2015 07:27:59 GMT"), now(3600), false),
            (Some("Wed, 21 Oct 2015 07:28:01 GMT"), now(0), true),
            (None, now(59), false),
            (None, now(60), true),
            (Some("no date"), now(60), true),
        ] {
            assert_eq!(is_strong_date(MODIFIED, date, now), is_strong, "{date:?}");
        }
        assert!(!is_strong_date("yesterday", None, now(3600)));
        let weak = Source {
            date_is_strong: false,
            ..source(Some(1), None, Some(MODIFIED))
        };
        assert_eq!(weak.validator(), None);
    }

    #[test]
    fn a_tag_failed_only_if_length_and_a_strong_date_are_the_same() {
        let known = source(Some(10), Some("\"a\""), Some(MODIFIED));
        for etag in [Some("\"a\""), Some("\"b\""), Some("W/\"b\""), None] {
            assert!(
                known.etag_is_ignored_by(&source(Some(10), etag, Some(MODIFIED))),
                "{etag:?}"
            );
        }
        let weak = Source {
            date_is_strong: false,
            ..known.clone()
        };
        for (known, answer) in [
            (&known, source(Some(11), Some("\"a\""), Some(MODIFIED))),
            (&known, source(None, Some("\"a\""), Some(MODIFIED))),
            (&known, source(Some(10), Some("\"a\""), None)),
            (
                &known,
                source(Some(10), Some("\"a\""), Some("another date")),
            ),
            (&known, weak.clone()),
            (&weak, known.clone()),
            (
                &Source {
                    by_date: true,
                    ..known.clone()
                },
                known.clone(),
            ),
            (
                &source(Some(10), Some("W/\"a\""), Some(MODIFIED)),
                known.clone(),
            ),
        ] {
            assert!(!known.etag_is_ignored_by(&answer), "{known:?} {answer:?}");
        }
    }

    #[test]
    fn if_a_date_replaces_a_tag_a_part_must_repeat_one_of_the_two() {
        let known = Source {
            by_date: true,
            ..source(Some(10), Some("\"a\""), Some(MODIFIED))
        };
        assert_eq!(known.validator(), Some(MODIFIED));
        for (part, goes_on) in [
            (source(Some(10), Some("\"a\""), None), true),
            (source(Some(10), Some("\"b\""), Some(MODIFIED)), true),
            (source(Some(10), None, Some(MODIFIED)), true),
            (source(Some(10), None, None), false),
            (source(Some(10), Some("\"b\""), None), false),
            (source(Some(10), Some("\"a\""), Some("another date")), false),
            (source(Some(11), Some("\"a\""), Some(MODIFIED)), false),
            (source(None, Some("\"a\""), Some(MODIFIED)), false),
        ] {
            assert_eq!(known.is_continued_by(&part), goes_on, "{part:?}");
        }
        // A version with a weak date is requested with its `ETag` again.
        assert_eq!(
            Source {
                date_is_strong: false,
                ..known
            }
            .validator(),
            Some("\"a\"")
        );
    }

    #[test]
    fn a_source_of_an_earlier_version_is_read_and_is_the_same_version() {
        let written = r#"{"url":"http://h/x","length":10,"etag":"\"a\"","last_modified":"date"}"#;
        let read: Source = serde_json::from_str(written).unwrap();
        assert_eq!((read.validator(), read.by_date), (Some("\"a\""), false));
        let now = Source {
            date_is_strong: true,
            by_date: true,
            ..read
        };
        assert_eq!(serde_json::to_string(&now.version()).unwrap(), written);
        let again: Source = serde_json::from_str(&serde_json::to_string(&now).unwrap()).unwrap();
        assert_eq!(again, now);
    }

    #[test]
    fn a_body_is_the_whole_or_a_part_only_if_status_and_range_agree() {
        for (status, range, expected) in [
            (200, None, BodyRange::Whole),
            (206, None, BodyRange::Unclear),
            (206, Some("bytes 5-9/10"), BodyRange::From(5)),
            (206, Some("bytes 0-4/10"), BodyRange::From(0)),
            (206, Some("bytes 5-9/*"), BodyRange::From(5)),
            (206, Some("Bytes 5-9/10"), BodyRange::From(5)),
            (206, Some("bytes 0-9/10"), BodyRange::Whole),
            (200, Some("bytes 0-9/10"), BodyRange::Whole),
            (206, Some("bytes 0-9/*"), BodyRange::From(0)),
            (206, Some("bytes 0-10/10"), BodyRange::Unclear),
            (206, Some("bytes 9-5/10"), BodyRange::Unclear),
            (206, Some("bytes */10"), BodyRange::Unclear),
            (206, Some("items 0-9/10"), BodyRange::Unclear),
            (200, Some("bytes 5-9/10"), BodyRange::Unclear),
            (200, Some("bytes"), BodyRange::Unclear),
        ] {
            let headers: HeaderMap = range
                .map(|range| (header::CONTENT_RANGE, HeaderValue::from_str(range).unwrap()))
                .into_iter()
                .collect();
            assert_eq!(
                BodyRange::of(StatusCode::from_u16(status).unwrap(), &headers),
                expected,
                "{status} {range:?}"
            );
        }
    }
}

//! What the head of a response says besides the version of the tar: whether its body can be a tar,
//! and how long the origin asks to wait. No I/O.

use std::time::{Duration, SystemTime};

use reqwest::{
    Response,
    header::{self, HeaderMap},
};

use crate::{origin::download_error::DownloadError, source::shown};

/// Accepts a response whose headers can be those of a tar.
pub(super) fn plausible(response: Response) -> Result<Response, DownloadError> {
    let code = response.status().as_u16();
    if code != 200 && code != 206 {
        let retry_after = retry_after(response.headers());
        return Err(DownloadError::Status {
            code,
            url: shown(response.url()),
            retry_after,
        });
    }
    refuse_encoded(response.headers())?;
    Ok(response)
}

fn is_any_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Refuses web pages, for example of a login: their length is not the tar's. A body is judged by
/// its bytes and not by this header.
pub(super) fn refuse_page(headers: &HeaderMap) -> Result<(), DownloadError> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .unwrap_or_default()
        .trim();
    if !is_any_of(kind, &["text/html", "application/xhtml+xml"]) {
        return Ok(());
    }
    Err(DownloadError::NotATar {
        why: format!("not a tar: the answer to HEAD is {kind}, e.g. a login page"),
    })
}

/// Encodings that leave the body unchanged. Uploads to S3 have `aws-chunked`; servers that do not
/// encode the body send the others.
const PLAIN_ENCODINGS: [&str; 7] = [
    "",
    "identity",
    "aws-chunked",
    "chunked",
    "none",
    "binary",
    "utf-8",
];

/// Refuses a compressed body before any byte of it is read.
fn refuse_encoded(headers: &HeaderMap) -> Result<(), DownloadError> {
    let encodings: Vec<&str> = headers
        .get_all(header::CONTENT_ENCODING)
        .into_iter()
        .flat_map(|value| value.to_str().unwrap_or("unreadable").split(','))
        .map(str::trim)
        .collect();
    if encodings
        .iter()
        .all(|name| is_any_of(name, &PLAIN_ENCODINGS))
    {
        return Ok(());
    }
    Err(DownloadError::NotATar {
        why: format!("unexpected encoding: the body is {}", encodings.join(", ")),
    })
}

/// The wait of `Retry-After` in either of its forms (RFC 9110 §10.2.3), from now. A date is
/// relative to the origin's clock, which is `Date` plus the `Age` of the response in a cache (RFC
/// 9111 §4.2.3). Without a `Date` the clock of this host is used.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.trim());
    let date = |name| httpdate::parse_http_date(text(name)?).ok();
    let seconds = |name| {
        let digits = text(name).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        // A number with too many digits for its type means a long time.
        let is_number = !digits.is_empty();
        is_number.then(|| Duration::from_secs(digits.parse().unwrap_or(u64::MAX)))
    };
    if let Some(wait) = seconds(header::RETRY_AFTER) {
        return Some(wait);
    }
    let until = date(header::RETRY_AFTER)?;
    let wait = |now| until.duration_since(now).unwrap_or_default();
    let Some(answered) = date(header::DATE) else {
        return Some(wait(SystemTime::now()));
    };
    let age = seconds(header::AGE).unwrap_or_default();
    Some(wait(answered).saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn one(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn retry_after_is_in_seconds_or_a_date() {
        let after = |value| retry_after(&one(header::RETRY_AFTER, value));
        assert_eq!(after("30"), Some(Duration::from_secs(30)));
        assert_eq!(
            after("99999999999999999999999"),
            Some(Duration::from_secs(u64::MAX))
        );
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(after(&later).is_some_and(|wait| (90..=100).contains(&wait.as_secs())));
        for unclear in [
            "soon",
            "",
            "-5",
            "+5",
            "1.5",
            "Wed, 31 Feb 2015 07:28:00 GMT",
        ] {
            assert_eq!(after(unclear), None, "{unclear:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn a_date_of_retry_after_is_relative_to_the_origins_clock() {
        const UNTIL: &str = "Wed, 21 Oct 2065 07:28:30 GMT";
        let after = |until, date, age: Option<&str>| {
            let mut headers = one(header::RETRY_AFTER, until);
            headers.extend(one(header::DATE, date));
            headers.extend(age.map(|age| (header::AGE, HeaderValue::from_str(age).unwrap())));
            retry_after(&headers).unwrap().as_secs()
        };
        assert_eq!(after(UNTIL, "Wed, 21 Oct 2065 07:28:00 GMT", None), 30);
        // The obsolete forms, of either header (RFC 9110 §5.6.7).
        assert_eq!(after(UNTIL, "Wed Oct 21 07:28:00 2065", None), 30);
        assert_eq!(
            after(
                "Wednesday, 21-Oct-65 07:28:30 GMT",
                "Wed, 21 Oct 2065 07:28:00 GMT",
                None
            ),
            30
        );
        assert_eq!(after(UNTIL, "Wed, 21 Oct 2065 07:28:30 GMT", None), 0);
        assert_eq!(
            after(UNTIL, "Wed, 21 Oct 2065 07:29:00 GMT", None),
            0,
            "the date has passed"
        );
        assert_eq!(
            after(UNTIL, "Thu, 01 Jan 1970 00:00:00 GMT", None),
            3_023_335_710,
            "a limit is set elsewhere"
        );
        // The response was in a cache.
        assert_eq!(
            after(UNTIL, "Wed, 21 Oct 2065 07:28:00 GMT", Some("20")),
            10
        );
        assert_eq!(
            after(UNTIL, "Wed, 21 Oct 2065 07:28:00 GMT", Some("3600")),
            0
        );
        assert_eq!(
            after(
                UNTIL,
                "Wed, 21 Oct 2065 07:28:00 GMT",
                Some("99999999999999999999999")
            ),
            0
        );
        assert_eq!(
            after(UNTIL, "Wed, 21 Oct 2065 07:28:00 GMT", Some("-5")),
            30,
            "an invalid age"
        );
        assert_eq!(
            after("30", "Wed, 21 Oct 2065 07:28:00 GMT", Some("20")),
            30,
            "seconds are relative to now"
        );
        // Without a readable date the clock of this host is used.
        assert_eq!(after("Wed, 21 Oct 2015 07:28:30 GMT", "today", None), 0);
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!((90..=100).contains(&after(&later, "today", None)));
    }

    #[test]
    fn only_an_encoded_body_is_refused_by_its_headers() {
        for (encoding, is_plain) in [
            ("gzip", false),
            ("br", false),
            ("zstd", false),
            ("gzip, aws-chunked", false),
            ("aws-chunked,gzip", false),
            ("rot13", false),
            ("identity", true),
            ("Identity", true),
            ("aws-chunked", true),
            ("aws-chunked, identity", true),
            ("aws-chunked,", true),
            ("binary", true),
            ("UTF-8", true),
            ("chunked", true),
            ("", true),
        ] {
            assert_eq!(
                refuse_encoded(&one(header::CONTENT_ENCODING, encoding)).is_ok(),
                is_plain,
                "{encoding}"
            );
        }
        let mut two = one(header::CONTENT_ENCODING, "aws-chunked");
        two.append(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let refused = refuse_encoded(&two).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "unexpected encoding: the body is aws-chunked, gzip"
        );
        assert!(refuse_encoded(&one(header::CONTENT_TYPE, "application/x-tar")).is_ok());
    }
}

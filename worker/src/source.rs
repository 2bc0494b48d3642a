//! What identifies one version of a tar at the origin, so that no two versions are ever mixed.

use reqwest::{
    Response,
    header::{self, HeaderMap},
};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::download_error::shown;

/// A tar at the origin: where it is, how long, and the validators that tell one version from another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// URL without credentials.
    pub(crate) url: String,
    /// Length in bytes, where the origin said it.
    pub(crate) length: Option<u64>,
    /// `ETag`, verbatim.
    pub(crate) etag: Option<String>,
    /// `Last-Modified`, verbatim.
    pub(crate) last_modified: Option<String>,
}

impl Source {
    /// What an answer says of the tar that it carries from `from` on.
    pub(crate) fn of_answer(url: &Url, response: &Response, from: u64) -> Self {
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let total = ContentRange::of(response.headers()).and_then(|range| range.total);
        // Beside chunks a length means nothing (RFC 9112 §6.3).
        let length = text(header::CONTENT_LENGTH).filter(|_| text(header::TRANSFER_ENCODING).is_none());
        let rest = || length.and_then(|length| length.trim().parse::<u64>().ok()?.checked_add(from));
        Self {
            url: shown(url),
            length: total.or_else(rest),
            etag: text(header::ETAG).map(str::to_owned),
            last_modified: text(header::LAST_MODIFIED).map(str::to_owned),
        }
    }

    /// What to send as `If-Range`: a strong `ETag`, else `Last-Modified` where the length is known too. Without one a cut
    /// download starts anew, because nothing would prove that the rest belongs to the same version (RFC 9110 §13.1.5).
    pub(crate) fn validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|_| self.has_strong_tag());
        strong.or_else(|| self.length.and(self.last_modified.as_deref()))
    }

    /// Whether a partial answer, said to be of `part`, goes on with this version. The validator that was sent must come back
    /// where an origin has to repeat it (`ETag`, RFC 9110 §15.3.7), so that one which ignores `If-Range` is found out; a
    /// date need not come back, but the length must.
    pub(crate) fn is_continued_by(&self, part: &Self) -> bool {
        fn agree<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
            one.zip(other).is_none_or(|(one, other)| one == other)
        }
        if self.has_strong_tag() {
            return self.etag == part.etag && agree(self.length.as_ref(), part.length.as_ref());
        }
        self.length == part.length && agree(self.last_modified.as_ref(), part.last_modified.as_ref())
    }

    fn has_strong_tag(&self) -> bool {
        self.etag.as_deref().is_some_and(|etag| etag.starts_with('"'))
    }
}

/// A `Content-Range` that says which bytes a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// Offset of the first byte.
    pub(crate) first: u64,
    /// Offset of the last byte.
    last: u64,
    /// Length of the whole, where it is known.
    pub(crate) total: Option<u64>,
}

impl ContentRange {
    /// `None`: there is none, or it makes no sense.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let (unit, range) = text.trim().split_once(' ')?;
        let (bytes, total) = range.split_once('/')?;
        let (first, last) = bytes.split_once('-')?;
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let total = if total.trim() == "*" { None } else { Some(number(total)?) };
        let range = Self { first: number(first)?, last: number(last)?, total };
        let is_possible = range.first <= range.last && total.is_none_or(|total| range.last < total);
        (unit.eq_ignore_ascii_case("bytes") && is_possible).then_some(range)
    }

    /// All bytes from the first to the last.
    pub(crate) fn is_whole(self) -> bool {
        self.first == 0 && self.total == Some(self.last + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(length: Option<u64>, etag: Option<&str>, last_modified: Option<&str>) -> Source {
        Source {
            url: String::new(),
            length,
            etag: etag.map(str::to_owned),
            last_modified: last_modified.map(str::to_owned),
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
        assert!(!known.is_continued_by(&source(Some(10), None, Some("date"))), "it may be any version");
        assert!(!known.is_continued_by(&source(Some(10), Some("\"b\""), Some("date"))));
        assert!(!known.is_continued_by(&source(Some(11), Some("\"a\""), Some("date"))));
    }

    #[test]
    fn where_a_date_was_sent_the_length_must_be_the_same() {
        let known = source(Some(10), Some("W/\"a\""), Some("date"));
        assert!(known.is_continued_by(&source(Some(10), None, None)));
        assert!(!known.is_continued_by(&source(None, None, Some("date"))));
        assert!(!known.is_continued_by(&source(Some(11), None, Some("date"))));
        assert!(!known.is_continued_by(&source(Some(10), None, Some("another date"))));
    }
}

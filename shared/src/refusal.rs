//! Reasons for which the origin refuses a class; and their conversion to and from the wire.

/// Reason for which the origin refused a class, if another attempt would not change it. Two classes
/// that were refused for the same reason have equal values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The origin answered with this HTTP status.
    Status(u16),
    /// The body is not a tar, e.g. a login page.
    NotATar,
    /// The origin redirected to a URL that is not followed.
    Redirect,
    /// The origin's certificate does not verify.
    Certificate,
    /// The origin uses TLS and the URL says `http`, or the other way round.
    Scheme,
}

impl Refusal {
    /// Whether two refusals may have the same cause: for a wrong path or a missing login, even a
    /// single server may answer with different statuses, pages and redirects.
    pub fn may_have_the_cause_of(self, other: Self) -> bool {
        let is_answer =
            |refusal| matches!(refusal, Self::Status(_) | Self::NotATar | Self::Redirect);
        self == other || (is_answer(self) && is_answer(other))
    }

    /// Whether the origin reports that the class does not exist.
    pub fn is_missing(self) -> bool {
        matches!(self, Self::Status(404 | 410))
    }

    /// Advice for the user if every class is refused for this reason. `None` if the failure's
    /// message contains it.
    pub fn advice(self) -> Option<&'static str> {
        match self {
            Self::Status(401 | 403) => Some(
                "A login is missing or has expired: give it with --header-file (a line like \
                 \"Cookie: NAME=VALUE\" or \"Authorization: Bearer TOKEN\"), and check --url",
            ),
            Self::Status(407) => {
                Some("The proxy asks for a login: give it in HTTP_PROXY or HTTPS_PROXY")
            }
            Self::Status(404 | 410) => {
                Some("There is nothing under these URLs: check the path in --url")
            }
            Self::Status(_) | Self::Redirect => {
                Some("Check --url, and --header-file if the origin needs a login")
            }
            Self::NotATar => Some(
                "If it is a page to log in, give the login with --header-file (a line like \
                 \"Cookie: NAME=VALUE\"), otherwise check --url",
            ),
            Self::Certificate | Self::Scheme => None,
        }
    }

    /// The fields of a failure on the wire.
    pub(crate) fn to_wire(refusal: Option<Self>) -> (proto::Refusal, u32) {
        match refusal {
            None => (proto::Refusal::Unspecified, 0),
            Some(Self::Status(code)) => (proto::Refusal::Status, code.into()),
            Some(Self::NotATar) => (proto::Refusal::NotATar, 0),
            Some(Self::Redirect) => (proto::Refusal::Redirect, 0),
            Some(Self::Certificate) => (proto::Refusal::Certificate, 0),
            Some(Self::Scheme) => (proto::Refusal::Scheme, 0),
        }
    }

    /// The refusal in the fields of a failure; `None` also for a refusal of a newer protocol.
    pub(crate) fn from_wire(refusal: proto::Refusal, status: u32) -> Option<Self> {
        match refusal {
            proto::Refusal::Unspecified => None,
            proto::Refusal::Status => u16::try_from(status).ok().map(Self::Status),
            proto::Refusal::NotATar => Some(Self::NotATar),
            proto::Refusal::Redirect => Some(Self::Redirect),
            proto::Refusal::Certificate => Some(Self::Certificate),
            proto::Refusal::Scheme => Some(Self::Scheme),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_wire() {
        for refusal in [
            None,
            Some(Refusal::Status(404)),
            Some(Refusal::NotATar),
            Some(Refusal::Redirect),
            Some(Refusal::Certificate),
            Some(Refusal::Scheme),
        ] {
            let (wire, status) = Refusal::to_wire(refusal);
            assert_eq!(Refusal::from_wire(wire, status), refusal);
        }
        assert_eq!(
            Refusal::from_wire(proto::Refusal::Status, 70_000),
            None,
            "not an HTTP status"
        );
    }

    #[test]
    fn each_advice_names_the_flag_or_variable_to_look_at() {
        for (refusal, flag) in [
            (Refusal::Status(401), "--header-file"),
            (Refusal::Status(403), "--header-file"),
            (Refusal::Status(404), "--url"),
            (Refusal::Status(407), "HTTPS_PROXY"),
            (Refusal::Status(451), "--url"),
            (Refusal::NotATar, "--header-file"),
            (Refusal::Redirect, "--url"),
        ] {
            assert!(
                refusal.advice().is_some_and(|advice| advice.contains(flag)),
                "{refusal:?}"
            );
        }
    }
}

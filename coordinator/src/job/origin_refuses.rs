//! Why a job ends early: the origin refuses every class alike, for example because of a wrong URL,
//! a missing login or an expired login.

use shared::refused_sample::OriginRefuses;

/// The origin refuses every class alike.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "get any {} from {origin}: {refuses}. {}{}",
    if refuses.midway { "more classes" } else { "class" }, advice(refuses), what_now(refuses)
)]
pub struct OriginRefusesAll {
    /// Scheme, host and port.
    pub(super) origin: String,
    /// The evidence of the lease table.
    pub(super) refuses: OriginRefuses,
}

fn what_now(refuses: &OriginRefuses) -> &'static str {
    if refuses.midway {
        "These classes are not noted as failed: the same command goes on with them"
    } else {
        "No class is noted as failed"
    }
}

fn advice(refuses: &OriginRefuses) -> String {
    refuses
        .refusal
        .advice()
        .map_or_else(String::new, |advice| format!("{advice}. "))
}

#[cfg(test)]
mod tests {
    use shared::{
        outcome::{Failure, FailureKind},
        refusal::Refusal,
    };

    use super::*;

    #[test]
    fn the_sentence_names_the_address_the_answer_and_the_flag() {
        let message = "404 Client Error: Not Found for url: http://h:81/x/n00000001.tar";
        let failure = Failure::new(FailureKind::HttpError, message).refused(Refusal::Status(404));
        let refuses = OriginRefuses {
            refusal: Refusal::Status(404),
            failure,
            classes: 20,
            otherwise: 0,
            midway: false,
        };
        let midway = OriginRefuses {
            midway: true,
            classes: 25,
            ..refuses.clone()
        };
        let mixed = OriginRefuses {
            otherwise: 7,
            ..refuses.clone()
        };
        let told = |refuses| {
            OriginRefusesAll {
                origin: "http://h:81".to_owned(),
                refuses,
            }
            .to_string()
        };
        assert!(
            told(mixed).contains("the list, were refused, 13 of them like this (HTTPError: 404")
        );
        let said = told(midway);
        assert!(
            said.starts_with(
                "get any more classes from http://h:81: the last 25 classes that were asked for, taken from all over the rest"
            ) && said.ends_with(". These classes are not noted as failed: the same command goes on with them"),
            "{said}"
        );
        assert_eq!(
            told(refuses),
            "get any class from http://h:81: the first 20 classes that were asked for, taken from all over the list, were \
             refused in the same way (HTTPError: 404 Client Error: Not Found for url: http://h:81/x/n00000001.tar). There \
             is nothing under these URLs: check the path in --url. No class is noted as failed"
        );
    }
}

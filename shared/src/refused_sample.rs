//! Distinguishes an origin that refuses every class, because of a wrong URL or a missing login,
//! from one that does not have some classes. The criterion is a sample of the list in which each
//! class is refused in the same way. Pure.

use std::{collections::BTreeMap, fmt};

use crate::{outcome::Failure, refusal::Refusal};

/// Number of different classes that the origin must refuse in the same way before a job ends. In a
/// shorter list each class fails by itself.
pub const SAMPLE: usize = 20;
/// A class of which this number of bytes was received is a tar: pages and other content are
/// recognised by their first 512 bytes.
pub const BYTES_OF_A_TAR: u64 = 64 << 10;
/// Mean number of bytes per requested class above which the responses are tars: pages are shorter.
pub const LONGEST_PAGE: u64 = 1 << 20;

/// Positions of [`SAMPLE`] classes spread evenly over a list of at least that length, including the
/// first and the last one. The first half of them is spread over the whole list too, because behind
/// redirects it decides alone.
pub fn spread(classes: usize) -> impl Iterator<Item = usize> {
    (0..SAMPLE)
        .step_by(2)
        .chain((1..SAMPLE).step_by(2))
        .map(move |number| number * classes.saturating_sub(1) / (SAMPLE - 1))
}

/// The origin refuses every class alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginRefuses {
    /// How most of the classes were refused.
    pub refusal: Refusal,
    /// The failure of one of these classes.
    pub failure: Failure,
    /// Number of refused classes.
    pub classes: usize,
    /// Number of them that were refused in another way.
    pub otherwise: usize,
    /// The origin has sent tars before.
    pub midway: bool,
}

impl OriginRefuses {
    /// What the failures of all refused classes have in common; `None` if there are none, or one is
    /// not a refusal.
    pub fn of<'failure>(
        failures: impl IntoIterator<Item = &'failure Failure>,
        midway: bool,
    ) -> Option<Self> {
        let mut ways: BTreeMap<String, (usize, Refusal, &Failure)> = BTreeMap::new();
        let mut classes = 0;
        for failure in failures {
            let refusal = failure.refusal?;
            ways.entry(format!("{refusal:?}"))
                .or_insert((0, refusal, failure))
                .0 += 1;
            classes += 1;
        }
        let (count, refusal, failure) = ways.into_values().max_by_key(|(count, ..)| *count)?;
        Some(Self {
            refusal,
            failure: failure.clone(),
            classes,
            otherwise: classes - count,
            midway,
        })
    }
}

/// Worded to follow the address of the origin and a colon.
impl fmt::Display for OriginRefuses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            failure,
            classes,
            otherwise,
            midway,
            ..
        } = self;
        let which = if *midway { "last" } else { "first" };
        let place = if *midway { "rest of the list" } else { "list" };
        write!(
            formatter,
            "the {which} {classes} classes that were asked for, taken from all over the {place}, \
             were refused"
        )?;
        match otherwise {
            0 => write!(formatter, " in the same way ({failure})"),
            otherwise => write!(
                formatter,
                ", {} of them like this ({failure})",
                classes - otherwise
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::FailureKind;

    #[test]
    fn a_sample_is_spread_over_the_whole_list() {
        let mut all: Vec<usize> = spread(SAMPLE).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..SAMPLE));
        let mut positions: Vec<usize> = spread(1000).collect();
        assert!(positions[..SAMPLE / 2].is_sorted_by(|one, next| one < next && next - one <= 106));
        assert!(
            positions[SAMPLE / 2 - 1] > 900,
            "the first half reaches the end of the list"
        );
        positions.sort_unstable();
        assert_eq!(
            (positions.len(), positions[0], positions[19]),
            (SAMPLE, 0, 999)
        );
        assert!(positions.is_sorted_by(|one, next| one < next && next - one <= 53));
    }

    #[test]
    fn the_most_frequent_refusal_is_reported() {
        let failure = Failure::new(FailureKind::HttpError, "no");
        let with_status = |status| failure.clone().refused(Refusal::Status(status));
        let failures = [with_status(404), with_status(403), with_status(403)];
        let refuses = OriginRefuses::of(&failures, false).unwrap();
        assert_eq!(
            (refuses.refusal, refuses.classes, refuses.otherwise),
            (Refusal::Status(403), 3, 1)
        );
        assert!(
            refuses
                .to_string()
                .ends_with("were refused, 2 of them like this (HTTPError: no)"),
            "{refuses}"
        );
        assert_eq!(OriginRefuses::of(&[], false), None);
        assert_eq!(
            OriginRefuses::of(&[failure], false),
            None,
            "no answer of the origin"
        );
    }
}

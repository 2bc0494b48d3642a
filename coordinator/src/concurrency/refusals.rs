//! Decides whether refusals (429 and 503 with `Retry-After`) are caused by the number of
//! connections. No I/O, no clock.
//!
//! All refusals until the end of the wait that they ask for form one burst: they answer requests
//! that were in flight together. After a burst the fleet returns to the level before it, as TCP
//! returns to its slow-start threshold. A burst lowers the level only if the origin refuses again
//! before it has answered [`ROUNDS`] requests per connection, or if it refuses several requests of
//! a level that it has never served.

use crate::concurrency::totals::FleetTotals;

/// A burst that refuses more than one in this many requests is not caused by single classes.
const MANY_REFUSED_ONE_IN: u64 = 4;
/// After this many requests per connection without a refusal the level is good, and the next
/// refusal counts as a first one.
const ROUNDS: u64 = 2;

/// The level after a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AfterBurst {
    /// Connections from now on.
    pub(super) limit: u32,
    /// If the level is lowered: the highest number of connections that the origin may serve. More
    /// were refused.
    pub(super) highest: Option<u32>,
}

/// Refusals that belong together.
#[derive(Debug, Clone, Copy)]
struct RefusalBurst {
    /// Connections that were allowed when the burst began.
    limit: u32,
    /// The origin has refused this many connections before, and they are being retried.
    is_known: bool,
    /// The origin had answered [`ROUNDS`] requests per connection at this level.
    is_rare: bool,
    /// More connections were open than allowed, because the limit had just been lowered. The
    /// refusal is then no evidence about the limit.
    is_above_limit: bool,
    refused: u64,
    /// Requests that were in flight together.
    tried: u32,
}

/// Tracks how many connections the origin has served, and the current burst of refusals.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    burst: Option<RefusalBurst>,
    /// The most response bodies that arrived at once since the last burst ended.
    served: u32,
    /// The highest limit since the last burst ended, and the number of requests before that limit
    /// was reached or the burst ended.
    level: (u32, u64),
    /// The last burst did not show whether the level is too high.
    is_in_doubt: bool,
}

impl Refusals {
    /// Requests were refused while `limit` connections were allowed. `is_known`: as many were
    /// refused before.
    pub(super) fn refused(&mut self, count: u64, limit: u32, is_known: bool, totals: &FleetTotals) {
        let (level, requests) = self.level;
        let burst = self.burst.get_or_insert_with(|| RefusalBurst {
            limit,
            is_known,
            is_rare: limit <= level
                && totals.requests.saturating_sub(requests) >= ROUNDS * u64::from(limit),
            is_above_limit: count.saturating_add(totals.open.into()) > u64::from(limit),
            refused: 0,
            tried: 0,
        });
        burst.refused = burst.refused.saturating_add(count);
    }

    /// Takes the fleet's totals. During a burst it returns the level that will follow, once all
    /// requests that were in flight are answered.
    pub(super) fn record_totals(&mut self, limit: u32, totals: &FleetTotals) -> Option<u32> {
        self.served = self.served.max(totals.flowing);
        if let Some(burst) = &mut self.burst {
            let refused = u32::try_from(burst.refused).unwrap_or(u32::MAX);
            burst.tried = burst.tried.max(totals.open.saturating_add(refused));
        } else if limit > self.level.0 {
            self.level = (limit, totals.requests);
        }
        self.burst.filter(|_| totals.open <= totals.flowing)?;
        Some(self.after()?.limit)
    }

    /// The wait is over. Returns `None` if there was no burst.
    pub(super) fn ended(&mut self, totals: &FleetTotals) -> Option<AfterBurst> {
        let after = self.after()?;
        let burst = self.burst.take()?;
        let is_certain = after.highest == Some(after.limit);
        self.is_in_doubt = burst.limit > 1
            && !burst.is_rare
            && !is_certain
            && (self.is_in_doubt || !burst.is_above_limit);
        self.served = 0;
        self.level = (after.limit, totals.requests);
        Some(after)
    }

    /// The level that follows the current burst.
    fn after(&self) -> Option<AfterBurst> {
        let burst = self.burst?;
        let RefusalBurst {
            limit,
            refused,
            tried,
            ..
        } = burst;
        let is_burst_large = refused > 1
            && refused.saturating_mul(MANY_REFUSED_ONE_IN) > tried.into()
            && self.served < tried;
        let is_cause = burst.is_known || (!burst.is_rare && (self.is_in_doubt || is_burst_large));
        if limit == 1 || burst.is_above_limit || !is_cause {
            let highest = None;
            return Some(AfterBurst { limit, highest });
        }
        let most = limit - 1;
        let half = (tried / 2).clamp(1, most);
        let served = self.served.min(most);
        // Half is an estimate, as in TCP; the number of served connections is measured.
        let (limit, highest) = if served < half {
            (half, most)
        } else {
            (served, served)
        };
        Some(AfterBurst {
            limit,
            highest: Some(highest),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fleet in which `flowing` bodies arrive and no request waits for a response.
    fn flowing(flowing: u32, requests: u64) -> FleetTotals {
        FleetTotals {
            open: flowing,
            flowing,
            wanted: 20,
            requests,
            ..FleetTotals::default()
        }
    }

    /// A burst that refuses `refused` requests of a level and serves all others. `before`: requests
    /// since the last burst.
    fn burst(refusals: &mut Refusals, limit: u32, refused: u32, before: u64) -> AfterBurst {
        known_burst(refusals, limit, refused, before, false)
    }

    fn known_burst(
        refusals: &mut Refusals,
        limit: u32,
        refused: u32,
        before: u64,
        known: bool,
    ) -> AfterBurst {
        let requests = refusals.level.1 + before;
        refusals.record_totals(limit, &flowing(0, refusals.level.1));
        let totals = flowing(limit - refused, requests);
        refusals.refused(refused.into(), limit, known, &totals);
        let level = refusals.record_totals(limit, &totals);
        let after = refusals.ended(&totals).unwrap();
        assert_eq!(
            level,
            Some(after.limit),
            "the level during the burst is the level after it"
        );
        after
    }

    fn known(limit: u32) -> AfterBurst {
        lowered(limit, limit)
    }

    fn lowered(limit: u32, highest: u32) -> AfterBurst {
        AfterBurst {
            limit,
            highest: Some(highest),
        }
    }

    fn same(limit: u32) -> AfterBurst {
        AfterBurst {
            limit,
            highest: None,
        }
    }

    #[test]
    fn a_level_is_lowered_when_it_is_refused_twice_in_a_row() {
        let mut refusals = Refusals::default();
        assert_eq!(burst(&mut refusals, 8, 1, 8), same(8));
        assert_eq!(burst(&mut refusals, 8, 1, 8), known(7));
        assert_eq!(
            burst(&mut refusals, 7, 1, 7),
            same(7),
            "the first refusal at the lower level"
        );
        assert_eq!(burst(&mut refusals, 7, 1, 7), known(6));
    }

    #[test]
    fn a_level_is_confirmed_by_two_requests_per_connection() {
        let mut refusals = Refusals::default();
        for _ in 0..5 {
            assert_eq!(burst(&mut refusals, 8, 1, 16), same(8));
        }
        assert_eq!(
            burst(&mut refusals, 8, 1, 15),
            same(8),
            "the first refusal in a row"
        );
        assert_eq!(burst(&mut refusals, 8, 1, 15), known(7));
    }

    #[test]
    fn requests_at_a_lower_level_do_not_confirm_a_higher_one() {
        let mut refusals = Refusals::default();
        refusals.record_totals(4, &flowing(4, 4));
        refusals.record_totals(4, &flowing(4, 100));
        refusals.record_totals(8, &flowing(4, 100));
        let totals = flowing(2, 108);
        refusals.refused(6, 8, false, &totals);
        assert_eq!(
            refusals.record_totals(8, &totals),
            Some(4),
            "as many were served before"
        );
        assert_eq!(refusals.ended(&totals), Some(known(4)));
    }

    #[test]
    fn many_refusals_at_a_level_never_served_lower_it_immediately() {
        assert_eq!(
            burst(&mut Refusals::default(), 8, 5, 8),
            lowered(4, 7),
            "half is an estimate"
        );
        assert_eq!(burst(&mut Refusals::default(), 8, 3, 8), known(5));
        assert_eq!(
            burst(&mut Refusals::default(), 8, 2, 8),
            same(8),
            "a quarter may be caused by single classes"
        );
        let mut refusals = Refusals::default();
        refusals.record_totals(8, &flowing(8, 8));
        assert_eq!(
            burst(&mut refusals, 8, 5, 8),
            same(8),
            "the level was served before"
        );
        assert_eq!(
            burst(&mut refusals, 8, 5, 8),
            lowered(4, 7),
            "the level is no longer served"
        );
    }

    #[test]
    fn an_estimated_level_is_confirmed_or_lowered_again() {
        let mut refusals = Refusals::default();
        burst(&mut refusals, 8, 5, 8);
        assert_eq!(burst(&mut refusals, 4, 1, 4), known(3));
        burst(&mut refusals, 8, 5, 8);
        assert_eq!(burst(&mut refusals, 4, 1, 8), same(4));
    }

    #[test]
    fn a_level_that_was_refused_before_is_lowered_immediately() {
        assert_eq!(
            known_burst(&mut Refusals::default(), 4, 1, 100, true),
            known(3)
        );
    }

    #[test]
    fn a_single_connection_is_never_lowered() {
        let mut refusals = Refusals::default();
        for _ in 0..3 {
            assert_eq!(burst(&mut refusals, 1, 1, 1), same(1));
        }
        assert_eq!(
            burst(&mut refusals, 2, 1, 2),
            same(2),
            "refusals of one connection do not count against two"
        );
    }

    #[test]
    fn the_level_is_decided_after_all_requests_of_the_burst_are_answered() {
        let mut refusals = Refusals::default();
        let waiting = FleetTotals {
            open: 7,
            flowing: 1,
            requests: 8,
            ..FleetTotals::default()
        };
        refusals.refused(1, 8, false, &waiting);
        assert_eq!(refusals.record_totals(8, &waiting), None);
        refusals.refused(4, 8, false, &flowing(3, 8));
        assert_eq!(refusals.record_totals(8, &flowing(3, 8)), Some(4));
        // A worker that had not reported yet has two more.
        assert_eq!(refusals.record_totals(8, &flowing(5, 8)), Some(5));
    }

    #[test]
    fn a_burst_above_the_limit_does_not_lower_it() {
        let mut refusals = Refusals::default();
        burst(&mut refusals, 8, 1, 8);
        // Transfers of a higher level are still in progress.
        let totals = flowing(4, 12);
        refusals.refused(1, 3, false, &totals);
        assert_eq!(
            (refusals.record_totals(3, &totals), refusals.ended(&totals)),
            (Some(3), Some(same(3)))
        );
    }

    #[test]
    fn totals_that_went_back_and_the_largest_counts_do_not_overflow() {
        let mut refusals = Refusals::default();
        refusals.record_totals(8, &flowing(8, 100));
        refusals.refused(u64::MAX, 8, false, &flowing(8, 50));
        refusals.refused(u64::MAX, 8, false, &flowing(8, 50));
        let after = refusals.ended(&flowing(8, 50));
        assert_eq!(after, Some(same(8)), "more requests than allowed");
    }

    #[test]
    fn without_a_burst_there_is_no_decision() {
        let mut refusals = Refusals::default();
        assert_eq!(
            (
                refusals.record_totals(8, &flowing(8, 8)),
                refusals.ended(&flowing(8, 8))
            ),
            (None, None)
        );
    }
}

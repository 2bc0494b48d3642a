//! Decides whether refusals (429 and 503 with `Retry-After`) are caused by the number of connections. Pure.
//!
//! All refusals up to the end of the wait that they ask for form one wave: they answer requests that were under way together.
//! After a wave the fleet returns to the level at which it was, as TCP returns to its slow-start threshold. A wave lowers the
//! level only if the origin refuses again before it has answered some rounds of requests, or if it refuses several requests of
//! a level that it has never served.

use crate::concurrency::throughput::Flow;

/// A wave that refuses more than one of so many requests is no matter of single classes.
const MANY: u64 = 4;
/// After so many requests per connection without a refusal the level is good, and the next refusal is a first one.
const ROUNDS: u64 = 2;

/// A lower level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lower {
    /// Connections from now on.
    pub(super) limit: u32,
    /// The most connections that the origin may bear: more were refused.
    pub(super) highest: u32,
}

/// What the level is after a wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// What it was.
    Same,
    /// Lower.
    Lower(Lower),
}

/// Refusals that belong together.
#[derive(Debug, Clone, Copy)]
struct Wave {
    /// Connections that were allowed when it began.
    limit: u32,
    /// The origin refused this many connections before, and they are being tried again.
    is_known: bool,
    /// The origin had answered [`ROUNDS`] at this level.
    is_rare: bool,
    /// More connections were open than allowed, because the limit was lowered: that says nothing about the limit.
    is_above_limit: bool,
    refused: u64,
    /// Requests that were under way together.
    tried: u32,
}

/// Remembers how many connections the origin has served, and the wave of refusals that is under way.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    wave: Option<Wave>,
    /// The most bodies that flowed at once since the last wave ended.
    served: u32,
    /// Connections that are allowed, and requests up to when that many were allowed, or up to the end of the last wave.
    level: (u32, u64),
    /// The last wave has left it open whether the level is too high.
    is_in_doubt: bool,
}

impl Refusals {
    /// Requests were refused while `limit` connections were allowed. `is_known`: as many were refused before.
    pub(super) fn refused(&mut self, count: u64, limit: u32, is_known: bool, flow: &Flow) {
        let (level, requests) = self.level;
        let wave = self.wave.get_or_insert_with(|| Wave {
            limit,
            is_known,
            is_rare: limit <= level && flow.requests - requests >= ROUNDS * u64::from(limit),
            is_above_limit: u64::from(flow.open) + count > u64::from(limit),
            refused: 0,
            tried: 0,
        });
        wave.refused += count;
    }

    /// Takes what the fleet does now. While a wave lasts: the level to which it leads, once all requests that were under way
    /// are answered.
    pub(super) fn observed(&mut self, limit: u32, flow: &Flow) -> Option<u32> {
        self.served = self.served.max(flow.flowing);
        if let Some(wave) = &mut self.wave {
            let refused = u32::try_from(wave.refused).unwrap_or(u32::MAX);
            wave.tried = wave.tried.max(flow.open.saturating_add(refused));
        } else if limit > self.level.0 {
            self.level = (limit, flow.requests);
        }
        let wave = self.wave.filter(|_| flow.open <= flow.flowing)?;
        Some(self.lower().map_or(wave.limit, |lower| lower.limit))
    }

    /// The wait is over; `None`: there was no wave.
    pub(super) fn ended(&mut self, flow: &Flow) -> Option<After> {
        let lower = self.lower();
        let wave = self.wave.take()?;
        let is_sure = lower.is_some_and(|lower| lower.limit == lower.highest);
        self.is_in_doubt = wave.limit > 1 && !wave.is_rare && !is_sure && (self.is_in_doubt || !wave.is_above_limit);
        self.served = 0;
        self.level = (lower.map_or(wave.limit, |lower| lower.limit), flow.requests);
        Some(lower.map_or(After::Same, After::Lower))
    }

    fn lower(&self) -> Option<Lower> {
        let Wave { limit, is_known, is_rare, is_above_limit, refused, tried } = self.wave?;
        let is_many = refused > 1 && refused * MANY > tried.into() && self.served < tried;
        let is_cause = is_known || (!is_rare && (self.is_in_doubt || is_many));
        if limit == 1 || is_above_limit || !is_cause {
            return None;
        }
        let most = limit - 1;
        let half = (tried / 2).clamp(1, most);
        let served = self.served.min(most);
        // Half is a guess, as TCP makes it; what was served is known.
        let lower = if served < half { (half, most) } else { (served, served) };
        Some(Lower { limit: lower.0, highest: lower.1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fleet in which so many bodies flow and no request waits for an answer.
    fn flowing(flowing: u32, requests: u64) -> Flow {
        Flow { open: flowing, flowing, wanted: 20, requests, ..Flow::default() }
    }

    /// A wave at a level of which so many requests are refused and all others served; `before`: requests since the last one.
    fn wave(refusals: &mut Refusals, limit: u32, refused: u32, before: u64) -> After {
        known_wave(refusals, limit, refused, before, false)
    }

    fn known_wave(refusals: &mut Refusals, limit: u32, refused: u32, before: u64, known: bool) -> After {
        let requests = refusals.level.1 + before;
        refusals.observed(limit, &flowing(0, refusals.level.1));
        let flow = flowing(limit - refused, requests);
        refusals.refused(refused.into(), limit, known, &flow);
        let level = refusals.observed(limit, &flow);
        let after = refusals.ended(&flow).unwrap();
        let expected = if let After::Lower(lower) = after { lower.limit } else { limit };
        assert_eq!(level, Some(expected), "what is said at the end is said at once");
        after
    }

    fn known(limit: u32) -> After {
        After::Lower(Lower { limit, highest: limit })
    }

    #[test]
    fn a_level_is_lowered_when_it_is_refused_twice_in_a_row() {
        let mut refusals = Refusals::default();
        assert_eq!(wave(&mut refusals, 8, 1, 8), After::Same);
        assert_eq!(wave(&mut refusals, 8, 1, 8), known(7));
        assert_eq!(wave(&mut refusals, 7, 1, 7), After::Same, "and so on");
        assert_eq!(wave(&mut refusals, 7, 1, 7), known(6));
    }

    #[test]
    fn some_rounds_of_requests_prove_a_level() {
        let mut refusals = Refusals::default();
        for _ in 0..5 {
            assert_eq!(wave(&mut refusals, 8, 1, 16), After::Same);
        }
        assert_eq!(wave(&mut refusals, 8, 1, 15), After::Same, "that is the first in a row");
        assert_eq!(wave(&mut refusals, 8, 1, 15), known(7));
    }

    #[test]
    fn what_was_asked_at_a_lower_level_proves_no_higher_one() {
        let mut refusals = Refusals::default();
        refusals.observed(4, &flowing(4, 4));
        refusals.observed(4, &flowing(4, 100));
        refusals.observed(8, &flowing(4, 100));
        let flow = flowing(2, 108);
        refusals.refused(6, 8, false, &flow);
        assert_eq!(refusals.observed(8, &flow), Some(4), "as many were served before");
        assert_eq!(refusals.ended(&flow), Some(known(4)));
    }

    #[test]
    fn many_refusals_of_a_level_that_was_never_served_lower_it_at_once() {
        assert_eq!(
            wave(&mut Refusals::default(), 8, 5, 8),
            After::Lower(Lower { limit: 4, highest: 7 }),
            "half is a guess"
        );
        assert_eq!(wave(&mut Refusals::default(), 8, 3, 8), known(5));
        assert_eq!(wave(&mut Refusals::default(), 8, 2, 8), After::Same, "a quarter may be a matter of the classes");
        let mut refusals = Refusals::default();
        refusals.observed(8, &flowing(8, 8));
        assert_eq!(wave(&mut refusals, 8, 5, 8), After::Same, "it was served");
        assert_eq!(wave(&mut refusals, 8, 5, 8), After::Lower(Lower { limit: 4, highest: 7 }), "and is not any more");
    }

    #[test]
    fn a_guess_is_proved_or_lowered_again() {
        let mut refusals = Refusals::default();
        wave(&mut refusals, 8, 5, 8);
        assert_eq!(wave(&mut refusals, 4, 1, 4), known(3));
        wave(&mut refusals, 8, 5, 8);
        assert_eq!(wave(&mut refusals, 4, 1, 8), After::Same);
    }

    #[test]
    fn a_level_that_was_refused_before_is_lowered_at_once() {
        assert_eq!(known_wave(&mut Refusals::default(), 4, 1, 100, true), known(3));
    }

    #[test]
    fn a_single_connection_is_kept() {
        let mut refusals = Refusals::default();
        for _ in 0..3 {
            assert_eq!(wave(&mut refusals, 1, 1, 1), After::Same);
        }
        assert_eq!(wave(&mut refusals, 2, 1, 2), After::Same, "and does not count against two");
    }

    #[test]
    fn nothing_is_said_before_all_requests_of_the_wave_are_answered() {
        let mut refusals = Refusals::default();
        let asked = Flow { open: 7, flowing: 1, requests: 8, ..Flow::default() };
        refusals.refused(1, 8, false, &asked);
        assert_eq!(refusals.observed(8, &asked), None);
        refusals.refused(4, 8, false, &flowing(3, 8));
        assert_eq!(refusals.observed(8, &flowing(3, 8)), Some(4));
        // A worker that had said nothing yet has two more.
        assert_eq!(refusals.observed(8, &flowing(5, 8)), Some(5));
    }

    #[test]
    fn a_wave_above_the_limit_says_nothing_about_it() {
        let mut refusals = Refusals::default();
        wave(&mut refusals, 8, 1, 8);
        // Transfers of a higher level are still under way.
        let flow = flowing(4, 12);
        refusals.refused(1, 3, false, &flow);
        assert_eq!((refusals.observed(3, &flow), refusals.ended(&flow)), (Some(3), Some(After::Same)));
    }

    #[test]
    fn without_a_wave_there_is_nothing_to_say() {
        let mut refusals = Refusals::default();
        assert_eq!((refusals.observed(8, &flowing(8, 8)), refusals.ended(&flowing(8, 8))), (None, None));
    }
}

//! Divides the connections among the workers that want some. Pure.
//!
//! Invariant: what all workers together may still have open is never more than the limit was when they heard of it. What one
//! gives up goes to another only when the first has said that it is closed, or has not said so for [`GRACE`]: a worker that
//! never says it takes from the others no more than that time.

use std::{collections::BTreeMap, time::Duration};

use shared::ids::SessionId;

use super::Observation;

/// Where there are fewer connections than workers, they go round so often.
const ROUND: Duration = Duration::from_secs(5);

/// For so long a worker that keeps more open than it was told is believed. A tar of 1.3 GB takes that at 11 MB/s, and one of
/// the usual 110 MB at 0.9 MB/s.
const GRACE: Duration = Duration::from_mins(2);

/// One worker's part.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    last: Observation,
    /// What it is told.
    pub(super) connections: u32,
    /// Bytes per second; `None`: as many as it can.
    pub(super) rate: Option<u64>,
    /// Grows with each change of what it is told.
    pub(super) version: u64,
    /// The most that it was told since the version that it keeps to.
    most_since: u32,
    /// The most that it was ever told.
    most_ever: u32,
    /// Since when it may have more open than it is told.
    above_since: Option<Duration>,
}

impl Share {
    /// A worker that nobody knows yet; what it has done so far is not news.
    pub(super) fn of_newcomer(observation: &Observation) -> Self {
        let last = Observation { open: 0, flowing: 0, wanted: 0, ..*observation };
        Self { last, version: observation.seen + 1, ..Self::default() }
    }

    /// Takes what it says; gives what it said last.
    pub(super) fn hear(&mut self, observation: Observation) -> Observation {
        if observation.seen >= self.version {
            self.most_since = self.connections;
        }
        std::mem::replace(&mut self.last, observation)
    }

    /// What it said last.
    pub(super) fn last(&self) -> Observation {
        self.last
    }

    /// Connections that it may have open by what it is known to have heard. More than it was ever told it can have from
    /// a former session only, and then a fair part is believed.
    fn reserved(&self, fair: u32, now: Duration) -> u32 {
        if self.above_since.is_some_and(|since| now.saturating_sub(since) > GRACE) {
            return self.connections;
        }
        self.possible(fair)
    }

    fn possible(&self, fair: u32) -> u32 {
        let open = self.last.open.min(self.most_ever.max(fair));
        self.most_since.max(self.connections).max(open)
    }

    fn note_excess(&mut self, fair: u32, now: Duration) {
        if self.possible(fair) > self.connections {
            self.above_since.get_or_insert(now);
        } else {
            self.above_since = None;
        }
    }

    fn tell(&mut self, connections: u32) {
        if self.connections != connections {
            self.connections = connections;
            self.most_since = self.most_since.max(connections);
            self.most_ever = self.most_ever.max(connections);
            self.version += 1;
        }
    }
}

/// Gives each worker its part of `limit` connections and of `rate`; whether anybody is to be told something new.
pub(super) fn divide(
    shares: &mut BTreeMap<SessionId, Share>,
    limit: u32,
    rate: Option<u64>,
    elapsed: Duration,
) -> bool {
    let before: u64 = shares.values().map(|share| share.version).sum();
    let fair = fair_parts(shares, limit, elapsed);
    // Who gives something up is told first; what is not in use goes to the others.
    for (share, fair) in shares.values_mut().zip(&fair) {
        let less = share.connections.min(*fair);
        share.tell(less);
        share.note_excess(*fair, elapsed);
    }
    let reserved = shares.values().zip(&fair).map(|(share, fair)| share.reserved(*fair, elapsed));
    let mut free = limit.saturating_sub(reserved.fold(0, u32::saturating_add));
    for (share, fair) in shares.values_mut().zip(&fair) {
        let reserved = share.reserved(*fair, elapsed);
        let told = (*fair).min(reserved.saturating_add(free)).max(share.connections);
        free -= told.saturating_sub(reserved);
        share.tell(told);
    }
    divide_rate(shares, rate);
    shares.values().map(|share| share.version).sum::<u64>() != before
}

/// Everybody gets the same, or what it wants if that is less; what does not divide goes round.
fn fair_parts(shares: &BTreeMap<SessionId, Share>, limit: u32, elapsed: Duration) -> Vec<u32> {
    let wanted: Vec<u32> = shares.values().map(|share| share.last.wanted).collect();
    let mut parts = vec![0; wanted.len()];
    let mut left = limit;
    loop {
        let hungry: Vec<usize> = (0..parts.len()).filter(|at| parts[*at] < wanted[*at]).collect();
        let count = u32::try_from(hungry.len()).unwrap_or(u32::MAX);
        if count == 0 || left == 0 {
            return parts;
        }
        let each = left / count;
        if each == 0 {
            let round = usize::try_from(elapsed.as_secs() / ROUND.as_secs()).unwrap_or(0);
            for turn in 0..left as usize {
                parts[hungry[(turn + round) % hungry.len()]] += 1;
            }
            return parts;
        }
        for at in hungry {
            let more = each.min(wanted[at] - parts[at]);
            parts[at] += more;
            left -= more;
        }
    }
}

/// A rate follows the connections. It is at least one byte a second: on the wire 0 is no limit.
fn divide_rate(shares: &mut BTreeMap<SessionId, Share>, rate: Option<u64>) {
    let Some(rate) = rate else { return };
    let weight = |share: &Share| u64::from(share.connections.max(share.last.open.min(share.most_ever)));
    let all: u64 = shares.values().map(weight).sum();
    for share in shares.values_mut() {
        let part = (rate * weight(share)).checked_div(all).unwrap_or(0).max(1);
        if share.rate != Some(part) {
            share.rate = Some(part);
            share.version += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A worker at the other end of a slow line.
    #[derive(Debug, Clone, Copy, Default)]
    struct Far {
        allowed: u32,
        seen: u64,
        open: u32,
        wanted: u32,
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Hear(usize),
        Say(usize),
        Open(usize),
        Close(usize),
        Want(usize, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let worker = 0..4_usize;
        prop_oneof![
            worker.clone().prop_map(Step::Hear),
            worker.clone().prop_map(Step::Say),
            worker.clone().prop_map(Step::Open),
            worker.clone().prop_map(Step::Close),
            (worker, 0..6_u32).prop_map(|(worker, wanted)| Step::Want(worker, wanted)),
        ]
    }

    fn divided(shares: &mut BTreeMap<SessionId, Share>, limit: u32, seconds: u64) {
        divide(shares, limit, None, Duration::from_secs(seconds));
    }

    #[test]
    fn a_worker_that_claims_open_connections_or_acknowledges_nothing_keeps_others_from_theirs_for_the_grace_only() {
        let liar = |open, seen| Observation { seen, open, wanted: 1000, ..Observation::default() };
        let honest = Observation { wanted: 10, ..Observation::default() };
        for open in [0, 1000] {
            let mut shares = BTreeMap::from([(SessionId(0), Share::of_newcomer(&liar(open, 0)))]);
            shares.get_mut(&SessionId(0)).unwrap().hear(liar(open, 0));
            divided(&mut shares, 10, 0);
            assert_eq!(told(&shares), [10], "open {open}: alone it has all");
            let mut newcomer = Share::of_newcomer(&honest);
            newcomer.hear(honest);
            shares.insert(SessionId(1), newcomer);
            divided(&mut shares, 10, 1);
            assert_eq!(told(&shares), [5, 0], "open {open}: it may not have heard yet");
            divided(&mut shares, 10, 2 + GRACE.as_secs());
            assert_eq!(told(&shares), [5, 5], "open {open}");
        }
        // One that comes later is believed a fair part.
        let mut shares = wanting(&[10]);
        divided(&mut shares, 10, 0);
        let share = shares.get_mut(&SessionId(0)).unwrap();
        share.hear(Observation { seen: share.version, open: 4, wanted: 10, ..Observation::default() });
        let mut late = Share::of_newcomer(&liar(1000, 0));
        late.hear(liar(1000, 0));
        shares.insert(SessionId(1), late);
        divided(&mut shares, 10, 1);
        assert_eq!(told(&shares)[0], 5);
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_is_open_however_late_the_news(limit in 1..8_u32, steps in vec(step(), 0..300)) {
            let mut far = [Far::default(); 4];
            let mut shares = BTreeMap::<SessionId, Share>::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Hear(at) => {
                        let told = shares.get(&SessionId(at as u64)).copied().unwrap_or_default();
                        (far[at].allowed, far[at].seen) = (told.connections, told.version);
                    }
                    Step::Say(at) => {
                        let Far { seen, open, wanted, .. } = far[at];
                        let said = Observation { seen, open, wanted, ..Observation::default() };
                        let share = shares.entry(SessionId(at as u64)).or_insert_with(|| Share::of_newcomer(&said));
                        share.hear(said);
                    }
                    Step::Open(at) if far[at].open < far[at].allowed => far[at].open += 1,
                    Step::Open(_) => {}
                    Step::Close(at) => far[at].open = far[at].open.saturating_sub(1),
                    Step::Want(at, wanted) => far[at].wanted = wanted,
                }
                // All of it within the grace.
                divide(&mut shares, limit, None, Duration::from_millis(number as u64));
                prop_assert!(far.iter().map(|far| far.open).sum::<u32>() <= limit, "{far:?} {shares:?}");
            }
        }
    }

    fn wanting(wanted: &[u32]) -> BTreeMap<SessionId, Share> {
        let share = |wanted: &u32| {
            let said = Observation { wanted: *wanted, ..Observation::default() };
            let mut share = Share::of_newcomer(&said);
            share.hear(said);
            share
        };
        wanted.iter().enumerate().map(|(at, wanted)| (SessionId(at as u64), share(wanted))).collect()
    }

    fn told(shares: &BTreeMap<SessionId, Share>) -> Vec<u32> {
        shares.values().map(|share| share.connections).collect()
    }

    #[test]
    fn everybody_gets_the_same_or_what_it_wants() {
        let mut shares = wanting(&[10, 1, 0, 10]);
        divided(&mut shares, 9, 0);
        assert_eq!(told(&shares), [4, 1, 0, 4]);
        divided(&mut shares, 100, 0);
        assert_eq!(told(&shares), [10, 1, 0, 10]);
    }

    #[test]
    fn where_there_are_fewer_than_workers_they_go_round() {
        let mut shares = wanting(&[5, 5, 5]);
        let mut had = [false; 3];
        for round in 0..3 {
            divided(&mut shares, 1, round * ROUND.as_secs());
            // Each says that it has closed what it had.
            for share in shares.values_mut() {
                share.hear(Observation { seen: share.version, wanted: 5, ..Observation::default() });
            }
            divided(&mut shares, 1, round * ROUND.as_secs());
            let told = told(&shares);
            assert_eq!(told.iter().sum::<u32>(), 1);
            had[told.iter().position(|told| *told == 1).unwrap()] = true;
        }
        assert_eq!(had, [true; 3]);
    }

    #[test]
    fn a_rate_is_divided_as_the_connections_are() {
        let mut shares = wanting(&[3, 1]);
        divide(&mut shares, 4, Some(4000), Duration::ZERO);
        let rates: Vec<_> = shares.values().map(|share| share.rate.unwrap()).collect();
        assert_eq!(rates, [3000, 1000]);
        let mut shares = wanting(&[3, 0]);
        divide(&mut shares, 4, Some(4000), Duration::ZERO);
        let rates: Vec<_> = shares.values().map(|share| share.rate.unwrap()).collect();
        assert_eq!(rates, [4000, 1], "0 would be no limit");
    }
}

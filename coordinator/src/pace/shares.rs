//! Divides the connections among the workers that want some. Pure.
//!
//! Invariant: what all workers together may still have open is never more than the limit was when they heard of it. What one
//! gives up goes to another only when the first has said that it is closed.

use std::{collections::BTreeMap, time::Duration};

use shared::ids::SessionId;

use super::Observation;

/// Where there are fewer connections than workers, they go round so often.
const ROUND: Duration = Duration::from_secs(5);

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

    /// Connections that it may have open by what it is known to have heard.
    fn reserved(&self) -> u32 {
        self.most_since.max(self.connections).max(self.last.open)
    }

    fn tell(&mut self, connections: u32) {
        if self.connections != connections {
            self.connections = connections;
            self.most_since = self.most_since.max(connections);
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
    }
    let reserved: u32 = shares.values().map(Share::reserved).fold(0, u32::saturating_add);
    let mut free = limit.saturating_sub(reserved);
    for (share, fair) in shares.values_mut().zip(&fair) {
        let reserved = share.reserved();
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

/// A rate follows the connections.
fn divide_rate(shares: &mut BTreeMap<SessionId, Share>, rate: Option<u64>) {
    let Some(rate) = rate else { return };
    let weight = |share: &Share| u64::from(share.connections.max(share.last.open));
    let all: u64 = shares.values().map(weight).sum();
    for share in shares.values_mut() {
        let part = (rate * weight(share)).checked_div(all).unwrap_or(0);
        if share.rate != Some(part) {
            share.rate = Some(part);
            share.version += 1;
        }
    }
}

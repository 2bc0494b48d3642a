//! Extra connections for running transfers: how many connections a transfer may open beside its
//! own, and how much work it has for them. The worker grants free slots, the transfer reports its
//! demand.

use tokio::sync::watch;

/// The grant and the demand of one transfer, shared by the worker's loop and the transfer.
#[derive(Debug, Default)]
pub(crate) struct ExtraConnections {
    granted: watch::Sender<usize>,
    demand: watch::Sender<Demand>,
}

/// The work that a transfer has for extra connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Bytes that were not received yet; 0 if extra connections cannot help.
    pub(crate) left: u64,
    /// The smallest number of bytes that is worth a connection.
    pub(crate) least: u64,
    /// Extra connections that are fetching now. They keep their slots before others get one, so
    /// that their requests are not interrupted.
    pub(crate) at_work: usize,
}

impl ExtraConnections {
    /// Sets how many extra connections the transfer may use.
    pub(crate) fn grant(&self, connections: usize) {
        self.granted
            .send_if_modified(|granted| std::mem::replace(granted, connections) != connections);
    }

    /// The current grant; the receiver is notified of each change.
    pub(crate) fn granted(&self) -> watch::Receiver<usize> {
        self.granted.subscribe()
    }

    /// Sets the demand of the transfer.
    pub(crate) fn want(&self, demand: Demand) {
        self.demand.send_replace(demand);
    }

    /// The demand that the transfer last set.
    pub(crate) fn demand(&self) -> Demand {
        *self.demand.borrow()
    }
}

/// Distributes `free` slots over the transfers. First each transfer keeps the extra connections
/// that are fetching. Each further slot goes to the transfer with the most bytes left per
/// connection, if every connection would have at least `least` bytes.
pub(crate) fn shares(mut free: usize, demands: &[Demand]) -> Vec<usize> {
    let keeps = |demand: &Demand| {
        let kept = demand.at_work.min(free);
        free -= kept;
        kept
    };
    let mut shares: Vec<usize> = demands.iter().map(keeps).collect();
    for _ in 0..free {
        let each = demands.iter().zip(&shares).enumerate();
        let each = each.map(|(index, (demand, share))| (demand.left / (*share as u64 + 2), index));
        let worthwhile = each.filter(|(bytes, index)| *bytes >= demands[*index].least.max(1));
        let Some((_, index)) = worthwhile.max() else {
            break;
        };
        shares[index] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(left: u64) -> Demand {
        Demand {
            left,
            least: 10,
            at_work: 0,
        }
    }

    #[test]
    fn the_largest_transfer_gets_the_most_slots_and_small_ones_get_none() {
        assert_eq!(shares(9, &[of(1000), of(0), of(300), of(19)]), [8, 0, 1, 0]);
        assert_eq!(
            shares(9, &[of(45), of(20)]),
            [3, 1],
            "a connection has at least ten bytes to fetch"
        );
        assert_eq!(shares(0, &[of(1000)]), [0]);
        assert!(shares(3, &[]).is_empty());
    }

    #[test]
    fn connections_that_fetch_keep_their_slots_while_slots_are_free() {
        let nearly_done = Demand {
            at_work: 3,
            ..of(5)
        };
        assert_eq!(shares(5, &[nearly_done, of(1000)]), [3, 2]);
        assert_eq!(shares(2, &[nearly_done, of(1000)]), [2, 0]);
    }

    #[tokio::test]
    async fn a_grant_notifies_once() {
        let extra = ExtraConnections::default();
        let mut granted = extra.granted();
        extra.grant(2);
        granted.changed().await.unwrap();
        assert_eq!(*granted.borrow_and_update(), 2);
        extra.grant(2);
        assert!(!granted.has_changed().unwrap());
    }
}

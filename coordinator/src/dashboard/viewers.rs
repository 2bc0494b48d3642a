//! The open streams. Each has a bounded queue; a viewer whose queue was full when an update came
//! gets a whole snapshot once it has room, and no update before.

use bytes::Bytes;
use tokio::sync::mpsc::{self, error::TrySendError};

/// Capacity of the queue of a stream, in events.
pub(super) const QUEUE: usize = 4;

/// A stream.
#[derive(Debug)]
struct Viewer {
    queue: mpsc::Sender<Bytes>,
    needs_snapshot: bool,
}

/// All open streams.
#[derive(Debug, Default)]
pub(super) struct Viewers(Vec<Viewer>);

impl Viewers {
    /// Adds a stream, which gets a snapshot with the next message.
    pub(super) fn add(&mut self, queue: mpsc::Sender<Bytes>) {
        self.0.push(Viewer {
            queue,
            needs_snapshot: true,
        });
    }

    /// Whether no stream was open when closed ones were removed last.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes the streams that their clients have closed.
    pub(super) fn remove_closed(&mut self) {
        self.0.retain(|viewer| !viewer.queue.is_closed());
    }

    /// Sends the snapshot to the viewers that need one, and the update, if there is one, to the
    /// others. The snapshot is made only if a viewer needs it.
    pub(super) fn send(&mut self, update: Option<&Bytes>, snapshot: impl Fn() -> Bytes) {
        self.0.retain_mut(|viewer| {
            let event = if viewer.needs_snapshot {
                let has_room = viewer.queue.capacity() > 0;
                has_room.then(&snapshot)
            } else {
                update.cloned()
            };
            let Some(event) = event else {
                return !viewer.queue.is_closed();
            };
            match viewer.queue.try_send(event) {
                Ok(()) => viewer.needs_snapshot = false,
                Err(TrySendError::Full(_)) => viewer.needs_snapshot = true,
                Err(TrySendError::Closed(_)) => return false,
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(events: &mut mpsc::Receiver<Bytes>) -> Vec<Bytes> {
        std::iter::from_fn(|| events.try_recv().ok()).collect()
    }

    #[test]
    fn a_viewer_that_does_not_read_gets_a_snapshot_for_what_it_missed() {
        let mut viewers = Viewers::default();
        let (queue, mut slow) = mpsc::channel(QUEUE);
        viewers.add(queue);
        let (queue, mut fast) = mpsc::channel(QUEUE);
        viewers.add(queue);
        let mut of_fast = Vec::new();
        for number in 0..20_u8 {
            let update = Bytes::from(vec![number]);
            viewers.send(Some(&update), || Bytes::from(vec![100 + number]));
            of_fast.extend(received(&mut fast));
        }
        let first: Vec<Bytes> = [100, 1, 2, 3]
            .map(|number: u8| Bytes::from(vec![number]))
            .into();
        assert_eq!(received(&mut slow), first, "four events are queued");
        let update = Bytes::from_static(&[20]);
        viewers.send(Some(&update), || Bytes::from_static(&[120]));
        viewers.send(Some(&Bytes::from_static(&[21])), || {
            panic!("no viewer needs it")
        });
        assert_eq!(received(&mut slow), [&[120][..], &[21]]);
        assert_eq!(of_fast.len(), 20);
        drop((slow, fast));
        viewers.remove_closed();
        assert!(viewers.is_empty());
    }
}

//! Bounds what the messages of unanswered calls hold in memory: those of one connection, and of all
//! connections together. A message counts with the length that it announces, from its first bytes
//! until its call is answered.
//!
//! Invariant: messages of at most [`SHORT`] bytes are never refused for what other connections send,
//! so renewals go on beside clients that fill the memory of all.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tonic::Status;

use crate::auth::Peer;

/// Bytes of one connection: twice the longest message. A worker has one report under way at a time.
const MAX_OF_CONNECTION: usize = 8 << 20;
/// Bytes of all connections: 64 first reports of 1 MiB at the same time. Workers repeat what is refused.
const MAX_OF_ALL: usize = 64 << 20;
/// Bytes of a message that counts for its own connection only. A connection has at most 100 calls.
const SHORT: usize = 4 << 10;
const FULL: &str = "too many bytes of messages are under way; try again later";

/// The memory of all messages of a server.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestMemory(Arc<AtomicUsize>);

/// What one call has reserved; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    all: Arc<AtomicUsize>,
    connection: Arc<AtomicUsize>,
    held: AtomicUsize,
}

impl RequestMemory {
    /// For a call of a connection; calls within the process have no peer.
    pub(super) fn reservation(&self, peer: Option<&Peer>) -> Reservation {
        let connection = peer.map(Peer::request_bytes).unwrap_or_default();
        Reservation { all: Arc::clone(&self.0), connection, held: AtomicUsize::new(0) }
    }
}

impl Reservation {
    /// Reserves the bytes of a message in the place of those of the call's message before.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when the connection, or all of them, have too much under way.
    pub(super) fn replace(&self, bytes: usize) -> Result<(), Status> {
        self.release();
        self.held.store(bytes, Ordering::Release);
        let of_connection = self.connection.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let of_all = self.all.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if of_connection > MAX_OF_CONNECTION || (of_all > MAX_OF_ALL && bytes > SHORT) {
            self.release();
            return Err(Status::resource_exhausted(FULL));
        }
        Ok(())
    }

    fn release(&self) {
        let held = self.held.swap(0, Ordering::AcqRel);
        self.connection.fetch_sub(held, Ordering::AcqRel);
        self.all.fetch_sub(held, Ordering::AcqRel);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(memory: &RequestMemory, connection: &Arc<AtomicUsize>) -> Reservation {
        let all = Arc::clone(&memory.0);
        let connection = Arc::clone(connection);
        Reservation { all, connection, held: AtomicUsize::default() }
    }

    #[test]
    fn a_connection_has_so_much_under_way_and_more_once_a_call_is_answered() {
        let memory = RequestMemory::default();
        let connection = Arc::default();
        let calls: Vec<_> = (0..3).map(|_| call(&memory, &connection)).collect();
        assert!(calls[0].replace(4 << 20).is_ok() && calls[1].replace(4 << 20).is_ok());
        assert!(calls[2].replace(1).is_err(), "also a short one");
        let other = call(&memory, &Arc::default());
        assert!(other.replace(4 << 20).is_ok());
        // The next message of a stream is in the place of the one before.
        assert!(calls[0].replace(1 << 20).is_ok() && calls[2].replace(3 << 20).is_ok());
        drop((calls, other));
        assert_eq!((connection.load(Ordering::Acquire), memory.0.load(Ordering::Acquire)), (0, 0));
    }

    #[test]
    fn all_connections_together_have_a_bound_that_short_messages_pass() {
        let memory = RequestMemory::default();
        let long: Vec<_> = (0..16).map(|_| call(&memory, &Arc::default())).collect();
        assert!(long.iter().all(|call| call.replace(4 << 20).is_ok()));
        let late = call(&memory, &Arc::default());
        assert!(late.replace(SHORT + 1).is_err());
        assert!(late.replace(SHORT).is_ok());
        drop(long);
        assert!(late.replace(4 << 20).is_ok());
    }
}

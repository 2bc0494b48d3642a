//! Limits the memory of the messages of unanswered calls: per connection, and over all connections.
//! A message counts with its announced length, from its first bytes until its call is answered.
//!
//! Invariant: a message of at most [`SHORT_MESSAGE`] bytes is never refused because of other
//! connections, so heartbeats continue while other clients fill the memory.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tonic::Status;

use crate::auth::Peer;

/// Limit per connection in bytes: twice the longest message. A worker has one report in flight at a
/// time.
const MAX_OF_CONNECTION: usize = 8 << 20;
/// Limit over all connections in bytes: 64 first `Report` messages of 1 MiB at the same time.
/// Workers retry refused messages.
const MAX_OF_ALL: usize = 64 << 20;
/// A message of at most this many bytes counts for its own connection only. A connection has at
/// most 100 concurrent calls.
const SHORT_MESSAGE: usize = 4 << 10;
const MEMORY_FULL: &str = "too many bytes of messages are under way; try again later";

/// The memory of all messages of a server.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestMemory(Arc<AtomicUsize>);

/// The bytes that one call has reserved. They are released when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    all: Arc<AtomicUsize>,
    connection: Arc<AtomicUsize>,
    held: AtomicUsize,
}

impl RequestMemory {
    /// A reservation for a call of a connection. Calls within the process have no peer.
    pub(super) fn reservation(&self, peer: Option<&Peer>) -> Reservation {
        let connection = peer.map(Peer::request_bytes).unwrap_or_default();
        Reservation {
            all: Arc::clone(&self.0),
            connection,
            held: AtomicUsize::new(0),
        }
    }
}

impl Reservation {
    /// Reserves the bytes of a message and releases those of the call's previous message.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if the connection, or all connections together, exceed their limit.
    pub(super) fn replace(&self, bytes: usize) -> Result<(), Status> {
        self.release();
        self.held.store(bytes, Ordering::Release);
        let of_connection = self.connection.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let of_all = self.all.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if of_connection > MAX_OF_CONNECTION || (of_all > MAX_OF_ALL && bytes > SHORT_MESSAGE) {
            self.release();
            return Err(Status::resource_exhausted(MEMORY_FULL));
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
        Reservation {
            all,
            connection,
            held: AtomicUsize::default(),
        }
    }

    #[test]
    fn a_connection_has_a_limit_that_answered_calls_release() {
        let memory = RequestMemory::default();
        let connection = Arc::default();
        let calls: Vec<_> = (0..3).map(|_| call(&memory, &connection)).collect();
        assert!(calls[0].replace(4 << 20).is_ok() && calls[1].replace(4 << 20).is_ok());
        assert!(
            calls[2].replace(1).is_err(),
            "short messages count for their connection"
        );
        let other = call(&memory, &Arc::default());
        assert!(other.replace(4 << 20).is_ok());
        // The next message of a stream replaces the previous one.
        assert!(calls[0].replace(1 << 20).is_ok() && calls[2].replace(3 << 20).is_ok());
        drop((calls, other));
        assert_eq!(
            (
                connection.load(Ordering::Acquire),
                memory.0.load(Ordering::Acquire)
            ),
            (0, 0)
        );
    }

    #[test]
    fn short_messages_pass_the_limit_of_all_connections() {
        let memory = RequestMemory::default();
        let long: Vec<_> = (0..16).map(|_| call(&memory, &Arc::default())).collect();
        assert!(long.iter().all(|call| call.replace(4 << 20).is_ok()));
        let late = call(&memory, &Arc::default());
        assert!(late.replace(SHORT_MESSAGE + 1).is_err());
        assert!(late.replace(SHORT_MESSAGE).is_ok());
        drop(long);
        assert!(late.replace(4 << 20).is_ok());
    }
}

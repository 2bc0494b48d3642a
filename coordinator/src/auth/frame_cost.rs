//! Estimates the memory that the bytes of a connection may cost this process. No I/O, no clock.
//!
//! HTTP/2 frames are much smaller than the state that they create: a HEADERS frame of 15 bytes
//! creates a stream, a task and a response. Each frame therefore counts with its bytes plus a fixed
//! amount for that state.

/// Length of the client's connection preface (RFC 9113 §3.4), which has no frame header.
const PREFACE: usize = 24;
/// Length of a frame header in bytes.
const HEADER: usize = 9;
/// Frame type HEADERS (RFC 9113 §6.2).
const HEADERS: u8 = 1;
/// Cost of a request in bytes: the stream, its task, its header fields and the response. Measured:
/// an open stream takes up to 10 KiB, and a connection has a limited number of them; an answered
/// stream takes about 1 KiB.
const REQUEST: u64 = 4 << 10;
/// Cost of any other frame in bytes: a queue entry, or an acknowledgement that waits to be sent.
const FRAME: u64 = 256;

/// Parser state of one connection's frames.
#[derive(Debug)]
pub(super) struct FrameCost {
    /// Bytes of the next frame header that have arrived.
    header: [u8; HEADER],
    known: usize,
    /// Bytes of the current frame that have not arrived.
    left: usize,
}

impl Default for FrameCost {
    fn default() -> Self {
        Self {
            header: [0; HEADER],
            known: 0,
            left: PREFACE,
        }
    }
}

impl FrameCost {
    /// The cost of `bytes`, which follow the bytes of the last call.
    pub(super) fn of(&mut self, mut bytes: &[u8]) -> u64 {
        let mut cost = bytes.len() as u64;
        while !bytes.is_empty() {
            let inside = bytes.len().min(self.left);
            self.left -= inside;
            bytes = &bytes[inside..];
            let more = bytes.len().min(HEADER - self.known);
            self.header[self.known..self.known + more].copy_from_slice(&bytes[..more]);
            self.known += more;
            bytes = &bytes[more..];
            if self.known == HEADER {
                let [high, middle, low, kind, ..] = self.header;
                self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.known = 0;
                cost += if kind == HEADERS { REQUEST } else { FRAME };
            }
        }
        cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = 16_384;

    /// The preface, SETTINGS with one setting, HEADERS with six bytes, DATA with 16 KiB, and empty
    /// DATA.
    fn connection() -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7F, 0xFF, 0xFF, 0xFF]);
        bytes.extend([0, 0, 6, 1, 4, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]);
        bytes.extend([0, 0x40, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend(vec![1; LONG]);
        bytes.extend([0, 0, 0, 0, 1, 0, 0, 0, 1]);
        bytes
    }

    #[test]
    fn the_cost_does_not_depend_on_how_the_bytes_are_split() {
        let bytes = connection();
        let expected = bytes.len() as u64 + REQUEST + 3 * FRAME;
        for size in [1, 2, 7, 9, 24, 25, 1000, bytes.len()] {
            let mut frames = FrameCost::default();
            let cost: u64 = bytes.chunks(size).map(|part| frames.of(part)).sum();
            assert_eq!(cost, expected, "in parts of {size}");
        }
    }
}

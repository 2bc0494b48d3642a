//! Tracks HTTP/2 frame boundaries, as needed to insert a frame between two frames of a server.

/// Position of a byte stream within its HTTP/2 frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    header: Vec<u8>,
    left: usize,
}

impl Frames {
    /// GOAWAY: length 8, type 7, stream 0; highest last stream id, so all requests so far are
    /// answered; no error.
    pub(crate) const GOAWAY: [u8; 17] = [
        0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0,
    ];

    /// Whether the last frame is complete and the next one has not begun.
    pub(crate) fn is_between(&self) -> bool {
        self.header.is_empty() && self.left == 0
    }

    /// Advances by the bytes that were carried.
    pub(crate) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let inside = self.left.min(bytes.len());
            self.left -= inside;
            bytes = &bytes[inside..];
            let header = bytes.len().min(9 - self.header.len());
            self.header.extend_from_slice(&bytes[..header]);
            bytes = &bytes[header..];
            if let [high, middle, low, ..] = *self.header
                && self.header.len() == 9
            {
                self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.header.clear();
            }
        }
    }
}

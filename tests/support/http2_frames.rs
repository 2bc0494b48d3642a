//! As much of HTTP/2 as is needed to say something between two frames of a server.

/// Where in the server's HTTP/2 frames a connection is.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    header: Vec<u8>,
    left: usize,
}

impl Frames {
    /// Length 8, type 7, stream 0; every request so far will be answered; no error.
    pub(crate) const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];

    /// The last frame is complete and the next one has not begun.
    pub(crate) fn is_between(&self) -> bool {
        self.header.is_empty() && self.left == 0
    }

    /// These bytes were carried.
    pub(crate) fn saw(&mut self, mut bytes: &[u8]) {
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

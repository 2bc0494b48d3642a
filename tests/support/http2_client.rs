//! HTTP/2 frames of a client, encoded by hand: HTTP clients do not send most of these sequences.

/// A PING without an acknowledgement.
pub(crate) const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
/// The acknowledgement of a PING.
pub(crate) const PING_ACKNOWLEDGEMENT: [u8; 17] =
    [0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
/// SETTINGS without a setting.
pub(crate) const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The stream of the request in [`Request::first`].
pub(crate) const FIRST_STREAM: u32 = 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The client's connection preface, with the largest windows for streams and for the connection.
pub(crate) fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7F, 0xFF, 0xFF, 0xFF]);
    bytes.extend([0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7F, 0xFF, 0, 0]);
    bytes
}

/// `RST_STREAM` with `CANCEL`.
pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

/// A gRPC message without content that ends the stream.
pub(crate) fn empty_message(stream: u32) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, &[0; 5])
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a short payload")
        .to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A gRPC request. Its first HEADERS frame adds the header fields to HPACK's dynamic table, so each
/// later one needs only a few bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    path: &'static str,
    token: Option<String>,
    /// Length of an additional field, which each later request contains four times.
    field: Option<usize>,
}

/// HPACK index of the field that was added to the dynamic table last (RFC 7541, 2.3.3).
const LAST_ADDED: u8 = 62;

impl Request {
    pub(crate) fn new(path: &'static str) -> Self {
        Self {
            path,
            ..Self::default()
        }
    }

    /// With this credential.
    pub(crate) fn token(mut self, token: Option<String>) -> Self {
        self.token = token;
        self
    }

    /// With an additional field of this length.
    pub(crate) fn field(mut self, length: usize) -> Self {
        self.field = Some(length);
        self
    }

    /// Fields whose names have no index in the static table.
    fn named(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("content-type", "application/grpc".to_owned()),
            ("te", "trailers".to_owned()),
        ];
        fields.extend(
            self.token
                .iter()
                .map(|token| ("authorization", format!("Bearer {token}"))),
        );
        fields.extend(self.field.map(|length| ("x", "y".repeat(length))));
        fields
    }

    /// HEADERS that fill the dynamic table and end the request.
    pub(crate) fn first(&self) -> Vec<u8> {
        // Static indexes of `:method POST` and `:scheme https`.
        let mut block = vec![0x83, 0x87];
        // `:path` and `:authority` by the index of their names, the others with literal names; all
        // are added to the dynamic table.
        block.push(0x44);
        string(&mut block, self.path.as_bytes());
        block.push(0x41);
        string(&mut block, b"127.0.0.1");
        for (name, value) in self.named() {
            block.push(0x40);
            string(&mut block, name.as_bytes());
            string(&mut block, value.as_bytes());
        }
        frame(HEADERS, END_HEADERS | END_STREAM, FIRST_STREAM, &block)
    }

    /// HEADERS that refer to the dynamic table.
    pub(crate) fn repeated(&self, stream: u32, ends: bool) -> Vec<u8> {
        let added = 2 + u8::try_from(self.named().len()).expect("a small number of fields");
        let mut block = vec![0x83, 0x87];
        block.extend(
            (LAST_ADDED..LAST_ADDED + added)
                .rev()
                .map(|number| 0x80 | number),
        );
        if self.field.is_some() {
            block.extend([0x80 | LAST_ADDED; 3]);
        }
        let flags = if ends {
            END_HEADERS | END_STREAM
        } else {
            END_HEADERS
        };
        frame(HEADERS, flags, stream, &block)
    }
}

/// A length with a 7-bit prefix, then the octets without Huffman coding (RFC 7541, 5.2).
fn string(block: &mut Vec<u8>, octets: &[u8]) {
    let length = octets.len();
    if let Ok(short @ 0..127) = u8::try_from(length) {
        block.push(short);
    } else {
        block.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            block.push(u8::try_from(rest % 128).expect("below 128") | 128);
            rest /= 128;
        }
        block.push(u8::try_from(rest).expect("below 128"));
    }
    block.extend(octets);
}

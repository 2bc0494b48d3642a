//! Unpacking while the bytes arrive: framing says what they are, the unpacker writes them.

mod digest;
mod extension;
mod framing;
mod framing_error;
mod header;
mod unpack;

pub(crate) use digest::Digest;
pub(crate) use framing::{Event, Framing, Limits};
pub(crate) use unpack::{Start, UnpackError, Unpacker};

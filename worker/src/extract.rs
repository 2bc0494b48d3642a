//! Unpacking while the bytes arrive: framing says what they are, the unpacker writes them.

mod extension;
mod framing;
mod framing_error;
mod header;
mod staged_tar;
mod unpack;

pub(crate) use framing::{Event, Framing, Limits};
pub(crate) use staged_tar::StagedTar;
pub(crate) use unpack::{Start, UnpackError, Unpacker};

//! Unpacking while the bytes arrive: framing parses the tar, and the unpacker writes the files.

mod extension;
mod framing;
mod framing_error;
mod header;
mod staged_tar;
mod unpack;

pub(crate) use framing::{Event, Framing, Limits};
pub(crate) use staged_tar::StagedTar;
pub(crate) use unpack::{Start, UnpackError, Unpacker};

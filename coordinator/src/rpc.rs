//! The gRPC services `Coordinator` and `Admin`, and the conversions between generated types and the
//! coordinator's types.

pub(crate) mod admin;
pub(crate) mod conversions;
pub(crate) mod service;

//! What answers over gRPC: the services `Coordinator` and `Admin`, and the conversions between
//! wire types and the types of the coordinator.

pub(crate) mod admin;
pub(crate) mod conversions;
pub(crate) mod service;

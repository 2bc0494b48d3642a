//! The generated messages and services of `coordinator.proto`; no logic.
//!
//! Only the coordinator's service, the worker's client, the conversions in `shared`, and tests that
//! act as clients use these types.
#![allow(
    missing_docs,
    unused_qualifications,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated: the comments stand in coordinator.proto"
)]

tonic::include_proto!("imagenet.v1");

//! Test support: well-formed and malformed tars, a stand-in for ImageNet's server with scripted
//! faults, and the real programs as processes with a deadline.
//!
//! The tests treat the programs as black boxes: command lines, files, exit codes and bytes on the
//! wire are the contract.

pub mod archives;
pub mod content;
pub mod raw_tar;

pub mod abusive_clients;
pub mod answer;
pub mod chaos_proxy;
#[cfg(test)]
mod chaos_proxy_keeps_to_its_script;
mod connection;
pub mod figures;
pub mod forward_proxy;
pub mod http;
mod http2_client;
mod http2_frames;
mod line;
pub mod log;
pub mod origin;
#[cfg(test)]
mod origin_has_limits;
#[cfg(test)]
mod origin_keeps_to_its_script;
mod reply;
pub mod request_log;
pub mod script_file;
pub mod tls_front;
mod traffic;
mod transfer_rate;

pub mod cluster;
pub mod fleet;
pub mod folders;
pub mod hanging_log;
pub mod hosts;
pub mod largest_report;
pub mod loader;
pub mod memory;
pub mod mounts;
pub mod programs;
pub mod running;
mod summary_table;
pub mod terminal;
pub mod wait;

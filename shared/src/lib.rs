//! What the coordinator and the worker both need, in the order in which a class uses it.

pub mod backoff;
pub mod class_list;
pub mod connect;
pub mod exit_code;
pub mod flag;
pub mod http;
pub mod ids;
pub mod job;
pub mod job_line;
pub mod limits;
pub mod listing;
pub mod manual;
pub mod metrics;
pub mod observed_stream;
pub mod origin_address;
pub mod outcome;
pub mod output;
pub mod own_file;
pub mod owner;
pub mod ownership;
mod path_owners;
pub mod private_file;
pub mod probe_files;
pub mod program;
pub mod protocol;
pub mod refusal;
pub mod refused_sample;
pub mod shutdown;
pub mod telemetry;
mod terminal;
pub mod threads;
pub mod tls;
pub mod url_secrets;
mod wnid;
pub mod worker_name;

pub use wnid::{InvalidWnid, Wnid};

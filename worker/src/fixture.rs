//! Fixtures that the tests of several modules share.

use std::time::Duration;

use shared::job::{Durability, Existing, JobOptions, UrlTemplate};

/// A job for tests that send no request to its origin.
pub(crate) fn job() -> JobOptions {
    JobOptions {
        run_id: "run".to_owned(),
        url: UrlTemplate::parse("http://127.0.0.1:1").unwrap(),
        delete_tar: true,
        retries: 0,
        timeout: Duration::from_secs(10),
        existing: Existing::default(),
        durability: Durability::Process,
        ca_pem: Vec::new(),
        headers: Vec::new(),
    }
}

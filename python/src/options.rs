//! The options of a batch, as Python gives them.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use pyo3::{FromPyObject, PyResult};
use shared::{
    job_line::Screen, origin_files, output_args::OutputArgs, private_file::readable_warning,
};
use worker::Options;

use crate::errors;

/// How often the progress is published, in which Python looks for it.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The attributes of the object `Options` in `_options.py`, which has checked the numbers.
#[derive(FromPyObject)]
pub(crate) struct Arguments {
    num_workers: usize,
    delete_tar: bool,
    url: String,
    retries: u32,
    timeout: f64,
    existing: String,
    durability: String,
    max_connections: Option<u32>,
    header_file: Option<PathBuf>,
    cacert: Option<PathBuf>,
    /// Whether the downloads are drawn on standard error.
    draws: bool,
    /// The least important level of log lines, as Python numbers it.
    pub(crate) log_level: u8,
}

impl Arguments {
    /// Where the downloads are drawn.
    pub(crate) fn screen(&self) -> PyResult<Screen> {
        if !self.draws {
            return Ok(Screen::Silent);
        }
        Screen::for_stderr(OutputArgs::default()).map_err(|error| errors::no_thread(&error))
    }

    /// Checks what can be checked without a file: before the process is marked as one that has
    /// begun a batch.
    ///
    /// # Errors
    /// As [`Arguments::options`].
    pub(crate) fn check(&self) -> Result<(), String> {
        value::<worker::Existing>("existing", &self.existing)?;
        value::<worker::Durability>("durability", &self.durability)?;
        Ok(())
    }

    /// The options of the library, without those that the caller sets. Reads the files that they
    /// name.
    ///
    /// # Errors
    /// The message about an option that cannot be used.
    pub(crate) fn options(self) -> Result<Options, String> {
        let timeout = Duration::try_from_secs_f64(self.timeout)
            .map_err(|error| format!("cannot use timeout = {}: {error}", self.timeout))?;
        let unusable = |error| format!("cannot {error}");
        let ca_pem = self
            .cacert
            .map(|path| origin_files::certificates("cacert", &path));
        let headers = self
            .header_file
            .as_deref()
            .map(|path| origin_files::headers("header_file", path));
        if let Some(warning) = self.header_file.as_deref().and_then(readable_warning) {
            tracing::warn!("{warning}");
        }
        Ok(Options {
            url: self.url,
            workers: self.num_workers,
            max_connections: self.max_connections,
            delete_tar: self.delete_tar,
            retries: self.retries,
            timeout,
            existing: value("existing", &self.existing)?,
            durability: value("durability", &self.durability)?,
            ca_pem: ca_pem.transpose().map_err(unusable)?.unwrap_or_default(),
            headers: headers.transpose().map_err(unusable)?.unwrap_or_default(),
            progress_interval: PROGRESS_INTERVAL,
            ..Options::default()
        })
    }
}

/// The value with this name.
fn value<T: ValueEnum>(option: &str, name: &str) -> Result<T, String> {
    T::from_str(name, false).map_err(|_| {
        let names: Vec<String> = T::value_variants()
            .iter()
            .filter_map(ValueEnum::to_possible_value)
            .map(|value| format!("{:?}", value.get_name()))
            .collect();
        format!(
            "cannot use {option} = {name:?}: give one of {}",
            names.join(", ")
        )
    })
}

//! The flags for what a program writes to standard error and to its log file.

use clap::{Args, ValueEnum};

/// What a program writes beside its results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub struct OutputArgs {
    /// Write only warnings and errors to standard error: no progress and no addresses. The log file
    /// and the table at the end stay
    #[arg(long)]
    pub quiet: bool,
    /// Form of the lines on standard error and in the log file. With json each is an object with
    /// timestamp, level and message, on a terminal too
    #[arg(long, value_name = "FORM", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

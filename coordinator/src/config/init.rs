//! The arguments of `coordinator init`.

use std::{net::IpAddr, path::PathBuf};

use clap::Args;

/// Arguments of `coordinator init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Folder for the certificates and tokens; made if it is missing
    #[arg(long, value_name = "DIR", default_value = "imagenet-trust")]
    pub dir: PathBuf,
    /// Names and addresses under which workers reach the coordinator, besides this host's name and
    /// loopback
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', value_parser = host)]
    pub advertise: Vec<String>,
    /// Where the workers' token goes, e.g. a folder that workers may read [default: worker.token in
    /// the folder of --dir]
    #[arg(long, value_name = "FILE")]
    pub worker_token_file: Option<PathBuf>,
    /// End with 0 when there is nothing to make: for programs that cannot know whether it is the
    /// first time
    #[arg(long)]
    pub if_missing: bool,
}

/// Parses a host name or an address, without a port.
pub(crate) fn host(text: &str) -> Result<String, String> {
    let text = text.trim().trim_matches(['[', ']']);
    let is_name = |text: &str| {
        // TLS verification accepts a wildcard only as one whole label, and never alone.
        let labels: Vec<&str> = text
            .strip_prefix("*.")
            .unwrap_or(text)
            .trim_end_matches('.')
            .split('.')
            .collect();
        let is_label = |label: &&str| {
            let fits =
                |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
            (1..=63).contains(&label.len()) && label.chars().all(fits)
        };
        // A name whose last label is a number is meant as an IP address.
        let is_number = labels
            .last()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        text.len() <= 253 && labels.iter().all(is_label) && !is_number
    };
    if text.parse::<IpAddr>().is_ok() || is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(
            "it takes names and addresses without a port, e.g. node1.example.org,10.0.0.5"
                .to_owned(),
        )
    }
}

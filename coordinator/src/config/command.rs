//! What the program does besides jobs: its commands, their flags and their help.

use std::path::PathBuf;

use clap::{Args, Subcommand, builder::FalseyValueParser};

use crate::trust::InitArgs;

const VERIFY_HELP: &str = "\
One line for each file that differs, one for each folder that is not proved, and the totals:
    n02124075/n02124075_12.JPEG has other content than the manifest says
    n02124076 is not proved: it has no manifest
    3 classes: 1 right, 1 different, 1 not proved; 1300 files, 143MB compared
With --json each line is an object, {\"class\", \"file\", \"difference\", \"text\"}: `difference` is one of
manifest, missing, no_file, size, content, not_listed, unreadable and not_proved; `file` is null
where the folder is meant. The last line holds the totals, {\"classes\", \"right\", \"different\",
\"not_proved\", \"files\", \"bytes\"}.

Exit codes:
    0  nothing differs (with --strict: and every folder is proved)
    1  something differs; it is named
    2  could not run: no such folder, or no class in it
  130  interrupted (SIGINT), 143 terminated (SIGTERM)";

/// What the program does besides jobs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the certificates and tokens of a cluster of several machines, and say what to do with them
    Init(InitArgs),
    /// Check that every file of every class is still what was downloaded
    ///
    /// Compares each class folder with the manifest in it: which files there are, their sizes and their BLAKE3 digests. Only
    /// reads, asks nobody, and may run beside a job. Tars and dot files are not looked at.
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),
}

/// What `coordinator verify` is told.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// Folder with the class folders
    #[arg(long, env = "IMAGENET_TARGET", value_name = "DIR", default_value = ".")]
    pub target: PathBuf,
    /// A folder without a manifest is a failure, too (made by hand or by another tool; a job gives it one once it is proved)
    #[arg(long, env = "IMAGENET_STRICT", value_parser = FalseyValueParser::new())]
    pub strict: bool,
    /// For programs: one JSON object a line
    #[arg(long, env = "IMAGENET_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
}

//! `CalledAs`: the name under which the program was called. It is installed under two names.

use std::{ffi::OsStr, path::Path};

const COORDINATOR_EXAMPLES: &str = "\
Examples:
  See it work, without ImageNet and without a list:
      coordinator --demo
  One machine, 5 downloads at a time, into the current directory:
      coordinator --dev --fname data.csv --workers 5 --delete-tar
  Several workers on this machine, 5 connections in total:
      coordinator --fname data.csv --max-connections 5 --delete-tar
      worker --connect http://127.0.0.1:50051 --target /data/imagenet
  Several machines; it prints the commands for coordinator and workers:
      coordinator init --advertise node1.example.org
  How far is it, and who works for it:
      coordinator status --target /data/imagenet
  Months later, look whether every file is still what was downloaded:
      coordinator verify --target /data/imagenet

Every flag can also be given as the environment variable beside it; the flag wins.";

const DOWNLOADER_ABOUT: &str =
    "Downloads the ImageNet classes of a CSV on this machine, and names what failed.";
const DOWNLOADER_LONG_ABOUT: &str = "\
Downloads the ImageNet classes of a CSV on this machine, and names what failed.

Each class is downloaded once, unpacked while it arrives, and appears under its final name only \
when it is complete. The same command resumes after an interruption; after a finished run it skips \
what is there and retries what failed.

It is `coordinator --dev` of the same package, whose programs `coordinator` and `worker` also \
download on several machines.";
const DOWNLOADER_EXAMPLES: &str = "\
Examples:
  See it work, without ImageNet and without a list:
      imagenet-downloader --demo
  The classes of data.csv into the current directory, tars kept:
      imagenet-downloader
  Another list and folder, 5 downloads at a time, without tars:
      imagenet-downloader --fname my.csv --target /data/imagenet --workers 5 --delete-tar
  How far is it:
      imagenet-downloader status --target /data/imagenet
  Months later, look whether every file is still what was downloaded:
      imagenet-downloader verify --target /data/imagenet

Every flag can also be given as the environment variable beside it; the flag wins.";

/// The name under which the program was called, which is the file name of its first argument.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CalledAs {
    /// `coordinator`, and any other name that is not known.
    #[default]
    Coordinator,
    /// `imagenet-downloader`, the command of the Python package: a job always runs in single-host
    /// mode, as with `--dev`. Subcommands are the same.
    ImagenetDownloader,
}

impl CalledAs {
    /// By the first argument of a command line, which may be a path.
    pub(super) fn of(first_argument: Option<&OsStr>) -> Self {
        let name = first_argument.and_then(|path| Path::new(path).file_name());
        if name == Some(OsStr::new(Self::ImagenetDownloader.name())) {
            Self::ImagenetDownloader
        } else {
            Self::Coordinator
        }
    }

    /// The name, for usage lines, the version, completions and manual pages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::ImagenetDownloader => "imagenet-downloader",
        }
    }

    /// Examples for the end of the help.
    pub(super) const fn examples(self) -> &'static str {
        match self {
            Self::Coordinator => COORDINATOR_EXAMPLES,
            Self::ImagenetDownloader => DOWNLOADER_EXAMPLES,
        }
    }

    /// The command line of the coordinator as this name describes it.
    pub(super) fn describe(self, command: clap::Command) -> clap::Command {
        if self == Self::Coordinator {
            return command;
        }
        command
            .name(self.name())
            .about(DOWNLOADER_ABOUT)
            .long_about(DOWNLOADER_LONG_ABOUT)
            .mut_arg("dev", |dev| {
                dev.help("Download in this process, as always under this name")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_name_of_the_first_argument_decides() {
        for (argument, expected) in [
            (Some("imagenet-downloader"), CalledAs::ImagenetDownloader),
            (
                Some("/opt/venv/bin/imagenet-downloader"),
                CalledAs::ImagenetDownloader,
            ),
            (Some("coordinator"), CalledAs::Coordinator),
            (
                Some("imagenet-downloader/coordinator"),
                CalledAs::Coordinator,
            ),
            (Some("imagenet-downloader.old"), CalledAs::Coordinator),
            (Some(""), CalledAs::Coordinator),
            (None, CalledAs::Coordinator),
        ] {
            assert_eq!(
                CalledAs::of(argument.map(OsStr::new)),
                expected,
                "{argument:?}"
            );
        }
    }
}

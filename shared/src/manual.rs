//! What a program writes about itself for whoever installs it: completions for shells, and manual pages. Both come from its
//! command line as clap knows it, so they say what `--help` says.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Command, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::own_file;

/// Mode of a manual page, of which the process's umask takes away.
const PAGE_MODE: u32 = 0o644;

/// What can be asked for.
#[derive(Debug, Clone, Subcommand)]
pub enum Manual {
    /// Write the completions for a shell to standard output
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the manual pages into a folder, one for the program and one for each of its commands
    Man {
        /// Folder, e.g. /usr/local/share/man/man1; made if it is missing
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Why there is nothing to read; fit to follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ManualError {
    /// Nobody listens.
    #[error("write to standard output: {0}")]
    Say(io::Error),
    /// The folder.
    #[error("write the manual pages into {}: {source}; give a writable folder", dir.display())]
    Pages {
        /// The folder.
        dir: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl ManualError {
    /// The reader of the output has closed it.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Say(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Manual {
    /// Writes what was asked for about a program; completions go to `out`.
    ///
    /// # Errors
    /// [`ManualError`], one sentence that says what to do.
    pub fn write(&self, mut program: Command, out: &mut impl Write) -> Result<(), ManualError> {
        match self {
            Self::Completions { shell } => {
                // Into memory first: the generator panics where it cannot write.
                let (name, mut script) = (program.get_name().to_owned(), Vec::new());
                clap_complete::generate(*shell, &mut program, name, &mut script);
                out.write_all(&script).and_then(|()| out.flush()).map_err(ManualError::Say)
            }
            Self::Man { dir } => {
                let written = std::fs::create_dir_all(dir).and_then(|()| write_pages(program, dir));
                written.map_err(|source| ManualError::Pages { dir: dir.clone(), source })
            }
        }
    }
}

/// One page for the program and one for each of its commands. `clap_mangen::generate_to` would follow
/// a link under the name of a page, which another user may have put into the folder.
fn write_pages(program: Command, dir: &Path) -> io::Result<()> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let mut left = vec![program];
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().filter(|command| !command.is_hide_set()).cloned());
        let page = Man::new(command);
        let mut text = Vec::new();
        page.render(&mut text)?;
        own_file::replace(&dir.join(page.get_filename()), &text, PAGE_MODE)?;
    }
    Ok(())
}

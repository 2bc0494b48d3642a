//! Shell completions and manual pages of a program. Both are generated from clap's definition of
//! the command line, so they agree with `--help`.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Command, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::own_file;

/// Mode of a manual page before the process's umask applies.
const PAGE_MODE: u32 = 0o644;

/// The kinds of output.
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

/// Reasons for which nothing was written; the messages follow "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ManualError {
    /// Standard output cannot be written.
    #[error("write to standard output: {0}")]
    Stdout(io::Error),
    /// The folder or a page cannot be written.
    #[error("write the manual pages into {}: {source}; give a writable folder", dir.display())]
    Pages {
        /// The folder.
        dir: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl ManualError {
    /// Whether the reader of the output has closed it.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Manual {
    /// Writes the requested output for a program. Completions are written to `out`.
    ///
    /// # Errors
    /// [`ManualError`]; its message is one sentence that names the remedy.
    pub fn write(&self, mut program: Command, out: &mut impl Write) -> Result<(), ManualError> {
        match self {
            Self::Completions { shell } => {
                // Generated in memory first, because the generator panics if it cannot write.
                let name = program.get_name().to_owned();
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut program, name, &mut script);
                out.write_all(&script)
                    .and_then(|()| out.flush())
                    .map_err(ManualError::Stdout)
            }
            Self::Man { dir } => {
                let written = std::fs::create_dir_all(dir).and_then(|()| write_pages(program, dir));
                written.map_err(|source| ManualError::Pages {
                    dir: dir.clone(),
                    source,
                })
            }
        }
    }
}

/// Writes one page for the program and one for each of its commands. `clap_mangen::generate_to` is
/// not used: it would follow a symbolic link under the name of a page, which another user may have
/// put into the folder.
fn write_pages(program: Command, dir: &Path) -> io::Result<()> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let mut left = vec![program];
    while let Some(command) = left.pop() {
        left.extend(
            command
                .get_subcommands()
                .filter(|command| !command.is_hide_set())
                .cloned(),
        );
        let page = Man::new(command);
        let mut text = Vec::new();
        page.render(&mut text)?;
        own_file::replace(&dir.join(page.get_filename()), &text, PAGE_MODE)?;
    }
    Ok(())
}

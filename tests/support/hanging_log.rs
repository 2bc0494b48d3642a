//! A log on a disk that hangs, like a network disk whose server is unreachable: a program that
//! opens the log or writes to it blocks in a system call.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    os::unix::fs::symlink,
    path::Path,
};

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};

/// A log whose opening blocks until this is dropped: fanotify asks for a permission that is never
/// given.
#[derive(Debug)]
pub struct HangingOpen {
    _asked: Fanotify,
}

impl HangingOpen {
    /// Creates the log; `None` where this user or this kernel cannot make it block.
    pub fn put_at(log: &Path) -> Option<Self> {
        fs::write(log, "").expect("the folder is ours");
        let watch = Fanotify::init(InitFlags::FAN_CLASS_CONTENT, EventFFlags::O_RDONLY).ok()?;
        watch
            .mark(
                MarkFlags::FAN_MARK_ADD,
                MaskFlags::FAN_OPEN_PERM,
                CWD,
                Some(log),
            )
            .ok()?;
        Some(Self { _asked: watch })
    }
}

/// A log that can be opened and written until [`HangingLog::hang`]: a link to a pipe.
#[derive(Debug)]
pub struct HangingLog(File);

impl HangingLog {
    /// Creates the pipe and the link at the path of a log.
    pub fn put_at(log: &Path) -> Self {
        let pipe = log.with_extension("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .expect("a fifo can be made");
        symlink(&pipe, log).expect("the name is free");
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Self(
            open(&pipe, flags, Mode::empty())
                .expect("a fifo can be opened")
                .into(),
        )
    }

    /// Fills the pipe, so that each later write blocks.
    pub fn hang(&mut self) {
        for piece in [&[b'\n'; 4096][..], b"\n"] {
            loop {
                match self.0.write(piece) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

//! A log on a disk that hangs: a FIFO in its place. A program that opens it before there is a reader, or writes to it
//! once it is full, waits in a system call, as for a network disk whose server is away.

use std::{
    fs::File,
    io::{ErrorKind, Write as _},
    path::Path,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};

/// Has no reader, so a program that opens it hangs.
pub fn hang_when_opened(log: &Path) {
    mknodat(CWD, log, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a fifo can be made");
}

/// A log that can be opened and written until it is made to hang.
#[derive(Debug)]
pub struct HangingLog(File);

impl HangingLog {
    /// Puts it in the place of a log.
    pub fn put_at(log: &Path) -> Self {
        hang_when_opened(log);
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Self(open(log, flags, Mode::empty()).expect("a fifo can be opened").into())
    }

    /// A program that writes to it from now on waits for ever.
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

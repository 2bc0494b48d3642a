//! The resident memory of a process, from Linux's `/proc`.

use std::{fs, io};

/// Resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// The current value.
    pub now: u64,
    /// The maximum since the process began, or since [`reset_peak`].
    pub peak: u64,
}

/// Reads the memory of a process.
///
/// # Errors
/// If there is no such process.
pub fn of(process: u32) -> io::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let bytes = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
        line.and_then(|number| number.trim().parse().ok())
            .map_or(0, |kibibytes: u64| kibibytes << 10)
    };
    Ok(Memory {
        now: bytes("VmRSS:"),
        peak: bytes("VmHWM:"),
    })
}

/// Sets the peak to the current value; see `clear_refs` in proc(5).
///
/// # Errors
/// If the process has ended or belongs to another user.
pub fn reset_peak(process: u32) -> io::Result<()> {
    fs::write(format!("/proc/{process}/clear_refs"), "5")
}

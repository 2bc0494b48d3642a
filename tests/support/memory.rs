//! What a process holds in memory, as Linux tells it.

use std::{fs, io};

/// Resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// At this moment.
    pub now: u64,
    /// The most since the process began, or since [`reset_peak`].
    pub peak: u64,
}

/// What the process holds.
///
/// # Errors
/// When there is no such process.
pub fn of(process: u32) -> io::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
        line.and_then(|number| number.trim().parse().ok()).map_or(0, |kibibytes: u64| kibibytes << 10)
    };
    Ok(Memory { now: bytes("VmRSS:"), peak: bytes("VmHWM:") })
}

/// Lets the peak begin again with what the process holds now; see `clear_refs` in proc(5).
///
/// # Errors
/// When the process is gone, or belongs to another user.
pub fn reset_peak(process: u32) -> io::Result<()> {
    fs::write(format!("/proc/{process}/clear_refs"), "5")
}

//! The frame of both programs: a runtime, and an exit code of ours whatever breaks.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write as _},
    panic::{self, AssertUnwindSafe},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use crate::{
    exit_code::Exit,
    job_line::Screen,
    limits,
    shutdown::{Shutdown, leave_signals_to_their_thread},
    threads,
};

/// Threads that are stuck in a system call have this long to end.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// Threads of the blocking pool, for file work of parts and for names that are looked up. What
/// lives longer has a thread of its own ([`threads`]).
const POOL_THREADS: usize = 128;
/// The pool's threads stay: with one that is idle, a task of the pool never needs a new thread,
/// which may not be had.
const POOL_KEEP_ALIVE: Duration = Duration::from_hours(24 * 365);

/// Runs a program on a runtime of its own. A panic is a program that could not go on; the panic
/// hook has told it. What is queued for the screen is written before it returns, unless the
/// terminal takes nothing.
pub fn run(program: impl AsyncFnOnce(Screen) -> Exit) -> Exit {
    limits::forbid_core_dumps();
    if let Err(error) = leave_signals_to_their_thread() {
        return tell(&cannot_start(&error));
    }
    let screen = match Screen::for_stderr() {
        Ok(screen) => screen,
        Err(error) => return tell(&cannot_start(&error.source)),
    };
    let runtime = match start() {
        Ok(runtime) => runtime,
        Err(error) => return tell(&cannot_start(&error)),
    };
    let program = AssertUnwindSafe(|| runtime.block_on(program(screen.clone())));
    let exit = panic::catch_unwind(program).unwrap_or(Exit::CouldNotRun);
    let ending = Instant::now();
    runtime.shutdown_timeout(LAST_THREADS);
    threads::wait(LAST_THREADS.saturating_sub(ending.elapsed()));
    screen.flush();
    exit
}

/// Prints the help, the version, or what is wrong with the arguments.
pub fn explain(message: &clap::Error) -> Exit {
    match message.print() {
        Err(error) if !message.use_stderr() && error.kind() != ErrorKind::BrokenPipe => {
            tell(&format!("write to standard output: {error}"))
        }
        _ if message.exit_code() == 0 => Exit::Done,
        _ => Exit::CouldNotRun,
    }
}

/// Runs the work of a program, which its signals stop; an error becomes one sentence on the screen.
pub async fn with_signals(
    screen: &Screen,
    shutdown: &Shutdown,
    work: impl Future<Output = Result<Exit, String>>,
) -> Exit {
    let work = async {
        survive_file_size_limit()?;
        work.await
    };
    let (result, first_signal) = match shutdown.on_signals() {
        Ok(first_signal) => (work.await, first_signal.get().copied()),
        Err(error) => (Err(format!("listen for signals: {error}; allow the process more threads and files")), None),
    };
    match result {
        // A signal that came when the work was done changes nothing.
        Ok(Exit::Interrupted) => first_signal.unwrap_or(Exit::Interrupted),
        Ok(exit) => exit,
        Err(error) => {
            screen.write(format!("error: failed to {error}\n").as_bytes());
            Exit::CouldNotRun
        }
    }
}

/// A write beyond the limit on file sizes (`ulimit -f`) is an error from now on; without a handler
/// its signal ends the process. The handler stays until the end.
fn survive_file_size_limit() -> Result<(), String> {
    let installed = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
    installed.map(drop).map_err(|error| format!("listen for signals: {error}"))
}

/// A runtime with a thread in its pool. Where the system has no thread left, tokio panics, and then
/// waits for ever for the threads that it has begun.
#[expect(clippy::exit, reason = "nothing has begun yet, and to unwind would wait for ever")]
fn start() -> io::Result<Runtime> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {
        std::process::exit(tell(&cannot_start(&"the system has no thread left")).code().into());
    }));
    let builder = &mut Builder::new_multi_thread();
    builder.enable_all().max_blocking_threads(POOL_THREADS).thread_keep_alive(POOL_KEEP_ALIVE);
    let runtime = builder.build();
    if let Ok(runtime) = &runtime {
        // It can only fail by a panic.
        runtime.block_on(runtime.spawn_blocking(|| {})).unwrap_or_default();
    }
    panic::set_hook(hook);
    runtime
}

fn cannot_start(why: &dyn Display) -> String {
    format!("start: {why}; allow the process more threads and files")
}

/// An error of a time at which there is no screen.
fn tell(error: &dyn Display) -> Exit {
    // There is nothing else on which it could be told.
    writeln!(io::stderr(), "error: failed to {error}").ok();
    Exit::CouldNotRun
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one test: while a program starts, a panic anywhere in the process is taken for the system's.
    #[test]
    fn a_program_ends_as_its_work_does() {
        assert_eq!(run(async |_| Exit::SomeFailed), Exit::SomeFailed);
        assert_eq!(run(async |_| panic!("part of the test")), Exit::CouldNotRun);
    }
}

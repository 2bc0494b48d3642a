//! The frame of both programs: a runtime, and an exit code of ours whatever breaks.

use std::{
    fmt::Display,
    io::{self, Write as _},
    panic::{self, AssertUnwindSafe},
    time::Duration,
};

use tokio::{runtime::Runtime, sync::oneshot};

use crate::{exit_code::Exit, job_line::Screen, shutdown::Shutdown};

/// Threads that are stuck in a system call have this long to end.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// Runs a program on a runtime of its own. A panic, which the panic hook has told, is a program that could not go on.
pub fn run(program: impl Future<Output = Exit>) -> Exit {
    let runtime = match start() {
        Ok(runtime) => runtime,
        Err(error) => return cannot_start(&error),
    };
    let exit = panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(program))).unwrap_or(Exit::CouldNotRun);
    runtime.shutdown_timeout(LAST_THREADS);
    exit
}

/// Runs the work of a program beside its signals; an error becomes one sentence on the screen.
pub async fn with_signals(
    screen: &Screen,
    shutdown: Shutdown,
    work: impl Future<Output = Result<Exit, String>>,
) -> Exit {
    let (signalled, mut signal) = oneshot::channel();
    let result = tokio::select! {
        result = work => result,
        Err(error) = shutdown.on_signals(signalled) => Err(format!("listen for signals: {error}")),
    };
    match result {
        // A signal that came when the work was done changes nothing.
        Ok(Exit::Interrupted) => signal.try_recv().unwrap_or(Exit::Interrupted),
        Ok(exit) => exit,
        Err(error) => {
            // With standard error closed there is nobody left to tell.
            screen.write(format!("error: failed to {error}\n").as_bytes()).ok();
            Exit::CouldNotRun
        }
    }
}

/// A runtime. Where the system has no thread left, tokio panics, and then waits for ever for the threads that it has begun.
#[expect(clippy::exit, reason = "nothing has begun yet, and to unwind would wait for ever")]
fn start() -> io::Result<Runtime> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {
        std::process::exit(cannot_start(&"the system has no thread left").code().into());
    }));
    let runtime = Runtime::new();
    panic::set_hook(hook);
    runtime
}

fn cannot_start(why: &dyn Display) -> Exit {
    // With standard error closed there is nobody left to tell.
    writeln!(io::stderr(), "error: failed to start: {why}; allow the process more threads and files").ok();
    Exit::CouldNotRun
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_panics_could_not_go_on() {
        assert_eq!(run(async { Exit::SomeFailed }), Exit::SomeFailed);
        assert_eq!(run(async { panic!("part of the test") }), Exit::CouldNotRun);
    }
}

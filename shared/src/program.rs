//! The frame of both programs: a runtime, and an exit code of ours whatever breaks.

use std::{
    fmt::Display,
    io::{self, Write as _},
    panic::{self, AssertUnwindSafe},
    time::Duration,
};

use tokio::runtime::{Builder, Runtime};

use crate::{exit_code::Exit, job_line::Screen, shutdown::Shutdown};

/// Threads that are stuck in a system call have this long to end.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// Threads for what would block: one for each download that may run at once (`--workers`), and as many again for all else.
const BLOCKING_THREADS: usize = 2000;

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

/// Runs the work of a program, which its signals stop; an error becomes one sentence on the screen.
pub async fn with_signals(
    screen: &Screen,
    shutdown: &Shutdown,
    work: impl Future<Output = Result<Exit, String>>,
) -> Exit {
    let (result, first_signal) = match shutdown.on_signals() {
        Ok(first_signal) => (work.await, first_signal.get().copied()),
        Err(error) => (Err(format!("listen for signals: {error}; allow the process more threads and files")), None),
    };
    match result {
        // A signal that came when the work was done changes nothing.
        Ok(Exit::Interrupted) => first_signal.unwrap_or(Exit::Interrupted),
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
    let runtime = Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build();
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
    use std::sync::{Arc, Barrier};

    use tokio::{task::spawn_blocking, time::timeout};

    use super::*;

    /// In one test: while a program starts, a panic anywhere in the process is taken for the system's.
    #[test]
    fn a_program_ends_as_its_work_does() {
        assert_eq!(run(async { Exit::SomeFailed }), Exit::SomeFailed);
        assert_eq!(run(async { panic!("part of the test") }), Exit::CouldNotRun);
        // As many downloads as there may be leave threads for the rest.
        let all_at_once = async {
            let all = Arc::new(Barrier::new(1000 + 1));
            for _ in 0..1000 {
                let all = Arc::clone(&all);
                spawn_blocking(move || all.wait());
            }
            let last = spawn_blocking(move || all.wait());
            timeout(Duration::from_secs(30), last).await.map_or(Exit::CouldNotRun, |_| Exit::Done)
        };
        assert_eq!(run(all_at_once), Exit::Done);
    }
}

//! Common frame of both programs: the async runtime, and a defined exit code after any failure.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write as _},
    panic::{self, AssertUnwindSafe},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    time::Instant,
};

use crate::{
    exit_code::Exit,
    job_line::Screen,
    limits,
    output_args::OutputArgs,
    shutdown::{Shutdown, block_signals},
    threads,
};

/// Time to wait at the end for threads that are blocked in a system call.
const THREAD_TIMEOUT: Duration = Duration::from_secs(1);

/// Threads of the blocking pool, for file work of parts and for name resolution. Work of longer
/// duration has threads of its own ([`threads`]).
const POOL_THREADS: usize = 128;
/// The pool keeps its threads. With one idle thread, a task of the pool never needs a new thread,
/// which the system might refuse.
const POOL_KEEP_ALIVE: Duration = Duration::from_hours(24 * 365);

/// Runs a program on its own runtime. A panic, which the panic hook has reported, ends it as
/// [`Exit::CouldNotRun`]. Everything queued for the screen is written before this returns, unless
/// the terminal accepts nothing.
pub fn run(output: OutputArgs, program: impl AsyncFnOnce(Screen) -> Exit) -> Exit {
    limits::forbid_core_dumps();
    let (screen, runtime) = match start(output) {
        Ok(started) => started,
        Err(error) => return report(&cannot_start(&error)),
    };
    let program = AssertUnwindSafe(|| runtime.block_on(program(screen.clone())));
    let exit = panic::catch_unwind(program).unwrap_or(Exit::CouldNotRun);
    let ending = Instant::now();
    runtime.shutdown_timeout(THREAD_TIMEOUT);
    threads::wait(THREAD_TIMEOUT.saturating_sub(ending.elapsed()));
    screen.clear();
    screen.flush();
    exit
}

/// Prints the help, the version, or the error in the arguments.
pub fn explain(message: &clap::Error) -> Exit {
    match message.print() {
        Err(error) if !message.use_stderr() && error.kind() != ErrorKind::BrokenPipe => {
            report(&format!("write to standard output: {error}"))
        }
        _ if message.exit_code() == 0 => Exit::Done,
        _ => Exit::CouldNotRun,
    }
}

/// Runs the work of a program, which signals stop. Prints an error as one sentence on the screen.
pub async fn with_signals(
    screen: &Screen,
    shutdown: &Shutdown,
    work: impl Future<Output = Result<Exit, String>>,
) -> Exit {
    let result = match shutdown.on_signals() {
        Ok(first_signal) => work.await.map(|exit| match exit {
            // A signal that was received after the work was done has no effect.
            Exit::Interrupted => first_signal.get().copied().unwrap_or(exit),
            exit => exit,
        }),
        Err(error) => Err(format!(
            "listen for signals: {error}; allow the process more threads and files"
        )),
    };
    result.unwrap_or_else(|error| {
        screen.write_error(&format!("error: failed to {error}"));
        Exit::CouldNotRun
    })
}

/// Starts the screen and a runtime.
fn start(output: OutputArgs) -> io::Result<(Screen, Runtime)> {
    block_signals()?;
    let screen = Screen::for_stderr(output).map_err(|error| error.source)?;
    Ok((screen, start_runtime()?))
}

/// Starts a runtime with one thread in its pool. If the system refuses a thread, tokio panics and
/// then waits forever for the threads that it has started, so the panic hook exits.
#[expect(
    clippy::exit,
    reason = "nothing has begun yet, and to unwind would wait for ever"
)]
fn start_runtime() -> io::Result<Runtime> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {
        let exit = report(&cannot_start(&"the system has no thread left"));
        std::process::exit(exit.code().into());
    }));
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(POOL_THREADS)
        .thread_keep_alive(POOL_KEEP_ALIVE)
        .build();
    if let Ok(runtime) = &runtime {
        // The task can fail only by a panic.
        runtime
            .block_on(runtime.spawn_blocking(|| {}))
            .unwrap_or_default();
    }
    panic::set_hook(hook);
    runtime
}

fn cannot_start(why: &dyn Display) -> String {
    format!("start: {why}; allow the process more threads and files")
}

/// Reports an error before the screen exists.
fn report(error: &dyn Display) -> Exit {
    // If standard error fails, the error cannot be reported elsewhere.
    writeln!(io::stderr(), "error: failed to {error}").ok();
    Exit::CouldNotRun
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one test: while a program starts, a panic anywhere in the process counts as a refused
    /// thread.
    #[test]
    fn a_program_exits_as_its_work_does_and_with_an_error_after_a_panic() {
        assert_eq!(
            run(OutputArgs::default(), async |_| Exit::SomeFailed),
            Exit::SomeFailed
        );
        assert_eq!(
            run(OutputArgs::default(), async |_| panic!("part of the test")),
            Exit::CouldNotRun
        );
    }
}

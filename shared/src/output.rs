//! Output that never blocks a job: a separate thread writes queued text to a terminal, a pipe or a
//! log file.
//!
//! Callers queue text and continue; they neither wait nor get an error. The queue has a limit: text
//! beyond it is dropped and counted, like text that could not be written. A line with the count is
//! written in the place of the missing text.

use std::{
    io::{self, ErrorKind, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::{
    lock::lock,
    threads::{self, NoThread},
};

/// Maximum number of queued bytes: about 190 for each of the 21,843 classes of the largest known
/// list.
const QUEUE_LIMIT: usize = 4 << 20;
/// With more queued bytes a frame of the block is dropped, because a newer one follows.
const FRAME_LIMIT: usize = 64 << 10;
/// Maximum number of bytes in one call of `write`, so that a slow terminal shows progress. At most
/// `PIPE_BUF`, and ending at a line end if possible, so that the lines of several programs on one
/// pipe are not mixed.
const CHUNK: usize = 4096;
/// Delay before the next attempt on a non-blocking descriptor that is full.
const RETRY_DELAY: Duration = Duration::from_millis(20);
/// Time that [`Output::flush`] waits for a terminal or a pipe that accepts nothing.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// A queue of text and the thread that writes it. Clones share both; the thread ends after the last
/// clone is dropped.
#[derive(Debug, Clone)]
pub struct Output(Arc<CloseOnDrop>);

/// Closes the queue when the last handle is dropped.
#[derive(Debug)]
struct CloseOnDrop(Arc<Queue>);

/// The queue that handles and thread share.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

/// Content of the queue and progress of the thread.
#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Number of lines that were dropped because the queue was full.
    dropped: u64,
    is_closed: bool,
    is_writing: bool,
    /// Number of completed calls of `write`.
    steps: u64,
    /// The value of `steps` at which a flush timed out.
    stuck_at: Option<u64>,
    /// The first error since the last flush.
    error: Option<io::Error>,
}

impl Output {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// [`NoThread`].
    pub fn start(name: &str, sink: impl Write + Send + 'static) -> Result<Self, NoThread> {
        Self::reporting(name, sink, |_| {})
    }

    /// As [`Output::start`]; `report` is called with the first error, and again with the first one
    /// after text was written.
    ///
    /// # Errors
    /// [`NoThread`].
    pub fn reporting(
        name: &str,
        sink: impl Write + Send + 'static,
        report: impl Fn(&io::Error) + Send + 'static,
    ) -> Result<Self, NoThread> {
        let queue = Arc::<Queue>::default();
        let writer = Writer {
            queue: Arc::clone(&queue),
            sink: Retrying(sink),
            report,
            missing: MissingLines::default(),
        };
        threads::spawn(name, move || writer.run())?;
        Ok(Self(Arc::new(CloseOnDrop(queue))))
    }

    fn queue(&self) -> &Queue {
        &self.0.0
    }

    /// Queues whole lines.
    pub fn write(&self, text: &[u8]) {
        self.write_or_count(text, text);
    }

    /// Queues a text as a whole. If the queue is full, it is dropped, and the lines of `counted`
    /// are reported as missing: the rest are frames of the block, which are drawn again.
    pub(crate) fn write_or_count(&self, text: &[u8], counted: &[u8]) {
        if !self.queue_within(QUEUE_LIMIT, text) {
            self.queue().lock().dropped += lines(counted);
        }
    }

    /// Queues a frame of the block; returns whether it was queued. It is not if much is queued
    /// already, because a later frame replaces it. The last frame is queued as long as there is
    /// room.
    pub(crate) fn write_frame(&self, frame: &[u8], is_last: bool) -> bool {
        let limit = if is_last {
            QUEUE_LIMIT
        } else {
            FRAME_LIMIT + frame.len()
        };
        self.queue_within(limit, frame)
    }

    /// Queues a text if at most `limit` bytes are queued afterwards.
    fn queue_within(&self, limit: usize, text: &[u8]) -> bool {
        let mut state = self.queue().lock();
        let fits = state.waiting.len() + text.len() <= limit;
        if fits {
            state.waiting.extend_from_slice(text);
            self.queue().changed.notify_all();
        }
        fits
    }

    /// Waits until everything queued is written, as long as the sink accepts bytes within three
    /// seconds. A second flush of a sink that still accepts nothing does not wait.
    ///
    /// # Errors
    /// The first error since the last flush; `TimedOut` if the sink accepts nothing.
    pub fn flush(&self) -> io::Result<()> {
        self.flush_within(FLUSH_TIMEOUT)
    }

    /// As [`Output::flush`], with another time than three seconds.
    pub(crate) fn flush_within(&self, limit: Duration) -> io::Result<()> {
        let queue = self.queue();
        let mut state = queue.lock();
        while state.is_busy() {
            let seen = state.steps;
            if state.stuck_at == Some(seen) {
                let why = "the reader takes nothing";
                return Err(io::Error::new(ErrorKind::TimedOut, why));
            }
            let is_stuck = |state: &mut State| state.is_busy() && state.steps == seen;
            let waited = queue.changed.wait_timeout_while(state, limit, is_stuck);
            let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = now;
            if timeout.timed_out() {
                state.stuck_at = Some(seen);
            }
        }
        state.error.take().map_or(Ok(()), Err)
    }
}

impl Write for &Output {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        Output::write(self, text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Output::flush(self)
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl State {
    fn is_busy(&self) -> bool {
        self.is_writing || !self.waiting.is_empty()
    }
}

impl Queue {
    /// A panic while the lock is held leaves valid numbers and bytes, so poisoning is ignored.
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits for text. Returns it with the number of lines that were dropped; `None` if everything
    /// is written and no handle is left.
    fn take(&self) -> Option<(Vec<u8>, u64)> {
        let has_nothing = |state: &mut State| state.waiting.is_empty() && !state.is_closed;
        let waited = self.changed.wait_while(self.lock(), has_nothing);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.waiting.is_empty() {
            return None;
        }
        state.is_writing = true;
        state.steps += 1;
        let dropped = mem::take(&mut state.dropped);
        Some((mem::take(&mut state.waiting), dropped))
    }

    fn step(&self) {
        self.lock().steps += 1;
        self.changed.notify_all();
    }

    fn written(&self, result: io::Result<()>) {
        let mut state = self.lock();
        state.is_writing = false;
        state.steps += 1;
        if let Err(error) = result {
            state.error.get_or_insert(error);
        }
        self.changed.notify_all();
    }
}

/// State of the writing thread.
struct Writer<W, R> {
    queue: Arc<Queue>,
    sink: Retrying<W>,
    report: R,
    missing: MissingLines,
}

/// The lines that are missing in the sink.
#[derive(Default)]
struct MissingLines {
    lines: u64,
    /// Whether the sink ends in the middle of a line.
    is_cut: bool,
    /// Error of the last write, if it failed. It was reported.
    error_text: Option<String>,
}

impl<W: Write, R: Fn(&io::Error)> Writer<W, R> {
    fn run(mut self) {
        while let Some((text, dropped)) = self.queue.take() {
            let note = self.missing.note();
            let whole = [note.as_bytes(), &text, dropped_note(dropped).as_bytes()].concat();
            let (written, result) = self.write(&whole);
            if let Some(last) = whole[..written].last() {
                self.missing.is_cut = *last != b'\n';
            }
            match &result {
                Ok(()) => self.missing = MissingLines::default(),
                Err(error) => {
                    let of_text = written.saturating_sub(note.len());
                    if written >= note.len() {
                        self.missing.lines = 0;
                    }
                    self.missing.lines += lines(text.get(of_text..).unwrap_or_default()) + dropped;
                    if self.missing.error_text.replace(error.to_string()).is_none() {
                        (self.report)(error);
                    }
                }
            }
            self.queue.written(result);
        }
    }

    /// Writes in chunks. Returns the number of bytes that were written, also after an error.
    fn write(&mut self, text: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < text.len() {
            match self.sink.write(chunk(&text[written..])) {
                Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
                Ok(more) => written += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
            self.queue.step();
        }
        (written, self.sink.flush())
    }
}

impl MissingLines {
    /// The line to write in the place of missing lines; empty if none are missing.
    fn note(&self) -> String {
        let Some(error_text) = &self.error_text else {
            return String::new();
        };
        let end_of_line = if self.is_cut { "\n" } else { "" };
        format!(
            "{end_of_line}(lines that could not be written here: {}; {error_text})\n",
            self.lines
        )
    }
}

/// The line to write in the place of lines that were dropped; empty if none were.
fn dropped_note(dropped: u64) -> String {
    if dropped == 0 {
        return String::new();
    }
    format!("(lines that were dropped here: {dropped}; the reader was too slow)\n")
}

/// Retries on a descriptor that another program has made non-blocking, e.g. a terminal that both
/// share.
#[derive(Debug)]
pub struct Retrying<W>(pub W);

impl<W: Write> Write for Retrying<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        retry(|| self.0.write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        retry(|| self.0.flush())
    }
}

fn retry<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_DELAY),
            done => return done,
        }
    }
}

/// The first bytes of a text, up to a line end if there is one.
fn chunk(text: &[u8]) -> &[u8] {
    let longest = &text[..text.len().min(CHUNK)];
    let end = longest
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(longest.len(), |at| at + 1);
    &longest[..end]
}

fn lines(text: &[u8]) -> u64 {
    let ends = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    ends.count() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A sink that sends each write to the test and returns the result that the test provides.
    struct Scripted {
        writes: Sender<String>,
        answers: Receiver<io::Result<usize>>,
    }

    impl Write for Scripted {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.writes
                .send(String::from_utf8_lossy(text).into_owned())
                .ok();
            self.answers
                .recv()
                .unwrap_or(Ok(text.len()))
                .map(|written| written.min(text.len()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scripted() -> (Output, Receiver<String>, Sender<io::Result<usize>>) {
        let (writes, written) = channel();
        let (answer, answers) = channel();
        (
            Output::start("test", Scripted { writes, answers }).unwrap(),
            written,
            answer,
        )
    }

    const ALL: io::Result<usize> = Ok(usize::MAX);

    #[test]
    fn lines_that_cannot_be_written_are_counted_where_they_are_missing() {
        let (output, written, answer) = scripted();
        answer.send(Err(ErrorKind::StorageFull.into())).unwrap();
        output.write(b"one\ntwo\n");
        assert_eq!(output.flush().unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(written.recv().unwrap(), "one\ntwo\n");
        // The sink accepts four bytes of the note, and nothing of the rest.
        answer.send(Ok(4)).unwrap();
        answer.send(Err(ErrorKind::StorageFull.into())).unwrap();
        output.write(b"three\n");
        assert!(output.flush().is_err());
        (0..2).for_each(|_| drop(written.recv().unwrap()));
        answer.send(ALL).unwrap();
        output.write(b"four\n");
        output.flush().unwrap();
        let note = "\n(lines that could not be written here: 3; no storage space)\nfour\n";
        assert_eq!(written.recv().unwrap(), note);
        answer.send(ALL).unwrap();
        output.write(b"five\n");
        output.flush().unwrap();
        assert_eq!(written.recv().unwrap(), "five\n");
    }

    #[test]
    fn the_first_error_is_reported_and_the_first_after_a_success() {
        let (reports, reported) = channel();
        let (writes, _written) = channel();
        let (answer, answers) = channel();
        let report = move |error: &io::Error| reports.send(error.kind()).unwrap();
        let output = Output::reporting("test", Scripted { writes, answers }, report).unwrap();
        for result in [
            Err(ErrorKind::StorageFull),
            Err(ErrorKind::StorageFull),
            Ok(usize::MAX),
            Err(ErrorKind::BrokenPipe),
        ] {
            answer.send(result.map_err(io::Error::from)).unwrap();
            output.write(b"line\n");
            output.flush().ok();
        }
        drop(output);
        assert_eq!(
            reported.iter().collect::<Vec<_>>(),
            [ErrorKind::StorageFull, ErrorKind::BrokenPipe]
        );
    }

    #[test]
    fn a_blocked_sink_blocks_no_caller_and_the_queue_is_bounded() {
        let (output, written, answer) = scripted();
        output.write(b"first\n");
        assert_eq!(written.recv().unwrap(), "first\n");
        // From here on the thread is blocked in its write.
        let line = [&[b'x'; 999][..], b"\n"].concat();
        (0..QUEUE_LIMIT / line.len() + 7).for_each(|_| output.write(&line));
        assert!(!output.write_frame(b"a frame", false));
        let late = output.flush_within(Duration::from_millis(10)).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::TimedOut);
        drop(answer);
        let next = written.recv().unwrap();
        output.flush().unwrap();
        let text: String = [next].into_iter().chain(written.try_iter()).collect();
        assert!(
            text.len() <= QUEUE_LIMIT + 100 && !text.contains("a frame"),
            "{}",
            text.len()
        );
        assert!(text.ends_with("x\n(lines that were dropped here: 7; the reader was too slow)\n"));
    }

    #[test]
    fn a_flush_waits_for_a_slow_sink_that_makes_progress() {
        let (output, _written, answer) = scripted();
        let step = Duration::from_millis(400);
        output.write(&b"x\n".repeat(CHUNK * 2));
        let slow = thread::spawn(move || {
            for _ in 0..4 {
                thread::sleep(step / 2);
                answer.send(ALL).unwrap();
            }
        });
        output.flush_within(step).unwrap();
        slow.join().unwrap();
    }

    #[test]
    fn a_descriptor_that_is_full_and_non_blocking_is_tried_again() {
        let (output, written, answer) = scripted();
        answer.send(Err(ErrorKind::WouldBlock.into())).unwrap();
        answer.send(Err(ErrorKind::Interrupted.into())).unwrap();
        answer.send(ALL).unwrap();
        output.write(b"line\n");
        output.flush().unwrap();
        assert_eq!(written.try_iter().collect::<Vec<_>>(), ["line\n"; 3]);
    }

    #[test]
    fn a_long_text_is_split_between_lines() {
        let text = [&[b'x'; 3000][..], b"\n", &[b'y'; 3000], b"\n"].concat();
        assert_eq!(chunk(&text).len(), 3001);
        assert_eq!(chunk(&[b'x'; 5000]).len(), CHUNK);
        assert_eq!(chunk(b"a\nb"), b"a\n");
    }
}

"""One batch from its start to its end: waits for it in slices, so that Python's signal handlers run
in between, and passes on progress and log."""

import collections
import contextlib
import math
import os
import time
from collections.abc import Callable

from . import _display, _exit, _log  # noqa: F401
from ._native import Batch
from ._options import Options
from ._stats import ClassUnderWay, Failure, Progress, Stats

#: Longest wait without a look at signals, in seconds.
_POLL_INTERVAL = 0.05
#: Shortest time between two updates, in seconds: with the first and the last one that come between,
#: at most ten a second.
_UPDATE_INTERVAL = 0.125
#: Time for log lines in one update, and after an exception, in seconds: a handler may be slow.
_LOG_LIMIT = 0.05
#: Longest wait for a batch that stops, in seconds. It stops within milliseconds, unless the disk
#: does not answer: then the exception does not wait for it.
_STOP_LIMIT = 0.15

#: The batches whose calls have not returned.
_running: set["Run"] = set()


class Run:
    """A batch, and the display of its progress."""

    def __init__(
        self,
        part_ids: list[str],
        target: str,
        options: Options,
        progress: bool | Callable[[Progress], object] | None,
    ) -> None:
        self._part_ids = part_ids
        self._target = target
        self._options = options
        self._progress = progress
        self._display = _display.Display()
        self._batch = Batch()
        #: Log lines that were taken from the queue and not passed on yet.
        self._lines: collections.deque[_log.Line] = collections.deque()
        self._last_update = -_UPDATE_INTERVAL

    def run(self) -> Stats:
        """Waits for the end in this thread. After an exception (of a signal handler, or of the
        function that gets the progress) the batch stops at its checkpoints first. If it cannot
        within `_STOP_LIMIT`, it stops in the background; its lock on the target lets the next call
        wait."""
        stats = None
        try:
            try:
                self._start()
                while not self._batch.wait(_POLL_INTERVAL):
                    self._update()
            except BaseException:
                until = self._stop()
                while time.monotonic() < until and not self._batch.wait(_POLL_INTERVAL):
                    pass
                raise
            stats = self._result()
        finally:
            self._close(stats)
        return stats

    async def run_async(self) -> Stats:
        """As `run`, in an event loop."""
        import asyncio

        stats = None
        try:
            try:
                self._start()
                while not self._batch.wait(0):
                    self._update()
                    await asyncio.sleep(_POLL_INTERVAL)
            except GeneratorExit:
                # The coroutine is closed and must not wait.
                self._stop()
                raise
            except BaseException:
                until = self._stop()
                while time.monotonic() < until and not self._batch.wait(0):
                    await asyncio.sleep(_POLL_INTERVAL / 5)
                raise
            stats = self._result()
        finally:
            self._close(stats)
        return stats

    def _stop(self) -> float:
        """Stops the batch, and returns the time at which a wait for it must end."""
        self._batch.cancel()
        return time.monotonic() + _STOP_LIMIT

    def _start(self) -> None:
        self._display = _display.select_display(
            self._progress, self._target, self._options.num_workers, self._batch
        )
        options = self._options._replace(
            draws=self._display.draws, log_level=min(_log.level(), self._display.log_level)
        )
        _running.add(self)
        self._batch.start(self._part_ids, self._target, options)

    def _result(self) -> Stats:
        counts = self._batch.result()
        last = self._latest()
        if last is not None:
            self._display.update(last)
        return Stats(
            counts.success,
            counts.skipped,
            counts.failed,
            tuple(Failure(*failure) for failure in counts.failures),
            counts.duplicates,
            counts.files,
        )

    def _update(self) -> None:
        """Passes on the log, and the latest progress if it is new and an update is due."""
        self._pass_log(_LOG_LIMIT)
        if time.monotonic() - self._last_update < _UPDATE_INTERVAL:
            return
        latest = self._latest()
        if latest is not None:
            self._display.update(latest)
            # A function that took long is not called again at once.
            self._last_update = time.monotonic()

    def _latest(self) -> Progress | None:
        state = self._batch.state()
        if state is None:
            return None
        return Progress(
            total=state.total,
            success=state.success,
            skipped=state.skipped,
            failed=state.failed,
            received_bytes=state.received_bytes,
            classes=tuple(ClassUnderWay(*one) for one in state.classes),
        )

    def _pass_log(self, seconds: float) -> None:
        """Passes on queued lines, for about so many seconds; the next call goes on there."""
        if not self._lines:
            self._lines.extend(_log.take())
        if not self._lines:
            return
        until = time.monotonic() + seconds
        hides, shows = _log.may_write_to_terminal(), not _log.handlers()
        with _display.hidden_block() if hides else contextlib.nullcontext():
            while self._lines and time.monotonic() < until:
                level, _, text = line = self._lines.popleft()
                _log.emit([line])
                if shows and level >= _log.WARNING:
                    self._warn([text])

    def _pass_last_log(self, has_result: bool) -> None:
        """Passes on the rest; after an exception only for a short time, and says what is left."""
        if has_result:
            # First the lines that were taken, then those in the queue.
            self._pass_log(math.inf)
            self._pass_log(math.inf)
            return
        self._pass_log(_LOG_LIMIT)
        if not self._lines:
            return
        left = len(self._lines)
        self._lines.clear()
        if _running <= {self}:
            left += len(_log.take())
        text = f"{left} log lines are missing here: the call ended before they were passed on"
        self._lines.append((_log.WARNING, time.time(), text))
        self._pass_log(math.inf)

    def _warn(self, warnings: list[str]) -> None:
        """Shows warnings. The log is that of the process, so a batch that shows none leaves them
        to one that does."""
        runs = (self, *tuple(_running))
        shown_by = next((run for run in runs if run._display.log_level <= _log.WARNING), None)
        if shown_by is not None:
            shown_by._display.warn(warnings)

    def _close(self, stats: Stats | None) -> None:
        """Ends the batch if it still runs, and its display, whatever fails meanwhile."""
        try:
            # A signal may have come before `_stop` had cancelled it.
            self._batch.cancel()
            self._pass_last_log(stats is not None)
        finally:
            _running.discard(self)
            try:
                # Also if a signal has come between the choice of the display and its assignment.
                _display.release(self._batch)
            finally:
                self._display.close(stats)


# The batches of a parent do not run in its child.
os.register_at_fork(after_in_child=_running.clear)

"""How the progress is shown: chosen once at the start of a batch."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from ._native import Batch
from ._stats import Progress, Stats

#: Time between two plain lines, in seconds.
_LINE_INTERVAL = 10.0
#: A log level above all others.
_OFF = 255
_WARNING = 30


class _Terminal:
    """The terminal on standard error, on which one batch at a time draws."""

    def __init__(self) -> None:
        #: Held while something is written between the lines that are drawn.
        self._writing = threading.RLock()
        self._drawing: Batch | None = None
        #: Whether the call of that batch has returned: its block stays hidden.
        self._is_released = False
        #: Number of nested `hidden_block`; the outermost one shows the block again.
        self._depth = 0

    def acquire(self, batch: Batch) -> bool:
        """Gives the terminal to a batch; returns whether it was free. It is not while a batch
        whose call has returned still stops."""
        with self._writing:
            if self._is_released and self._drawing is not None and self._drawing.wait(0):
                self._drawing = None
            is_free = self._drawing is None
            if is_free:
                self._drawing, self._is_released = batch, False
            return is_free

    def release(self, batch: Batch) -> None:
        """Removes for good what a batch draws. Does nothing if another batch has the terminal."""
        with self._writing:
            if self._drawing is not batch:
                return
            self._is_released = True
            try:
                batch.hide()
            finally:
                if batch.wait(0):
                    self._drawing = None

    @contextlib.contextmanager
    def hidden_block(self) -> Iterator[None]:
        """Removes meanwhile what a batch draws, so that lines can be written."""
        with self._writing:
            self._depth += 1
            try:
                if self._depth == 1 and self._drawing is not None:
                    self._drawing.hide()
                yield
            finally:
                self._depth -= 1
                if self._depth == 0 and self._drawing is not None and not self._is_released:
                    self._drawing.show()


_terminal = _Terminal()


def _forget_terminal() -> None:
    """In a forked child: what its parent draws, and a lock that another thread holds."""
    global _terminal
    _terminal = _Terminal()


os.register_at_fork(after_in_child=_forget_terminal)


def hidden_block() -> contextlib.AbstractContextManager[None]:
    """Removes meanwhile what a batch draws on the terminal, so that lines can be written."""
    return _terminal.hidden_block()


def release(batch: Batch) -> None:
    """Removes for good what a batch draws on the terminal, if it has it."""
    _terminal.release(batch)


class Display:
    """Shows nothing; the others are subclasses."""

    #: Whether the native module draws on the terminal.
    draws = False
    #: The least important level of log lines that are shown where no handler gets them.
    log_level = _OFF

    def update(self, progress: Progress) -> None:
        """Shows a new state."""

    def warn(self, warnings: list[str]) -> None:
        """Shows warnings, each one line."""

    def close(self, stats: Stats | None) -> None:
        """Ends the display; without a result if the batch did not run to its end."""


class Callback(Display):
    """Passes each state to a function."""

    def __init__(self, function: Callable[[Progress], object]) -> None:
        self._function = function

    def update(self, progress: Progress) -> None:
        self._function(progress)


class Lines(Display):
    """Writes a line at the start, one every few seconds, and one at the end."""

    log_level = _WARNING

    def __init__(self, output: TextIO, target: str, num_workers: int) -> None:
        self._output = output
        self._where = f"into {target}, {num_workers} at a time"
        self._begun = self._last = time.monotonic()
        self._has_begun = False

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        if not self._has_begun:
            self._has_begun = True
            self._write(f"{_classes(progress.total)} {self._where}")
        elif now - self._last >= _LINE_INTERVAL:
            self._last = now
            self._write(f"{_counts(progress)}, {_size(progress.received_bytes)}")

    def warn(self, warnings: list[str]) -> None:
        for warning in warnings:
            self._write(f"WARN {warning}")

    def close(self, stats: Stats | None) -> None:
        seconds = time.monotonic() - self._begun
        if stats is not None:
            self._write(f"{_counts(stats)}, in {seconds:.1f} s")

    def _write(self, line: str) -> None:
        # No output ends a download, whatever it is: a program may replace `sys.stderr`.
        with hidden_block(), contextlib.suppress(Exception):
            print(line, file=self._output, flush=True)


class Bars(Lines):
    """The native module draws the downloads on the terminal; the last line stays."""

    draws = True

    def update(self, progress: Progress) -> None:
        pass


class Tqdm(Display):
    """One bar of `tqdm` for the classes, with the failures behind it."""

    log_level = _WARNING

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._bar: Any = None

    def update(self, progress: Progress) -> None:
        # No output ends a download.
        with contextlib.suppress(Exception):
            self._draw(progress)

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = self._tqdm(total=progress.total, unit="class", mininterval=0)
        self._bar.n = progress.success + progress.skipped + progress.failed
        received = _size(progress.received_bytes)
        self._bar.set_postfix_str(f"{progress.failed} failed, {received}", refresh=False)
        self._bar.refresh()

    def warn(self, warnings: list[str]) -> None:
        for warning in warnings:
            with contextlib.suppress(Exception):
                self._tqdm.write(f"WARN {warning}", file=sys.stderr)

    def close(self, stats: Stats | None) -> None:
        if self._bar is not None:
            with contextlib.suppress(Exception):
                self._bar.close()


def select_display(
    progress: bool | Callable[[Progress], object] | None,
    target: str,
    num_workers: int,
    batch: Batch,
) -> Display:
    """The display of a batch for the value of the parameter `progress`."""
    if callable(progress):
        return Callback(progress)
    if progress is None or progress is False:
        return Display()
    if progress is not True:
        raise TypeError(
            f"progress must be True, False, None or a function, not {type(progress).__name__}"
        )
    output = getattr(sys, "stderr", None)
    if output is None:
        return Display()
    if _is_notebook():
        try:
            from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            pass
        else:
            return Tqdm(tqdm)
    if _is_terminal(output) and _terminal.acquire(batch):
        return Bars(output, target, num_workers)
    return Lines(output, target, num_workers)


def _is_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    get_shell = getattr(ipython, "get_ipython", None)
    shell = get_shell() if callable(get_shell) else None
    return getattr(shell, "kernel", None) is not None


def _is_terminal(output: TextIO) -> bool:
    """Whether it is the terminal on which the native module draws."""
    try:
        return output.isatty() and output.fileno() == 2
    except Exception:
        return False


def _counts(counts: Progress | Stats) -> str:
    parts = [f"{counts.success} done"]
    parts += [
        f"{count} {word}"
        for count, word in ((counts.skipped, "skipped"), (counts.failed, "failed"))
        if count
    ]
    return ", ".join([*parts, f"of {_classes(counts.total)}"])


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"

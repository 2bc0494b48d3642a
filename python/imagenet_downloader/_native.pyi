"""The native module: runs a batch on threads of its own. Not part of the package's interface."""

import os
from typing import Final, final

from ._options import Options

__all__ = [
    "Batch",
    "Counts",
    "Snapshot",
    "end",
    "load_part_ids_from_csv",
    "take_log",
    "DEFAULT_URL",
    "VERSION",
]

DEFAULT_URL: Final[str]
VERSION: Final[str]

def load_part_ids_from_csv(csv_path: str | os.PathLike[str]) -> tuple[list[str], str | None]:
    """Reads the ids of a CSV file with a `wnid` column; returns them, and the warning about rows
    that are left out.

    Raises:
        CsvError: the file cannot be read, or has no ids.
    """

def take_log() -> tuple[list[tuple[int, float, str]], int]:
    """Takes the log lines since the last call (level as in `logging`, seconds since 1970, text),
    and the number of those that did not fit into the queue."""

def end() -> None:
    """Stops all batches, and waits until no thread is in a call of this module, at most a second.
    Afterwards, calls that would wait raise `SystemExit`. For `atexit`."""

@final
class Snapshot:
    """The progress of a batch."""

    @property
    def total(self) -> int: ...
    @property
    def success(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def received_bytes(self) -> int: ...
    @property
    def classes(self) -> list[tuple[str, int, int | None]]:
        """The classes under way, each with its id, position and length in bytes."""

@final
class Counts:
    """The result of a batch that has run to its end."""

    @property
    def success(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def files(self) -> int: ...
    @property
    def failures(self) -> list[tuple[str, str, str, int]]:
        """Id, kind, reason and attempts of each failure."""

@final
class Batch:
    """A batch that runs on threads of its own. It is cancelled when it is dropped.

    Every method raises `ForkError` in a process that was forked from that of the batch.
    """

    def __new__(cls) -> Batch:
        """A batch that is not started, so that its caller has it before it runs."""

    def start(
        self, part_ids: list[str], target_path: str | os.PathLike[str], options: Options
    ) -> None:
        """Starts the batch. Can be called once.

        Raises:
            ForkError: a parent of this process has begun a batch before it was forked.
        """

    def wait(self, seconds: float) -> bool:
        """Waits for the end without the interpreter lock, at most for so many seconds; returns
        whether the batch has ended or was not started."""

    def state(self) -> Snapshot | None:
        """The latest progress; `None` if there is none since the last call."""

    def cancel(self) -> None:
        """Stops the batch at checkpoints. Returns at once."""

    def hide(self) -> None:
        """Removes the drawn lines until `show`, so that Python can write to the terminal."""

    def show(self) -> None:
        """Draws the lines again."""

    def result(self) -> Counts:
        """The result of a batch that has ended. Can be called once.

        Raises:
            DownloadError: the batch could not run, or not to its end; see its subclasses.
        """

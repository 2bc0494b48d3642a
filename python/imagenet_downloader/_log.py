"""The log: passes the lines of the native module to the logger `imagenet_downloader`.

`logging` takes longer to load than all other modules of a call together. A program that has not
loaded it has no handler that could get a line, so this module does not load it either.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from . import _native

if TYPE_CHECKING:
    import logging

#: Level as in `logging`, seconds since 1970, text.
Line = tuple[int, float, str]

#: The levels of `logging`, with one for traces.
_TRACE, _DEBUG, _INFO, WARNING, _ERROR = 5, 10, 20, 30, 40
_OFF = 255


def _logger() -> logging.Logger | None:
    """The logger; `None` while the program has not loaded `logging`."""
    if "logging" not in sys.modules:
        return None
    import logging

    logger = logging.getLogger("imagenet_downloader")
    # Python writes the warnings of a logger without any handler to standard error.
    if not any(isinstance(each, logging.NullHandler) for each in logger.handlers):
        logger.addHandler(logging.NullHandler())
    return logger


def level() -> int:
    """The least important level of which a line would reach the logger's handlers."""
    logger = _logger()
    if logger is None:
        return WARNING
    levels = (_TRACE, _DEBUG, _INFO, WARNING, _ERROR)
    return next((level for level in levels if logger.isEnabledFor(level)), _OFF)


def handlers() -> list[logging.Handler]:
    """The handlers that get the lines, without the one above."""
    found: list[logging.Handler] = []
    one = _logger()
    # `logging.config` disables the loggers that it does not know.
    if one is None or one.disabled:
        return found
    import logging

    while one is not None:
        found += (each for each in one.handlers if not isinstance(each, logging.NullHandler))
        one = one.parent if one.propagate else None
    return found


def may_write_to_terminal() -> bool:
    """Whether the lines may be written to the terminal: by a handler that is not known to write to
    a file, or where there is none."""
    found = handlers()
    if not found:
        return True
    import logging

    return not all(isinstance(each, logging.FileHandler) for each in found)


def take() -> list[Line]:
    """Takes the lines that are queued: level, seconds since 1970, text."""
    lines, dropped = _native.take_log()
    if dropped:
        text = f"{dropped} log lines are missing here: they came faster than they were read"
        lines.append((WARNING, time.time(), text))
    return lines


def emit(lines: list[Line]) -> None:
    """Passes the lines to the logger."""
    logger = _logger()
    if logger is not None:
        for line in lines:
            _pass(logger, *line)


def _pass(logger: logging.Logger, number: int, created: float, text: str) -> None:
    if not logger.isEnabledFor(number):
        return
    record = logger.makeRecord(logger.name, number, "imagenet_downloader", 0, text, (), None)
    # The time of the line, not of this call.
    record.relativeCreated += (created - record.created) * 1000
    record.created = created
    record.msecs = float(int(created % 1 * 1000))
    logger.handle(record)

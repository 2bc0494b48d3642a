"""The options of a batch, checked where they enter."""

import operator
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ._errors import OptionError

#: Largest number that the native module takes.
_MAX_U32 = 2**32 - 1
#: `inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR`; `inspect` takes long to load.
_ASYNC_FLAGS = 0x80 | 0x200


class Options(NamedTuple):
    """What the native module reads; the names are those of the parameters of `download_batch`."""

    num_workers: int
    delete_tar: bool
    url: str
    retries: int
    timeout: float
    existing: str
    durability: str
    max_connections: int | None
    header_file: str | None
    cacert: str | None
    #: Whether the native module draws the downloads on standard error.
    draws: bool = False
    #: The least important level of log lines.
    log_level: int = 30

    def __repr__(self) -> str:
        """Without the URL, which may have a password: tracebacks may show local variables."""
        shown = self._replace(url="(hidden)")._asdict()
        return f"Options({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def checked(
    *,
    num_workers: int,
    delete_tar: bool,
    url: str,
    retries: int,
    timeout: float,
    existing: str,
    durability: str,
    max_connections: int | None,
    header_file: str | os.PathLike[str] | None,
    cacert: str | os.PathLike[str] | None,
) -> Options:
    """The options, if each has a type and a value that can be used.

    Raises:
        TypeError: a value has another type.
        OptionError: a number is out of range. The native module checks the rest.
    """
    return Options(
        num_workers=_number("num_workers", num_workers, 1),
        delete_tar=_flag("delete_tar", delete_tar),
        url=_text("url", url),
        retries=_number("retries", retries, 0),
        timeout=_seconds("timeout", timeout),
        existing=_text("existing", existing),
        durability=_text("durability", durability),
        max_connections=(
            None if max_connections is None else _number("max_connections", max_connections, 1)
        ),
        header_file=None if header_file is None else path("header_file", header_file),
        cacert=None if cacert is None else path("cacert", cacert),
    )


def path(name: str, value: str | os.PathLike[str]) -> str:
    """The path as text; `~` at its start is the home folder."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str or a path, not {type(value).__name__}")
    return os.path.expanduser(text)


def ids(part_ids: Iterable[str]) -> list[str]:
    """The ids as a list.

    Raises:
        TypeError: it is a text, which would be taken for its characters, or not all are texts.
    """
    if isinstance(part_ids, (str, bytes)):
        raise TypeError(
            f"part_ids must be a list of ids, not one {type(part_ids).__name__}:"
            f" give [{part_ids!r}], or load_part_ids_from_csv(...) for a CSV file"
        )
    if isinstance(part_ids, Mapping) or hasattr(part_ids, "columns"):
        raise TypeError(
            f"part_ids must be a list of ids, not a {type(part_ids).__name__}, whose items are its"
            f" columns or keys: give one column, e.g. df['wnid']"
        )
    try:
        listed = list(part_ids)
    except TypeError:
        raise TypeError(f"part_ids must be a list of ids, not {type(part_ids).__name__}") from None
    for one in listed:
        if not isinstance(one, str):
            raise TypeError(f"each id of part_ids must be a str, not {type(one).__name__}: {one!r}")
        _check_unicode("an id of part_ids", one)
    return listed


def check_plain(progress: Any) -> None:
    """Refuses an `async` function for `progress`: its result would never be awaited.

    Raises:
        TypeError: it is a coroutine function or an asynchronous generator function, a method or a
            `functools.partial` of one, or an object with such a `__call__`.
    """
    if not callable(progress) or isinstance(progress, type):
        return
    function = progress
    while True:
        inner = getattr(function, "func", None) or getattr(function, "__func__", None)
        if inner is None:
            break
        function = inner
    code = getattr(function, "__code__", None) or getattr(
        getattr(type(function), "__call__", None), "__code__", None
    )
    if getattr(code, "co_flags", 0) & _ASYNC_FLAGS:
        raise TypeError(
            "progress must not be an async function, which would never be awaited:"
            " give a plain function"
        )


def _text(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    _check_unicode(name, value)
    return value


def _check_unicode(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise OptionError(
            f"cannot use {name} = {value!a}: it has half of a surrogate pair; give valid Unicode"
        ) from None


def _flag(name: str, value: bool) -> bool:
    """`True` or `False`, also those of numpy. A text such as "false" would be true."""
    if isinstance(value, bool):
        return value
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.bool_):
        return bool(value)
    raise TypeError(f"{name} must be a bool, not {type(value).__name__}")


def _number(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None
    if number < least:
        raise OptionError(f"cannot download with {name} = {number}: give at least {least}")
    if number > _MAX_U32:
        raise OptionError(f"cannot download with {name} = {number}: give at most {_MAX_U32}")
    return number


def _seconds(name: str, value: float) -> float:
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = float("inf")
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}") from None
    if not 0 < seconds <= _MAX_U32:
        raise OptionError(
            f"cannot download with {name} = {seconds}:"
            f" give a number of seconds above 0, at most {_MAX_U32}"
        )
    return seconds

"""The result of a batch, and its progress."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn


class Failure(NamedTuple):
    """A class without a complete folder, and why."""

    #: The id, as it was given.
    wnid: str
    #: The kind as in `failed_downloads.log`: `HTTPError`, `Timeout`, `ConnectionError`, `NotATar`,
    #: `TarError`, `StorageError`, `Conflict`, `InvalidWnid` or `LeaseLost`.
    kind: str
    #: One line, e.g. `404 Client Error`.
    reason: str
    #: Number of requests for the bytes of the tar that this call has sent: the first one, those
    #: after errors, and those for the rest or for parts of the tar. 0 if none was needed.
    attempts: int


class ClassUnderWay(NamedTuple):
    """A class that is being downloaded or unpacked."""

    #: The id.
    wnid: str
    #: Bytes of its tar that were received, in earlier calls too.
    position: int
    #: Length of its tar in bytes; `None` until the origin has announced it.
    length: int | None


class Progress(NamedTuple):
    """The progress of a batch. The counts never decrease."""

    #: Number of distinct ids.
    total: int
    #: Classes that this call has completed.
    success: int
    #: Classes that were complete before this call.
    skipped: int
    #: Ids that have ended without a complete class.
    failed: int
    #: Bytes received from the origin by this call.
    received_bytes: int
    #: The classes that are being downloaded or unpacked, at most `num_workers`.
    classes: tuple[ClassUnderWay, ...]


_KEYS = ("success", "skipped", "failed", "total")


class Stats(Mapping[str, int]):
    """The result of a batch: a mapping with the keys `success`, `skipped`, `failed` and `total`,
    which are also attributes.

    `success + skipped + failed == total` is the number of distinct ids. Immutable; can be pickled.
    """

    __slots__ = ("success", "skipped", "failed", "failures", "duplicates", "files")

    #: Classes that this call has completed.
    success: int
    #: Classes that were complete before this call.
    skipped: int
    #: Ids without a complete class.
    failed: int
    #: Each failed id with its reason, in the order of the failures; as many as `failed`.
    failures: tuple[Failure, ...]
    #: Repetitions of an id: each one after the first. They are not counted elsewhere.
    duplicates: int
    #: Images in the classes that were completed or skipped.
    files: int

    def __init__(
        self,
        success: int = 0,
        skipped: int = 0,
        failed: int = 0,
        failures: tuple[Failure, ...] = (),
        duplicates: int = 0,
        files: int = 0,
    ) -> None:
        values = (success, skipped, failed, tuple(failures), duplicates, files)
        for name, value in zip(self.__slots__, values):
            object.__setattr__(self, name, value)

    @property
    def total(self) -> int:
        """Number of distinct ids."""
        return self.success + self.skipped + self.failed

    def __getitem__(self, key: str) -> int:
        if key not in _KEYS:
            raise KeyError(key)
        value: int = getattr(self, key)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(_KEYS)

    def __len__(self) -> int:
        return len(_KEYS)

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        """Equal to a `Stats` with the same values, and to another mapping with the same counts: two
        results with other failures differ, though both may equal one dictionary."""
        if isinstance(other, Stats):
            return self._values() == other._values()
        return super().__eq__(other)

    def __hash__(self) -> int:
        return hash((self.success, self.skipped, self.failed))

    def __reduce__(self) -> tuple[type["Stats"], tuple[Any, ...]]:
        return (type(self), self._values())

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"the result of a batch cannot be changed: {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"the result of a batch cannot be changed: {name}")

    def __repr__(self) -> str:
        named = zip(self.__slots__, self._values())
        return f"Stats({', '.join(f'{name}={value!r}' for name, value in named)})"

"""Parses the page: its blocks of commands in order, each with its hosts."""

import re
from dataclasses import dataclass

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# The line in a block that names its hosts.
WHERE = re.compile(r"# (.+)\n")


class PageError(Exception):
    """The page cannot be parsed or run."""


@dataclass(frozen=True)
class Block:
    """The commands between two fences."""

    heading: str
    number: int
    """Number of the block below its heading, from 1."""
    hosts: tuple[str, ...]
    commands: str

    def __str__(self) -> str:
        return f"{self.heading}, block {self.number}"


def blocks(text: str, known: set[str]) -> list[Block]:
    """All blocks of a page. A block without a known host is a mistake in the page, and therefore an
    error."""
    found: list[Block] = []
    fences = list(FENCE.finditer(text))
    if text.count("```") != 2 * len(fences):
        raise PageError("a fence is not closed, or does not begin its line")
    for fence in fences:
        prose = FENCE.sub("", text[: fence.start()])
        headings = HEADING.findall(prose)
        heading = headings[-1] if headings else ""
        number = 1 + sum(block.heading == heading for block in found)
        where = WHERE.match(fence[2])
        hosts = tuple(where[1].split(" and ")) if where else ()
        if fence[1] != "sh" or not hosts or not known.issuperset(hosts):
            raise PageError(
                f"{heading}, block {number} does not say in its first line on which of "
                f"{sorted(known)} it is run"
            )
        found.append(Block(heading, number, hosts, fence[2][where.end() :]))
    if not found:
        raise PageError("there is nothing to do")
    return found

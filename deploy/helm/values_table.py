#!/usr/bin/env python3
"""The list of values in README.md, made from the comments of values.yaml: the comment of a value
is the comment directly above it.

python3 values_table.py           # checks that the list is up to date; exit code 1 if it is not
python3 values_table.py --write   # updates it
"""

import re
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
BEGIN, END = "<!-- values -->\n", "<!-- end of values -->\n"
VALUE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: (?P<value>.*))?$")


def rows(text: str) -> list[tuple[str, str, str]]:
    """Path, default and comment of each value, and path and comment of each group that has one."""
    found, path, comment = [], [], []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
        elif match := VALUE.match(line):
            path[len(match["indent"]) // 2 :] = [match["key"]]
            if match["value"] is not None or comment:
                found.append((".".join(path), match["value"] or "", " ".join(comment)))
            comment = []
        elif not line:
            comment = []
        else:
            raise SystemExit(
                f"values.yaml: this is neither a comment nor a value on one line: {line}"
            )
    return found


def as_list(values: list[tuple[str, str, str]]) -> str:
    """One list item for each value, in lines of at most 100 characters."""
    lines = []
    for path, default, comment in values:
        item = f"`{path}`" + (f" = `{default}`" if default else "") + (comment and f": {comment}")
        lines += textwrap.wrap(
            item,
            100,
            initial_indent="- ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> int:
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    old, after = rest.split(END)
    new = as_list(rows((HERE / "values.yaml").read_text()))
    if arguments == ["--write"]:
        readme.write_text(before + BEGIN + new + END + after)
    elif old != new:
        print(
            "README.md does not have the values of values.yaml: "
            "python3 deploy/helm/values_table.py --write"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Fixtures for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from origin import Origin


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "imagenet"

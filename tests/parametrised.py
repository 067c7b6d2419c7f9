"""Tests of many rows of which the default run takes some."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def some(argument: str, values: Iterable[Any], by_default: Container[Any]) -> pytest.MarkDecorator:
    """A test of each value; of those that are not in `by_default` it is slow."""
    marked = [pytest.param(value, marks=() if value in by_default else pytest.mark.slow) for value in values]
    return pytest.mark.parametrize(argument, marked)

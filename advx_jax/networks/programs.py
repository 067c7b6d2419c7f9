"""Programs as JAX traces them, and those within them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend import core

TRACED_ROWS = 16
"""Images with which a model is traced where only its program matters: one number, so that JAX remembers the program,
and as many as CPUs compute at once. Among so many, what is fixed hardly counts for an image."""


class Program(NamedTuple):
    """A program, and the arrays that stand in it."""

    jaxpr: core.Jaxpr
    constants: Sequence[Any]


def programs_in(step: core.JaxprEqn) -> Iterator[Program]:
    """The bodies of a loop, the branches of a choice, the code of a function."""
    for parameter in step.params.values():
        for program in parameter if isinstance(parameter, tuple | list) else [parameter]:
            if isinstance(program, core.ClosedJaxpr):
                yield Program(program.jaxpr, program.consts)
            elif isinstance(program, core.Jaxpr):
                yield Program(program, ())

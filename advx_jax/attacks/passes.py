"""Passes through a model that an attack asks for, counted in the program that it runs, not by a formula.

The model is one that marks its logits on the way out and their gradient on the way back. JAX traces the attack with it,
and the marks in the traced program, times the lengths of the loops around them, are the passes. Nothing is computed.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import batching
from jaxtyping import Array

from advx_jax.attacks.arrays import Images, Logits
from advx_jax.attacks.base import Attack, Model, example_keys
from advx_jax.errors import UserError
from advx_jax.networks.programs import programs_in

_ROWS = 2


class Passes(NamedTuple):
    """Passes through a model for each image.

    Attributes:
        forward: images to logits.
        backward: from the logits' gradient to the images'; a gradient is one of each.
    """

    forward: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        """Each counts as one, as AttackBench counts (arXiv 2404.19460, section 2)."""
        return self.forward + self.backward

    @property
    def cost(self) -> int:
        """In forward passes: a pass back takes about as long as two of them."""
        return self.forward + 2 * self.backward

    def plus(self, other: "Passes", times: int = 1) -> "Passes":
        """These, and others so many times."""
        return Passes(self.forward + times * other.forward, self.backward + times * other.backward)


class AttackPasses(NamedTuple):
    """What an attack that runs by itself asks for.

    Attributes:
        init: before the first step.
        step: in each step.
        result: after the last step.
    """

    init: Passes
    step: Passes
    result: Passes

    def after(self, n_steps: int) -> Passes:
        """With so many steps, and a result."""
        return self.init.plus(self.step, n_steps).plus(self.result)


def count_passes(attack: Attack, n_classes: int, image_shape: tuple[int, ...]) -> AttackPasses:
    """Count the passes of an attack that runs by itself, such as a part of an ensemble.

    Args:
        attack: to count.
        n_classes: of the model.
        image_shape: of one image.

    Returns:
        At most so many: of branches that depend on numbers, the most expensive one counts.

    Raises:
        UserError: the model is in a loop whose length depends on numbers.
    """
    leaves, structure = jax.tree.flatten(attack)
    types = tuple(jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return _counted(structure, types, n_classes, tuple(image_shape))


def steps_cost(attack: Attack, n_classes: int, image_shape: tuple[int, ...]) -> int:
    """What all steps of an attack that runs by itself take, in forward passes; at least 1.

    Steps that ask the model for nothing take no time that could be told, but some. Arguments and errors are those of
    `count_passes`.
    """
    return max(1, attack.n_steps * count_passes(attack, n_classes, image_shape).step.cost)


def total_passes(attack: Attack, n_classes: int, image_shape: tuple[int, ...]) -> Passes:
    """All passes of an attack or of all parts of an ensemble; arguments and errors as `count_passes` has them."""
    total = Passes()
    for part in attack.parts(n_classes):
        total = total.plus(count_passes(part.attack, n_classes, image_shape).after(part.attack.n_steps))
    return total


def within_budget(
    attack: Attack,
    budget: int,
    n_classes: int,
    image_shape: tuple[int, ...],
    spent: Callable[[Passes], int] = lambda passes: passes.total,
) -> Attack:
    """The same attack with as many steps as a budget allows; an ensemble shares them out as it does.

    Args:
        attack: with `steps` to set.
        budget: for each image.
        n_classes: of the model.
        image_shape: of one image.
        spent: what counts of the passes; all, unless told otherwise.

    Raises:
        UserError: not even the fewest steps fit.
    """

    def with_steps(steps: int) -> tuple[Attack, int]:
        changed = attack.with_settings(steps=steps)
        return changed, spent(total_passes(changed, n_classes, image_shape))

    fewest = len(attack.parts(n_classes))
    chosen, least = with_steps(fewest)
    if least > budget:
        raise UserError(f"expected a budget of at least {least} for {attack.name}, got {budget}")
    each = max((with_steps(2 * fewest)[1] - least) / fewest, 1 / fewest)
    steps = fewest + int((budget - least) / each)
    # Shares are rounded, so that the estimate may be off by a few.
    while steps > fewest and (found := with_steps(steps))[1] > budget:
        steps -= max(1, int((found[1] - budget) / each))
    chosen, _ = with_steps(max(steps, fewest))
    while (found := with_steps(steps + 1))[1] <= budget:
        chosen, steps = found[0], steps + 1
    return chosen


def marked(model: Model) -> Model:
    """The same model, in whose traced programs `passes_in` finds its passes."""
    return lambda images: _marked_logits(model(images))


def passes_in(program: core.Jaxpr, logits_size: int) -> Passes:
    """Passes of a `marked` model in a traced program.

    Args:
        program: as `jax.make_jaxpr` gives it.
        logits_size: of the logits of the images whose passes are counted, all together.

    Raises:
        UserError: the model is in a loop whose length depends on numbers.
    """
    found = Passes()
    for step in program.eqns:
        if step.primitive in (_FORWARD, _BACKWARD):
            # Under vmap one mark stands for several passes.
            times = math.prod(step.invars[0].aval.shape) // logits_size  # type: ignore[attr-defined]  # an array
            found = found.plus(Passes(times, 0) if step.primitive is _FORWARD else Passes(0, times))
            continue
        inside = [passes_in(program.jaxpr, logits_size) for program in programs_in(step)]
        if step.primitive.name == "cond":
            found = found.plus(Passes(*map(max, zip(*inside, strict=True))))
            continue
        if step.primitive.name == "while" and any(passes.total for passes in inside):
            raise UserError("expected a model in loops of known lengths, got one in a while_loop: its passes vary")
        for passes in inside:
            found = found.plus(passes, step.params["length"] if step.primitive.name == "scan" else 1)
    return found


@functools.lru_cache(maxsize=128)
def _counted(
    structure: Any, types: tuple[jax.ShapeDtypeStruct, ...], n_classes: int, shape: tuple[int, ...]
) -> AttackPasses:
    images = jax.ShapeDtypeStruct((_ROWS, *shape), jnp.float32)

    def with_attack(method: str, leaves: Any, images: Images, *state: Any) -> Any:
        attack, labels = jax.tree.unflatten(structure, leaves), jnp.zeros(_ROWS, jnp.int32)
        extra = state or (example_keys(None, jnp.arange(_ROWS)),)
        return getattr(attack, method)(marked(functools.partial(_any_logits, n_classes)), images, labels, *extra)

    init, step, result = (functools.partial(with_attack, method) for method in ("init", "step", "result"))
    state = jax.eval_shape(init, types, images)
    programs = (
        jax.make_jaxpr(init)(types, images),
        jax.make_jaxpr(step)(types, images, state),
        jax.make_jaxpr(result)(types, images, state),
    )
    return AttackPasses(*(passes_in(program.jaxpr, _ROWS * n_classes) for program in programs))


def _any_logits(n_classes: int, images: Images) -> Logits:
    """What an attack asks of a model does not depend on which one it is."""
    flat = images.reshape(len(images), -1)
    return flat.sum(1, keepdims=True) * jnp.arange(1, n_classes + 1, dtype=flat.dtype)


def _mark(name: str) -> core.Primitive:
    """An operation that changes nothing and is seen in a traced program."""
    mark = core.Primitive(name)
    mark.def_abstract_eval(lambda value: value)

    def batched(arguments: Any, axes: Any) -> tuple[Array, Any]:
        return mark.bind(*arguments), axes[0]

    batching.primitive_batchers[mark] = batched
    return mark


_FORWARD, _BACKWARD = _mark("forward_pass"), _mark("backward_pass")


@jax.custom_vjp
def _marked_logits(logits: Logits) -> Logits:
    return _FORWARD.bind(logits)


_marked_logits.defvjp(
    lambda logits: (_FORWARD.bind(logits), None),
    lambda _, gradient: (_BACKWARD.bind(gradient),),
)

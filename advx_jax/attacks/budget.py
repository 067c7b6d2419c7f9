"""What the attacks with a fixed budget share: the budget, the way they run, and what they find.

Such an attack looks for a misclassified image within a ball around each image (and within [0,1]).
Like the loop of the paper it can be run in segments: `start`, then `advance` as often as wanted;
the state's `found` is the result at any time.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from advx_jax.attacks.criteria import UNTIL_MISCLASSIFIED, clearly_met, is_met
from advx_jax.attacks.loop import LogitsFn, Number
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import Norm, linf_norm, project, unit_l2
from advx_jax.errors import UserError


@struct.dataclass
class Budget:
    """How far an attack may go, and how long.

    Attributes:
        eps: radius of the ball in its norm, on the images' scale; an L2 norm, not an RMS.
        norm: "L2" or "Linf".
        steps: of each run, with one evaluation of the network's gradient each, or one query of a black-box attack;
            attacks that climb a loss look at their starting point too.
        stay_in_range: keep perturbed images in [0,1].
    """

    eps: Number
    norm: Norm = struct.field(pytree_node=False)
    steps: int = struct.field(pytree_node=False)
    stay_in_range: bool = struct.field(pytree_node=False, default=True)


class Found(NamedTuple):
    """What an attack found so far, per example.

    Attributes:
        adversarial: an image within the budget that the network was SEEN to misclassify; the
            unperturbed image where there was none.
        broken: whether there was one.
        finite: no logit was infinite or NaN; such logits never count as a misclassification.
    """

    adversarial: Float[Array, "batch *shape"]
    broken: Bool[Array, " batch"]
    finite: Bool[Array, " batch"]


class Method(NamedTuple):
    """An attack's two halves; hashable, so that compiled code is kept apart by it.

    Attributes:
        start: `(logits_fn, images, labels, targets, budget, keys)` to a state before the first step.
        advance: `(logits_fn, images, labels, targets, budget, state, n_steps)` to a later state.
        freezes: what was found of an image no longer changes once it is broken, so that nothing is
            lost by stopping when all are.
    """

    start: Callable[..., Any]
    advance: Callable[..., Any]
    freezes: bool = True


def nothing_found(images: Float[Array, "batch *shape"]) -> Found:
    """Before anything was looked at."""
    batch = images.shape[0]
    return Found(images, jnp.zeros(batch, bool), jnp.ones(batch, bool))


def look(
    found: Found, candidates: Float[Array, "batch *shape"], logits: Float[Array, "batch classes"], labels: Array
) -> Found:
    """Remember the first candidate of each image that is misclassified: clearly so, unless it is the image itself."""
    finite = jnp.isfinite(logits).all(-1)
    unmoved = (candidates == found.adversarial).all(tuple(range(1, candidates.ndim)))
    wrong = clearly_met(UNTIL_MISCLASSIFIED, logits, labels)
    new = (wrong | (unmoved & is_met(UNTIL_MISCLASSIFIED, logits, labels))) & ~found.broken
    adversarial = jnp.where(per_example(new, candidates), candidates, found.adversarial)
    return Found(adversarial, found.broken | new, found.finite & finite)


def within(
    budget: Budget, images: Float[Array, "batch *shape"], candidates: Float[Array, "batch *shape"]
) -> Float[Array, "batch *shape"]:
    """Bring candidates back into the ball around their images, and then into [0,1] if they have to stay there.

    The second only moves them towards their images, so they stay in the ball.
    """
    moved = images + project(budget.norm, candidates - images, budget.eps)
    return jnp.clip(moved, 0, 1) if budget.stay_in_range else moved


def steepest(norm: Norm, gradient: Float[Array, "batch *shape"]) -> Float[Array, "batch *shape"]:
    """Direction of steepest ascent, of length 1 in the norm however small the gradient is; zero stays zero."""
    return jnp.sign(gradient) if norm == "Linf" else unit_l2(gradient)


def random_direction(
    norm: Norm, keys: Key[Array, " batch"], like: Float[Array, "batch *shape"]
) -> Float[Array, "batch *shape"]:
    """A draw of length 1 in the norm for each key: values uniform before scaling (L∞), every direction alike (L2)."""
    shape, dtype = like.shape[1:], like.dtype
    if norm == "L2":
        return unit_l2(jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys))
    drawn = jax.vmap(lambda key: jax.random.uniform(key, shape, dtype, -1, 1))(keys)
    return drawn / per_example(linf_norm(drawn), drawn)


def example_keys(key: Key[Array, ""], indices: Int[Array, " batch"], run: int | Array = 0) -> Key[Array, " batch"]:
    """A key for each example and run, from the example's index in its data set.

    An example's draws therefore depend neither on its batch nor on the devices.
    """
    return jax.vmap(lambda index: jax.random.fold_in(jax.random.fold_in(key, index), run))(indices)


def check(images: Array, labels: Array, budget: Budget) -> None:
    """Refuse what no attack can work with.

    Raises:
        UserError: shapes do not fit, or eps, the norm or the number of steps is none. An eps that is an argument of
            compiled code is not looked at.
    """
    if labels.shape != images.shape[:1]:
        raise UserError(f"expected one label for each of {images.shape[0]} images, got labels of shape {labels.shape}")
    if budget.norm not in ("L2", "Linf"):
        raise UserError(f"expected L2 or Linf as the norm, got {budget.norm!r}")
    if budget.steps < 1:
        raise UserError(f"expected at least 1 attack step, got {budget.steps}")
    if not isinstance(budget.eps, jax.core.Tracer) and not 0 < float(budget.eps) < math.inf:
        raise UserError(f"expected eps above 0, got {budget.eps}")


def check_runs(targets: Int[Array, "runs batch"]) -> None:
    """Refuse an attack that would never run.

    Raises:
        UserError: there is no run.
    """
    if not len(targets):
        raise UserError("expected at least 1 restart or target, got none")


def run_all(
    method: Method,
    logits_fn: LogitsFn,
    images: Float[Array, "batch *shape"],
    labels: Int[Array, " batch"],
    targets: Int[Array, "runs batch"],
    budget: Budget,
    key: Key[Array, ""],
    indices: Int[Array, " batch"] | None = None,
) -> Found:
    """Run an attack once for each row of targets and keep what the first successful run found.

    Args:
        method: the attack.
        logits_fn: images to logits.
        images: x, on the [0,1] scale.
        labels: true classes; an image misclassified to begin with is broken without any change.
        targets: a row for each run; untargeted attacks do not look at them.
        budget: of each run.
        key: of all random draws.
        indices: of the images in their data set, for their draws; their places in the batch if None.

    Raises:
        UserError: see `check`.
    """
    check(images, labels, budget)
    check_runs(targets)
    indices = jnp.arange(images.shape[0]) if indices is None else indices

    def one(found: Found, run: tuple[Array, Array]) -> tuple[Found, None]:
        number, aims = run
        state = method.start(logits_fn, images, labels, aims, budget, example_keys(key, indices, number))
        state = method.advance(logits_fn, images, labels, aims, budget, state, budget.steps)
        return join(found, state.found), None

    found = look(nothing_found(images), images, logits_fn(images), labels)
    return lax.scan(one, found, (jnp.arange(len(targets)), targets))[0]


def join(first: Found, second: Found) -> Found:
    """What two runs found together; where both did, the first counts."""
    new = second.broken & ~first.broken
    adversarial = jnp.where(per_example(new, first.adversarial), second.adversarial, first.adversarial)
    return Found(adversarial, first.broken | second.broken, first.finite & second.finite)


def untargeted(labels: Int[Array, " batch"], runs: int) -> Int[Array, "runs batch"]:
    """Targets that stand in for none."""
    return jnp.broadcast_to(labels, (runs, *labels.shape))

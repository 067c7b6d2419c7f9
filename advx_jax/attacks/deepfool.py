"""DeepFool and SuperDeepFool: from one linearised boundary to the next, until one is crossed.

"DeepFool: a simple and accurate method to fool deep neural networks" (Moosavi-Dezfooli, Fawzi and Frossard 2016, arXiv
1511.04599, algorithm 2), and "Revisiting DeepFool: generalization and improvement" (Abdollahpoorrostam, Abroshan and
Moosavi-Dezfooli 2024, arXiv 2303.12481, algorithm 1): where DeepFool has crossed the boundary, its step is projected
onto the boundary's normal there, and DeepFool begins again at the end of that. Both take the gradients of all K logits
in each evaluation.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from advx_jax.attacks.arrays import Images, Keys, Labels, Logits, Mask, Perturbations
from advx_jax.attacks.ascent import at_least_float32
from advx_jax.attacks.base import AttackResult, Model, Number
from advx_jax.attacks.criteria import is_met
from advx_jax.attacks.minimum_norm import MinimumNorm, SearchState, SmallestSoFar
from advx_jax.attacks.norms import per_example
from advx_jax.attacks.projections import dual_size, unit_l2
from advx_jax.errors import UserError

# As the authors' code adds to each distance, and the least that a slope counts as.
_BEYOND, _LEAST_SLOPE = 1e-4, 1e-6


class Boundaries(NamedTuple):
    """The linearised boundaries between the label and each class.

    Attributes:
        logits: at the point.
        gaps: z_k - z_y.
        normals: their gradients.
    """

    logits: Logits
    gaps: Float[Array, "batch classes"]
    normals: Float[Array, "classes batch *shape"]


def boundaries(model: Model, points: Images, labels: Labels) -> Boundaries:
    """All of them, from one evaluation with as many gradients as there are classes."""
    logits, pull = jax.vjp(lambda points: at_least_float32(model(points)), points)
    classes = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    normals = jax.vmap(lambda chosen: pull(chosen[None] - classes[labels])[0])(classes)
    return Boundaries(logits, logits - jnp.take_along_axis(logits, labels[:, None], axis=1), normals)


def _chosen(normals: Float[Array, "classes batch *shape"], classes: Labels) -> Perturbations:
    return normals[classes, jnp.arange(len(classes))]


@struct.dataclass(kw_only=True)
class DeepFool(MinimumNorm):
    """DeepFool; an image that is over the boundary stays where it is.

    Attributes:
        steps: with the gradients of all logits each.
        overshoot: how much farther than to the linearised boundary a step goes.
    """

    steps: int = struct.field(pytree_node=False, default=50)
    overshoot: Number = 0.02

    @property
    def name(self) -> str:
        """As the field names it."""
        return "deepfool"

    def check(self, n_classes: int | None = None) -> None:
        """Refuse targets, which it chooses itself.

        Raises:
            UserError: in one line.
        """
        super().check(n_classes)
        if self.criterion.towards_label:
            raise UserError(f"expected a criterion that leads away from labels for {self.name}, got {self.criterion}")

    def step(self, model: Model, images: Images, labels: Labels, state: SearchState) -> SearchState:
        """Look, and step just beyond the nearest of the linearised boundaries."""
        here = boundaries(model, images + state.perturbation, labels)
        best, _ = self.update_best(state.best_so_far, state.perturbation, here.logits, labels)
        moved = self.beyond_nearest(images, state.perturbation, labels, here)
        done = is_met(self.criterion, here.logits, labels)
        perturbation = jnp.where(per_example(done, moved), state.perturbation, moved)
        return SearchState(state.step + 1, perturbation, state.radius, best)

    def beyond_nearest(
        self, images: Images, perturbation: Perturbations, labels: Labels, here: Boundaries
    ) -> Perturbations:
        """Where a step of DeepFool leads."""
        slopes = jnp.maximum(jax.vmap(lambda normal: dual_size(self.norm, normal))(here.normals).T, _LEAST_SLOPE)
        own = jnp.arange(slopes.shape[1])[None] == labels[:, None]
        distances = jnp.where(own | ~jnp.isfinite(here.gaps), jnp.inf, jnp.abs(here.gaps) / slopes + _BEYOND)
        nearest = distances.argmin(1)
        rows = jnp.arange(len(labels))
        normal, length = _chosen(here.normals, nearest), distances[rows, nearest]
        length = jnp.where(jnp.isfinite(length), length, 0).astype(images.dtype)
        direction = jnp.sign(normal) if self.norm == "Linf" else normal / per_example(slopes[rows, nearest], normal)
        return self.project(images, perturbation + (1 + self.overshoot) * per_example(length, normal) * direction)


class SuperDeepFoolState(NamedTuple):
    """State between two steps.

    Attributes:
        perturbation: δ, to be evaluated next.
        base: where DeepFool began.
        crossed: whether a base was over the boundary, at which it stays.
        best_so_far: the smallest success.
    """

    perturbation: Perturbations
    base: Perturbations
    crossed: Mask
    best_so_far: SmallestSoFar


@struct.dataclass(kw_only=True)
class SuperDeepFool(DeepFool):
    """SuperDeepFool, in L2: SDF(∞, 1), as the paper calls it.

    Attributes:
        steps: evaluations, of both loops together.
        search_steps: of the bisection between the image and the success at the end, a pass each.
    """

    norms = ("L2",)

    steps: int = struct.field(pytree_node=False, default=100)
    search_steps: int = struct.field(pytree_node=False, default=10)

    @property
    def name(self) -> str:
        """As the field names it."""
        return "superdeepfool"

    def init(self, model: Model, images: Images, labels: Labels, keys: Keys | None) -> SuperDeepFoolState:
        """State before the first step, at the images themselves."""
        state = super().init(model, images, labels, keys)
        none = state.perturbation
        return SuperDeepFoolState(none, none, jnp.zeros(images.shape[0], bool), state.best_so_far)

    def step(  # type: ignore[override]  # its own state
        self, model: Model, images: Images, labels: Labels, state: SuperDeepFoolState
    ) -> SuperDeepFoolState:
        """Look; step beyond the nearest boundary, or from beyond it onto the normal."""
        here = boundaries(model, images + state.perturbation, labels)
        best, _ = self.update_best(state.best_so_far, state.perturbation, here.logits, labels)
        across = is_met(self.criterion, here.logits, labels)
        at_base = (state.perturbation == state.base).all(tuple(range(1, images.ndim)))
        crossed = state.crossed | (across & at_base)

        own = jnp.arange(here.logits.shape[1])[None] == labels[:, None]
        normal = unit_l2(_chosen(here.normals, jnp.where(own, -jnp.inf, here.logits).argmax(1)))
        height = (state.perturbation * normal).sum(tuple(range(1, images.ndim)))
        foot = self.project(images, state.base + per_example(height, normal) * normal)
        onward = self.beyond_nearest(images, state.perturbation, labels, here)
        moved = jnp.where(per_example(across, images), foot, onward)
        stays = per_example(crossed, images)
        return SuperDeepFoolState(
            perturbation=jnp.where(stays, state.perturbation, moved),
            base=jnp.where(stays | ~per_example(across, images), state.base, foot),
            crossed=crossed,
            best_so_far=best,
        )

    def result(self, model: Model, images: Images, labels: Labels, state: SuperDeepFoolState) -> AttackResult:
        """Look at the last point, and bisect the way to the smallest success."""
        logits = model(images + state.perturbation)
        best, _ = self.update_best(state.best_so_far, state.perturbation, logits, labels)
        whole = best.perturbation

        def bisect(now: Any, _: Any) -> tuple[Any, None]:
            nearer, low, high = now
            middle = (low + high) / 2
            part = per_example(middle, whole) * whole
            logits = model(images + part)
            across = is_met(self.criterion, logits, labels)
            nearer, _met = self.update_best(nearer, part, logits, labels)
            return (nearer, jnp.where(across, low, middle), jnp.where(across, middle, high)), None

        ends = jnp.zeros_like(best.norm), jnp.ones_like(best.norm)
        (nearer, _, _), _ = lax.scan(bisect, (best, *ends), None, self.search_steps)
        # Of an image without a success there is nothing to bisect.
        nearer = nearer._replace(first_success=best.first_success, finite=best.finite)
        return self.found(images, nearer._replace(evaluations=state.best_so_far.evaluations))

"""Expectation over transformation: how a random network is attacked, and what counts as a success there.

Athalye et al. 2018 (arXiv 1802.00420, section 4.2) climb the mean of what a network does over all that it may draw,
estimated by some draws for each gradient. That a draw misclassifies a point may be chance, and among hundreds of draws
there will be one: so none of those that led to a point says whether it counts. The point at which most of the draws of
one step were over the boundary is looked at once more, with a draw of its own, and that one decides.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from advx_jax.attacks.arrays import Counts, Images, Keys, Labels, Mask, Perturbations, Values
from advx_jax.attacks.base import Model, fold_in_all
from advx_jax.attacks.criteria import Criterion, are_numbers, clearly_met, is_met
from advx_jax.attacks.fixed_epsilon import BestSoFar
from advx_jax.attacks.losses import LossName, loss_and_gradient
from advx_jax.attacks.norms import per_example
from advx_jax.networks.random_classifier import at_draw

DrawnLogits = Float[Array, "draws batch classes"]

# Apart from all that attacks draw by an example's key.
_OF_THE_NETWORK = 2**31
# What a draw is for.
ACCURACY, ACCURACY_AGAIN, TRANSFER, UNPERTURBED, CLIMB, JUDGEMENT = range(6)


class FrailestSoFar(NamedTuple):
    """The point at which most draws were over the boundary, per example; in place of `BestSoFar`.

    Attributes:
        adversarial: the point; of those with equally many the one with the least mean margin.
        over: how many draws were clearly over the boundary there.
        margin: mean over the draws there.
        success: False, because no draw that led there decides.
        first_success: evaluations up to it.
        evaluations: draws so far, of each example.
        finite: no logit was NaN, nor infinite where that decides.
    """

    adversarial: Images
    over: Counts
    margin: Values
    success: Mask
    first_success: Counts
    evaluations: Int[Array, ""]
    finite: Mask

    def updated(
        self, criterion: Criterion, candidates: Images, logits: DrawnLogits, labels: Labels, counted: int | None = None
    ) -> "FrailestSoFar":
        """Take other points where they are frailer.

        Args:
            criterion: of success.
            candidates: the points.
            logits: of all draws there.
            labels: of the criterion.
            counted: evaluations that these are; as many as draws if None.
        """
        over = jax.vmap(clearly_met, (None, 0, None))(criterion, logits, labels).sum(0, dtype=jnp.int32)
        margin = jax.vmap(criterion.margin, (0, None))(logits, labels).mean(0).astype(self.margin.dtype)
        frailer = (over > self.over) | ((over == self.over) & (margin < self.margin))
        evaluations = self.evaluations + (len(logits) if counted is None else counted)
        return FrailestSoFar(
            adversarial=jnp.where(per_example(frailer, candidates), candidates, self.adversarial),
            over=jnp.where(frailer, over, self.over),
            margin=jnp.where(frailer, margin, self.margin),
            success=self.success,
            first_success=jnp.where(frailer, evaluations, self.first_success),
            evaluations=evaluations,
            finite=self.finite & jax.vmap(are_numbers, (0, None))(logits, labels).all(0),
        )

    def kept_where_over(self) -> "FrailestSoFar":
        """No other point is frailer than one that any draw was over at: for a network that draws nothing."""
        return self._replace(margin=jnp.where(self.over > 0, -jnp.inf, self.margin))

    def judged(
        self, criterion: Criterion, model: Model, images: Images, labels: Labels, keys: Keys | None
    ) -> BestSoFar:
        """What a draw says that did not lead to the points; an image that did not move need not be clearly over."""
        logits = judge(model, keys)(self.adversarial)
        unmoved = (self.adversarial == images).all(tuple(range(1, images.ndim)))
        success = clearly_met(criterion, logits, labels) | (unmoved & is_met(criterion, logits, labels))
        return BestSoFar(
            adversarial=jnp.where(per_example(success, images), self.adversarial, images),
            success=success,
            first_success=self.first_success,
            evaluations=self.evaluations,
            finite=self.finite & are_numbers(logits, labels),
        )


def none_so_far(images: Images) -> FrailestSoFar:
    """Before any draw."""
    batch = images.shape[0]
    none, nowhere = jnp.zeros(batch, jnp.int32), jnp.full(batch, jnp.inf, jnp.promote_types(images.dtype, jnp.float32))
    false = jnp.zeros(batch, bool)
    return FrailestSoFar(images, none, nowhere, false, none, jnp.zeros((), jnp.int32), ~false)


def network_keys(keys: Keys | None, what: int, number: int | Array = 0) -> Any:
    """Keys of what a network draws, one for each example.

    Args:
        keys: of the examples, as an attack gets them; None where nothing is drawn.
        what: it is for, such as `ACCURACY`; no two share draws.
        number: of the draw.
    """
    return keys if keys is None else fold_in_all(fold_in_all(fold_in_all(keys, _OF_THE_NETWORK), what), number)


def judge(model: Model, keys: Keys | None) -> Model:
    """The network at the one draw that decides what counts; a network that draws nothing as it is."""
    return at_draw(model, network_keys(keys, JUDGEMENT))


def drawn_logits(model: Model, points: Images, keys: Keys, what: int, draws: int) -> DrawnLogits:
    """Logits of several draws, one after another."""

    def one(nothing: None, number: Array) -> tuple[None, Array]:
        return nothing, at_draw(model, network_keys(keys, what, number))(points)

    return lax.scan(one, None, jnp.arange(draws))[1]


def mean_loss_and_gradient(
    name: LossName,
    model: Model,
    points: Images,
    labels: Labels,
    targets: Labels,
    towards_label: bool,
    keys: Keys,
    begin: Int[Array, ""],
    draws: int,
) -> tuple[Values, Perturbations, DrawnLogits]:
    """What to climb and its gradient, both means over draws, and the logits of each draw.

    Args:
        name: of the loss.
        model: a random network; any other gives the same at each draw.
        points: to look at.
        labels: as `loss_and_gradient` has them.
        targets: as well.
        towards_label: as well.
        keys: of the examples.
        begin: number of the first draw; two looks must not share any.
        draws: how many.
    """

    def at(number: Array) -> tuple[Array, Array, Array]:
        drawn = at_draw(model, network_keys(keys, CLIMB, number))
        return loss_and_gradient(name, drawn, points, labels, targets, towards_label)

    def one(sums: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], Array]:
        values, gradient, logits = at(number)
        return (sums[0] + values, sums[1] + gradient), logits

    values, gradient, _ = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(at, begin))
    # One after another, for a gradient of all at once would take as many times the memory.
    (values, gradient), logits = lax.scan(one, (values, gradient), begin + jnp.arange(draws))
    return values / draws, gradient / draws, logits

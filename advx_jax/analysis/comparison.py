"""Adversarial explanations beside other methods' attributions, and how good they are (docs/attributions.md)."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from advx_jax.analysis.attribution.adversarial import AdversarialExplanation
from advx_jax.analysis.attribution.base import Attribution, as_attribution
from advx_jax.analysis.attribution.integrated_gradients import IntegratedGradients
from advx_jax.analysis.attribution.many_images import AttributionChunk, attributed, attribution_chunk
from advx_jax.analysis.attribution.named import find_method
from advx_jax.analysis.chunks import groups
from advx_jax.analysis.explanations import Explanation, ExplanationChunk, explain, explanation_chunk
from advx_jax.analysis.faithfulness.counterfactual import CounterfactualQuality, quality
from advx_jax.analysis.workers import lanes, pad
from advx_jax.attacks.base import Model, example_keys
from advx_jax.attacks.explaining import ExplanationAttack, check_explains
from advx_jax.attacks.published import PublishedBounded
from advx_jax.errors import UserError
from advx_jax.networks.pytrees import as_pytree

ADVERSARIAL = "adversarial"
"""The method that is made in any case: its attribution is the change of the adversarial explanation."""


class Comparison(NamedTuple):
    """What is told of one image beside its adversarial explanations; everything in the order of its targets.

    Attributes:
        attributions: by the method's name.
        completeness_gaps: of Integrated Gradients, |Σa - Δ|/|Δ| with Δ = z_t(x) - z_t(baseline).
        quality: of the adversarial explanations.
    """

    attributions: dict[str, Float[np.ndarray, "targets ..."]]
    completeness_gaps: dict[str, Float[np.ndarray, " targets"]]
    quality: CounterfactualQuality


def chosen_methods(
    methods: str | Attribution | Iterable[str | Attribution] | Mapping[str, Attribution], attack: ExplanationAttack
) -> dict[str, Attribution]:
    """The methods that a person asks for, by their names.

    Args:
        methods: names with commas between them, a method, or several of both; a name is one of `attribution.METHODS` or
            `package.module:name`. Or methods by names of one's own.
        attack: that makes the explanations; `adversarial` is its.

    Raises:
        UserError: there is no such method, or several would have one name; the attack makes no explanations.
    """
    check_explains(attack)
    if isinstance(methods, Mapping):
        return {str(name): as_attribution(method) for name, method in methods.items()}
    found: dict[str, Attribution] = {}
    if isinstance(methods, str):
        methods = methods.split(",")
    for given in [methods] if isinstance(methods, Attribution) else methods:
        text = given.strip() if isinstance(given, str) else ""
        method = find_method(text) if isinstance(given, str) else as_attribution(given)
        # Two of one's own may have the name that they inherit.
        name = text if ":" in text else method.name
        if name in found:
            raise UserError(f"expected each method once, got {name} twice")
        if name == ADVERSARIAL and isinstance(given, str):
            method = AdversarialExplanation(attack=attack)
        found[name] = method
    return found


def method_settings(methods: Mapping[str, Attribution], attack: ExplanationAttack) -> dict[str, Any]:
    """What the methods' results depend on; the attack's own settings stand elsewhere."""
    return {
        name: {"method": ADVERSARIAL} if _is_change(method, attack) else method.settings()
        for name, method in methods.items()
    }


def is_compared(methods: Mapping[str, Attribution], attack: ExplanationAttack) -> bool:
    """Whether more is told of explanations than what the published ones come with, alone."""
    return bool(methods) or not isinstance(attack, PublishedBounded)


class Plan(NamedTuple):
    """How images are explained and attributed, a round of chunks after the other.

    Attributes:
        attack: makes the explanations.
        methods: by their names.
        chunk: of the explanations.
        chunks: of the methods that have work of their own.
        passes: through the model for an image and a target, where a gradient counts as three; of the attack and of
            the methods that have work of their own.
        n_targets: classes for each image.
    """

    attack: ExplanationAttack
    methods: Mapping[str, Attribution]
    chunk: ExplanationChunk
    chunks: Mapping[str, AttributionChunk]
    passes: Mapping[str, int]
    n_targets: int

    @property
    def at_once(self) -> int:
        """Images of a round."""
        return self.chunk.rows * len(lanes())


def plan(
    model: Model, images: Any, attack: ExplanationAttack, methods: Mapping[str, Attribution], n_targets: int
) -> Plan:
    """Decide how much is computed at a time.

    Args:
        model: images to logits.
        images: only their number, shape and type count.
        attack: towards a class.
        methods: by their names; maybe none.
        n_targets: classes for each image.

    Raises:
        UserError: see `explanation_chunk`; or a method does not work with the model or such images.
    """
    chunk = explanation_chunk(model, images, attack, n_targets)
    of_round = images[: chunk.rows * len(lanes())]
    shape = tuple(images.shape[1:])
    chunks = {
        name: _chunk_of(name, model, of_round, method, n_targets)
        for name, method in methods.items()
        if not _is_change(method, attack)
    }
    passes = {ADVERSARIAL: AdversarialExplanation(attack=attack).passes(shape)}
    own = {name: methods[name].passes(shape) for name in chunks}
    return Plan(attack, methods, chunk, chunks, passes | own, n_targets)


def explain_and_attribute(
    model: Model,
    images: Float[np.ndarray, "n *shape"],
    plan: Plan,
    targets: Int[np.ndarray, "n targets"] | None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Iterator[tuple[int, Explanation, Comparison]]:
    """Explain images towards classes, and attribute these by all methods.

    Random draws depend on the image's values alone.

    Args:
        model: images to logits.
        images: on the [0,1] scale.
        plan: how.
        targets: classes for each image; all if None.
        on_progress: called with how many images' worth of work was just done; fractions add up.

    Yields:
        The place of an image, its explanation, and what else is told of it.

    Raises:
        UserError: see `explain`.
    """
    total = sum(plan.passes.values())
    if targets is None:
        targets = np.tile(np.arange(plan.n_targets, dtype=np.int32), (len(images), 1))
    for begin in range(0, len(images), plan.at_once):
        part = slice(begin, begin + plan.at_once)
        x, y = images[part], targets[part]

        def progress_of(name: str) -> Callable[[float], None]:
            share = plan.passes[name] / total
            return lambda amount: on_progress(amount * share)

        by_place = dict(explain(model, x, plan.attack, progress_of(ADVERSARIAL), plan.chunk, y))
        explanations = [by_place[place] for place in range(len(x))]
        keys = image_keys(x)
        attributions = {
            name: attributed(model, x, y, method, keys, plan.chunks[name], progress_of(name))
            if name in plan.chunks
            else np.stack([explanation.perturbations for explanation in explanations])
            for name, method in plan.methods.items()
        }
        gaps = {
            name: _gaps(model, x, y, method, keys, attributions[name], explanations, plan.at_once)
            for name, method in plan.methods.items()
            if isinstance(method, IntegratedGradients)
        }
        for place, explanation in enumerate(explanations):
            comparison = Comparison(
                {name: found[place] for name, found in attributions.items()},
                {name: found[place] for name, found in gaps.items()},
                _quality_of(model, x[place], explanation, plan.chunk.n_targets),
            )
            yield begin + place, explanation, comparison


def image_keys(images: Float[np.ndarray, "n *shape"]) -> Key[Array, " n"]:
    """A key for each image from its values, so that what is drawn for it is the same in any order and company."""
    digests = [hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in images]
    numbers = np.array([int.from_bytes(digest[:4]) >> 1 for digest in digests], np.int32)
    return example_keys(None, jnp.asarray(numbers))


def _is_change(method: Attribution, attack: ExplanationAttack) -> bool:
    """Whether its attribution is the change of the explanation, which is there already."""
    return isinstance(method, AdversarialExplanation) and method.attack is attack


def _chunk_of(name: str, model: Model, images: Any, method: Attribution, n_targets: int) -> AttributionChunk:
    try:
        method.check(tuple(images.shape[1:]))
        return attribution_chunk(model, images, method, n_targets)
    except UserError as error:
        raise UserError(f"the method {name} cannot be used here: {error}") from error


def _gaps(
    model: Model,
    images: Float[np.ndarray, "n *shape"],
    targets: Int[np.ndarray, "n targets"],
    method: IntegratedGradients,
    keys: Key[Array, " n"],
    attributions: Float[np.ndarray, "n targets *shape"],
    explanations: list[Explanation],
    rows: int,
) -> Float[np.ndarray, "n targets"]:
    baselines = np.asarray(method.baselines(images, keys))
    of_baseline = np.asarray(_logits(as_pytree(model), jnp.asarray(pad(baselines, rows))))[: len(images)]
    of_image = np.stack([explanation.logits for explanation in explanations])
    change = np.take_along_axis(of_image.astype(np.float32) - of_baseline.astype(np.float32), targets, 1)
    sums = attributions.reshape(*targets.shape, -1).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.abs(sums - change) / np.abs(change))


def _quality_of(
    model: Model, image: Float[np.ndarray, "*shape"], explanation: Explanation, at_once: int
) -> CounterfactualQuality:
    """Of the explanations towards all targets, as many at once as they were made."""
    parts = []
    for group in groups(len(explanation.targets), min(at_once, len(explanation.targets))):
        x = jnp.broadcast_to(image, (len(group.places), *image.shape))
        explained = x + explanation.perturbations[group.places]
        found = quality(as_pytree(model), x, explained, jnp.asarray(explanation.targets[group.places]))
        parts.append([field[: group.n] for field in found])
    return CounterfactualQuality(*(jnp.concatenate(field) for field in zip(*parts, strict=True)))


@jax.jit
def _logits(model: Model, images: Array) -> Float[Array, "batch classes"]:
    return model(images)

"""The contract of all metrics of explanations: what they are asked, what they cost, and what they answer."""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from advx_jax.analysis.faithfulness.settings import check_settings
from advx_jax.attacks.arrays import Images, Keys, Labels, Values
from advx_jax.attacks.base import Model, example_keys
from advx_jax.attacks.checks import ImagesLike, LabelsLike, checked, with_settings
from advx_jax.errors import UserError
from advx_jax.importing import code_settings
from advx_jax.networks.pytrees import as_pytree

_Same = TypeVar("_Same", bound="Metric")

Attributions = Float[Array, "batch height width *channels"]
"""Signed, how much each value or pixel of an image speaks for the target."""

Method = Callable[..., Attributions]
"""`method(model, images, targets, key)` to attributions; the key is one for each example."""


class Cost(NamedTuple):
    """What a metric costs for each image.

    Attributes:
        passes: of the model, forwards only.
        attributions: calls of the method, which costs what it costs.
    """

    passes: int
    attributions: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric(abc.ABC):
    """Base of every metric; a frozen dataclass of settings that gives one number for each example.

    A metric of one's own needs `higher_is_better`, `cost` and `measure`.

    Attributes:
        name: for people, tables and results.
    """

    higher_is_better: ClassVar[bool]
    takes_method: ClassVar[bool] = False
    """Whether it is given the method, which it calls, rather than its attributions."""

    name: str

    def __post_init__(self) -> None:
        """Refuse settings that are none.

        Raises:
            UserError: in one line.
        """
        check_settings(self)

    @abc.abstractmethod
    def cost(self, model: Model, image_shape: tuple[int, ...]) -> Cost:
        """What it costs for each image of that shape (height, width, channels)."""

    @abc.abstractmethod
    def measure(self, model: Model, images: Images, targets: Labels, explained: Any, keys: Keys) -> Values:
        """The number of each example; pure, with arguments that have been checked."""

    def check(self, model: Model, image_shape: tuple[int, ...], explained: Any) -> None:
        """Refuse what the metric cannot work with; a class with conditions of its own adds them.

        Args:
            model: images to logits.
            image_shape: height, width and channels.
            explained: attributions, or a method.

        Raises:
            UserError: in one line.
        """
        del model, image_shape, explained

    def with_settings(self: _Same, **settings: Any) -> _Same:
        """The same metric with other settings.

        Raises:
            UserError: it has no such setting, or a value is none that it can work with.
        """
        return with_settings(self, "metric", settings)

    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on, apart from model, images, targets and key, as JSON can hold it."""
        return dataclasses.asdict(self) | code_settings(self)

    def __call__(
        self,
        model: Model,
        images: ImagesLike,
        targets: LabelsLike,
        explained: Any,
        key: Key[Array, "..."] | None = None,
    ) -> Values:
        """Measure explanations.

        Args:
            model: images to logits, in evaluation mode.
            images: x in [0,1], shape (batch, height, width, channels).
            targets: the class that each explanation is for.
            explained: attributions of shape (batch, height, width, channels) or (batch, height, width); where
                `takes_method`, the method that makes them.
            key: of all random draws, folded with each example's place in the batch; or a key for each example.
                `jax.random.key(0)` if None.

        Returns:
            A number for each example; NaN where it is not defined.

        Raises:
            UserError: images, targets, model or attributions are none that the metric can work with.
        """
        x, y, _ = checked(model, images, targets, "target")
        if x.ndim != 4:
            raise UserError(f"expected images of shape (batch, height, width, channels), got {x.shape}")
        model, keys = as_pytree(model), example_keys(key, jnp.arange(len(x)))
        if self.takes_method:
            explained = checked_method(explained)
            # Here rather than where it is called: what is raised in compiled code comes with more than a line.
            _check_attributions(jax.eval_shape(explained, model, x, y, keys), x.shape)
        else:
            explained = checked_attributions(explained, x.shape)
        self.check(model, tuple(x.shape[1:]), explained)
        found: Array = measured_values(self, model, x, y, explained, keys)
        return found


def checked_attributions(attributions: Any, shape: tuple[int, ...]) -> Array | np.ndarray:
    """Attributions as floating-point numbers.

    Args:
        attributions: of the images.
        shape: of the images, (batch, height, width, channels).

    Raises:
        UserError: they are none of images of that shape.
    """
    if callable(attributions):
        raise UserError(f"expected attributions as an array, got {type(attributions).__name__}: call the method first")
    array = attributions if isinstance(attributions, jax.Array | np.ndarray) else np.asarray(attributions)
    _check_attributions(array, shape)
    return array.astype(jnp.promote_types(jax.dtypes.canonicalize_dtype(array.dtype), jnp.float32), copy=False)


def checked_method(method: Any) -> Any:
    """A method as an argument that `jit` accepts: its arrays, if it has any, become arguments of the compiled code.

    Raises:
        UserError: it is none.
    """
    if not callable(method):
        raise UserError(
            f"expected a method(model, images, targets, key) that gives attributions, got {type(method).__name__}"
        )
    leaves, structure = jax.tree.flatten(method)
    if not jax.tree_util.treedef_is_leaf(structure) and all(map(_is_number, leaves)):
        return method
    try:
        hash(method)
    except TypeError:
        # A bound method is hashed by the object that it belongs to.
        return jax.tree_util.Partial(method.__call__)
    return jax.tree_util.Partial(method)


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | int | float) and not isinstance(leaf, bool)


def _check_attributions(array: Any, shape: tuple[int, ...]) -> None:
    if not hasattr(array, "shape"):
        raise UserError(f"expected attributions as one array, got {type(array).__name__}")
    if array.shape not in (shape, shape[:-1]):
        raise UserError(f"expected attributions of shape {shape} or {shape[:-1]}, got {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"expected attributions as floating-point numbers, got {array.dtype}")


@functools.partial(jax.jit, static_argnames=("metric",))
def measured_values(
    metric: Metric, model: Model, images: Array, targets: Array, explained: Any, keys: Array
) -> Float[Array, " batch"]:
    """Measure explanations with arguments that have been checked, see `Metric.__call__`.

    Args:
        metric: which; compiled for each.
        model: images to logits.
        images: x in [0,1].
        targets: a class for each image.
        explained: attributions, or a method as a pytree.
        keys: of each example's random draws.
    """
    measured = metric.measure(model, images, targets, explained, keys)
    if metric.takes_method:
        return measured
    # What is compared has an order all the same, and areas and sums that look like others.
    finite = jnp.isfinite(explained).all(tuple(range(1, explained.ndim)))
    return jnp.where(finite, measured, jnp.nan)

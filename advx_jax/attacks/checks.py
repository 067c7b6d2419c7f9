"""What attacks take, and the one line that says why they do not take the rest: the one place where inputs are checked.

Shapes and types are always known. VALUES are looked at only where there are any: those of arguments of compiled code
are not, so that every attack runs under `jit`, `vmap` and `scan`.
"""

import dataclasses
import math
import operator
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from advx_jax.attacks.criteria import Criterion
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.programs import TRACED_ROWS

_Settings = TypeVar("_Settings", bound=Any)

ImagesLike = Any
"""Images (batch, height, width, channels) in [0,1], as a JAX or NumPy array or as lists of numbers."""

LabelsLike = Any
"""One class number for each image, as a JAX or NumPy array of integers or as a list of them."""

# By so much may arithmetic in float32 carry an image out of [0,1]: undoing a normalisation, x + (clip(x + δ) - x).
_ROUNDING = 1e-6
# Of a channel-first image: a grey or a colour one whose last axis is no number of channels.
_CHANNELS, _MOST_CHANNELS = (1, 3), 4
_LONGEST_REASON = 160
# What Flax raises where a network draws or moves statistics when called, and what keeps it from that.
_TRAINING_MODE = {
    "TraceContextError": "call its eval()",
    "ModifyScopeVariableError": "pass use_running_average=True to its BatchNorm (often train=False)",
    "InvalidRngError": "pass deterministic=True to its Dropout (often train=False)",
}

_NORMS = {
    "l0": "L0",
    "0": "L0",
    "l1": "L1",
    "1": "L1",
    "l2": "L2",
    "2": "L2",
    "linf": "Linf",
    "inf": "Linf",
    "linfinity": "Linf",
    "infinity": "Linf",
    "l1.5": "L1.5",
    "1.5": "L1.5",
}
# Of those that are known, what attacks take that do not say otherwise by `norms`.
_USUAL_NORMS = ("L2", "Linf")
_CHOICES = {
    "version": ("standard", "plus", "rand"),
    "direction": ("cross_entropy", "scale_free"),
    "climb": ("margin", "log_odds"),
    "rule": ("squares", "midpoint", "gauss_legendre"),
    "baseline": ("black", "mean", "blurred", "random"),
}


class Range(NamedTuple):
    """Where a number has to lie.

    Attributes:
        text: for messages.
        holds: whether an array of numbers lies there.
    """

    text: str
    holds: Callable[[np.ndarray], np.ndarray]


_POSITIVE = Range("above 0", lambda v: (v > 0) & (v < math.inf))
_NOT_NEGATIVE = Range("of at least 0", lambda v: (v >= 0) & (v < math.inf))
_FRACTION = Range("above 0 and below 1", lambda v: (v > 0) & (v < 1))
_PART = Range("of at least 0 and below 1", lambda v: (v >= 0) & (v < 1))
_SHARE = Range("above 0 and at most 1", lambda v: (v > 0) & (v <= 1))
_UNIT = Range("from 0 to 1", lambda v: (v >= 0) & (v <= 1))
# Settings of all attacks and attributions, by name.
_NUMBERS = {
    "eps": _POSITIVE,
    "overshoot": _POSITIVE,
    "momentum": _PART,
    "gamma": _FRACTION,
    "last_gamma": _PART,
    "step_length": _POSITIVE,
    "last_step_length": _NOT_NEGATIVE,
    "init_norm": _POSITIVE,
    "sigma": _POSITIVE,
    "first_threshold": _UNIT,
    "threshold_rate": _NOT_NEGATIVE,
    "last_step_part": _SHARE,
    "swapped_share": _SHARE,
    "undone_share": _UNIT,
    "first_ratio": _POSITIVE,
    "dual_length": _POSITIVE,
    "last_dual_part": _SHARE,
    "first_distance": _POSITIVE,
    "tolerance": _NOT_NEGATIVE,
    "blur": _POSITIVE,
    "fill": _UNIT,
    "init_weight": _POSITIVE,
    "inertia": _SHARE,
}
_COUNTS = {
    "steps": (1, "step"),
    "samples": (1, "sample"),
    "eot": (1, "draw"),
    "run_steps": (1, "step"),
    "search_steps": (1, "step"),
    "rest": (1, "step"),
    "rest_back": (1, "step"),
    "restarts": (1, "restart or target"),
    "n_targets": (1, "restart or target"),
    "levels": (2, "grey levels"),
}


class Checked(NamedTuple):
    """What an attack works with.

    Attributes:
        images: floating-point numbers, of float32 at least; where they were, on the host or on a device.
        labels: int32.
        n_classes: K, of the classifier's logits.
    """

    images: Float[Array, "batch *shape"] | Float[np.ndarray, "batch *shape"]
    labels: Int[Array, " batch"] | Int[np.ndarray, " batch"]
    n_classes: int


def checked(model: Any, images: ImagesLike, labels: LabelsLike, what: str = "label") -> Checked:
    """Bring images and labels into the form that attacks work with.

    Args:
        model: images to logits; only its shapes are computed.
        images: on the [0,1] scale, shape (batch, height, width, channels), or another one that `model` takes.
        labels: one for each image.
        what: what the labels are called, in the singular.

    Raises:
        UserError: images, labels or classifier are none that an attack can work with.
    """
    x = checked_images(images)
    n_classes = number_of_classes(model, x)
    return Checked(x, checked_labels(labels, len(x), n_classes, what), n_classes)


def checked_images(
    images: ImagesLike, what: str = "images"
) -> Float[Array, "batch *shape"] | Float[np.ndarray, "batch *shape"]:
    """Images as floating-point numbers, of float32 at least; in float64 only where JAX computes in it.

    Args:
        images: on the [0,1] scale.
        what: what they are called.

    Raises:
        UserError: they are no batch of images in [0,1], or their channels come first.
    """
    x = _array(images, what)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        remedy = ": divide by 255" if x.dtype == np.uint8 else ""
        raise UserError(f"expected {what} as floating-point numbers in [0,1], got {x.dtype}{remedy}")
    if x.ndim < 2:
        raise UserError(f"expected {what} of shape (batch, height, width, channels), got {x.shape}")
    if 0 in x.shape:
        raise UserError(f"expected at least 1 image, got an array of shape {x.shape}")
    if x.ndim == 4 and x.shape[1] in _CHANNELS and min(x.shape[2:]) > _MOST_CHANNELS:
        raise UserError(
            f"expected {what} of shape (batch, height, width, channels), got {x.shape} with channels first: "
            "pass images.transpose(0, 2, 3, 1)"
        )
    x = x.astype(jnp.promote_types(jax.dtypes.canonicalize_dtype(x.dtype), jnp.float32), copy=False)
    if _has_values(x):
        low, high = _extremes(x)
        if math.isnan(low) or math.isnan(high):
            raise UserError(f"expected {what} in [0,1], got NaN in them")
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise UserError(
                f"expected {what} in [0,1], got values from {low:.6g} to {high:.6g}: "
                + ("divide by 255" if low >= 0 and 2 < high <= 255 else "let the classifier do what normalises them")
            )
    return x


def checked_labels(
    labels: LabelsLike, n_images: int, n_classes: int, what: str = "label"
) -> Int[Array, " batch"] | Int[np.ndarray, " batch"]:
    """Labels as int32, one for each image.

    Raises:
        UserError: there are too many or too few, they are no integers, or there is no such class.
    """
    y = _array(labels, f"{what}s")
    if y.ndim == 2 and y.shape == (n_images, n_classes):
        raise UserError(
            f"expected {what}s as class numbers, got shape {y.shape} as if one-hot: pass {what}s.argmax(-1)"
        )
    if y.shape != (n_images,):
        raise UserError(f"expected one {what} for each of {n_images} images, got {what}s of shape {y.shape}")
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise UserError(f"expected {what}s as integers, got {y.dtype}")
    if _has_values(y):
        low, high = _extremes(y)
        if low < 0 or high >= n_classes:
            raise UserError(f"expected {what}s from 0 to {n_classes - 1}, got {low if low < 0 else high}")
    return y.astype(np.int32, copy=False)


def number_of_classes(model: Any, images: Array | np.ndarray) -> int:
    """K of a classifier, from the shape of its logits; nothing is computed.

    Args:
        model: images to logits.
        images: as `checked_images` gives them; only their shape and type count.

    Raises:
        UserError: it takes no such images, or gives no logits of at least two classes for each.
    """
    if not callable(model):
        raise UserError(f"expected a function from images to logits, got {type(model).__name__}")
    shape, dtype = tuple(images.shape), images.dtype
    try:
        logits = _answer(model, shape, dtype)
    except Exception as problem:
        raise _refusal(model, shape, dtype, problem) from problem
    if not isinstance(logits, jax.ShapeDtypeStruct):
        kind = f"a dict of {', '.join(map(str, logits))}" if isinstance(logits, dict) else f"a {type(logits).__name__}"
        raise UserError(f"expected a classifier that gives one array of logits, got {kind}: wrap it to give the logits")
    if (
        logits.ndim == 1
        and logits.shape != shape[:1]
        and len(shape) == 4
        and (remedy := _one_image_remedy(model, shape, dtype))
    ):
        raise UserError(f"expected a classifier f of images (batch, height, width, channels), got {remedy}")
    if logits.ndim != 2 or logits.shape[0] != shape[0]:
        raise UserError(f"expected logits of shape ({shape[0]}, classes) from the classifier, got {logits.shape}")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise UserError(f"expected logits as floating-point numbers from the classifier, got {logits.dtype}")
    if logits.shape[1] < 2:
        raise UserError(
            f"expected logits of at least 2 classes from the classifier, got {logits.shape[1]}: "
            "a single logit z stands for two, 0 and z"
        )
    return int(logits.shape[1])


def _answer(model: Callable[..., Any], shape: tuple[int, ...], dtype: Any) -> Any:
    """Shape and type of what a model gives."""
    images = jax.ShapeDtypeStruct(shape, dtype)
    # What a network refuses it is to refuse with the caller's own numbers.
    if not isinstance(model, Classifier) or len(shape) != 4 or shape[-1] != model.image_shape[-1]:
        return jax.eval_shape(model, images)
    # JAX remembers what it has traced, but would print the network, digest and all, at every call.
    known, kind = _answers.setdefault(model, {}), (shape[1:], dtype)
    if kind not in known:
        known[kind] = jax.eval_shape(model, images.update(shape=(TRACED_ROWS, *shape[1:])))
    return known[kind].update(shape=(*shape[:1], *known[kind].shape[1:]))


_answers: weakref.WeakKeyDictionary[Classifier, dict[Any, Any]] = weakref.WeakKeyDictionary()


def norm_named(norm: Any, taken: tuple[str, ...] = _USUAL_NORMS, of: str = "") -> str:
    """The norm meant by a name in any spelling ("L2", "l2", "Linf", "inf"), or by 0, 1, 2 or infinity.

    Args:
        norm: its name.
        taken: those that there are to choose from.
        of: whose it is, for the message; nobody's if empty.

    Raises:
        UserError: it is none of them.
    """
    is_number = isinstance(norm, int | float | np.number) and not isinstance(norm, bool)
    name = f"{norm:g}" if is_number else norm
    known = _NORMS.get(name.lower().replace("_", "").replace("-", "")) if isinstance(name, str) else None
    if known not in taken:
        choice = " or ".join([*filter(None, [", ".join(taken[:-1])]), taken[-1]])
        whose = f" of {of}" if of else ""
        raise UserError(f"expected {choice} as the norm{whose}, got {norm!r}")
    return known


def norms_of(settings: Any) -> tuple[str, ...]:
    """The norms that settings can be told to have, as they say by `norms`; the usual ones if they do not say."""
    norms: tuple[str, ...] = getattr(settings, "norms", _USUAL_NORMS)
    return norms


def check_settings(settings: Any, in_use: bool = True) -> None:
    """Refuse settings that no attack can work with, and write those in other spellings as attacks read them.

    Args:
        settings: a dataclass of settings, whose fields are known by their names.
        in_use: it is about to be used. Before, only Python's and NumPy's floating-point numbers are looked at, because
            JAX makes such objects of other things too: axes to map over, shapes, gradients.

    Raises:
        UserError: a value is out of its range; its name is in the message.
    """
    for field in dataclasses.fields(settings):
        name, value = field.name, getattr(settings, field.name)
        if value is None and field.default is None:
            continue
        if name in _NUMBERS and (in_use or isinstance(value, float | np.floating)):
            check_number(name, value, name in getattr(settings, "may_be_infinite", ()))
        elif name in _COUNTS:
            object.__setattr__(settings, name, counted(name, value))
        elif name == "criterion" and not isinstance(value, Criterion):
            given = value.__name__ if isinstance(value, type) else repr(value)
            raise UserError(f"expected a criterion such as Targeted(), got {given}")
        elif name in ("norm", "shrink"):
            object.__setattr__(settings, name, norm_named(value, norms_of(settings)))
        elif name in _CHOICES and value not in _CHOICES[name]:
            raise UserError(f"expected {' or '.join(_CHOICES[name])} as {name}, got {value!r}")
    eps = getattr(settings, "eps", None)
    if getattr(settings, "norm", None) == "Linf" and (in_use or isinstance(eps, float | np.floating)):
        _check_linf(eps)


def _check_linf(eps: Any) -> None:
    """No two images differ by more than 1 in a value: who says more thinks of pixels up to 255."""
    if _has_values(eps) and 1 < float(eps) < math.inf:
        raise UserError(f"expected eps of at most 1 in Linf, since images lie in [0,1], got {eps}: is {eps}/255 meant?")


def with_settings(settings: _Settings, kind: str, given: Mapping[str, Any]) -> _Settings:
    """The same settings but for those that are given.

    Args:
        settings: a dataclass of settings, with a `name`.
        kind: what it is, for messages: "attack".
        given: by the names of fields.

    Raises:
        UserError: there is no such setting, or a value is none that it can work with.
    """
    known = [field.name for field in dataclasses.fields(settings)]
    for name, value in given.items():
        if name not in known:
            has = ", ".join(known) or "it has none"
            raise UserError(f"expected a setting of the {kind} {settings.name} ({has}), got {name}")
        present = getattr(settings, name)
        if isinstance(present, bool) and not isinstance(value, bool | np.bool_ | jax.Array):
            raise UserError(f"expected True or False as {name}, got {value!r}")
        # An attack or an attribution inside another.
        if hasattr(present, "with_settings") and not hasattr(value, "with_settings"):
            raise UserError(f"expected something such as {type(present).__name__}() as {name}, got {value!r}")
    return dataclasses.replace(settings, **given)


def check_number(name: str, value: Any, may_be_infinite: bool = False) -> None:
    """Refuse a setting that is no number or out of its range.

    Args:
        name: of the setting.
        value: of it.
        may_be_infinite: infinity is one too.

    Raises:
        UserError: see above.
    """
    range_ = _NUMBERS[name]
    if isinstance(value, jax.Array) and not _has_values(value):
        return
    kind = getattr(value, "dtype", np.asarray(value).dtype)
    if not (jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)):
        raise UserError(f"expected a number {range_.text} as {name}, got {value!r}")
    if np.ndim(value):
        raise UserError(f"expected one number as {name}, got an array of shape {np.shape(value)}")
    if may_be_infinite and np.asarray(value) == math.inf:
        return
    if not range_.holds(np.asarray(value)).all():
        raise UserError(f"expected {name} {range_.text}, got {value}")


def counted(name: str, value: Any) -> int:
    """A whole number of the settings.

    Raises:
        UserError: it is no whole number, or too small.
    """
    fewest, thing = _COUNTS[name]
    try:
        count = operator.index(value)
    except TypeError:
        raise UserError(f"expected a whole number as {name}, got {value!r}") from None
    if isinstance(value, bool) or count < fewest:
        raise UserError(f"expected at least {fewest} {thing}, got {value}")
    return count


def _array(value: Any, what: str) -> Any:
    """As a JAX or NumPy array, where it is."""
    if isinstance(value, jax.Array | np.ndarray):
        return value
    try:
        lies_on_device = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value))
        array = jnp.asarray(value) if lies_on_device else np.asarray(value)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype == np.object_:
        raise UserError(f"expected {what} as an array of numbers, got {type(value).__name__}")
    return array


def _has_values(value: Any) -> bool:
    """Whether values can be looked at here: not those of arguments of compiled code, nor those of other processes."""
    if isinstance(value, jax.core.Tracer) or value is None:
        return False
    return not isinstance(value, jax.Array) or value.is_fully_addressable


def _extremes(values: Array | np.ndarray) -> tuple[Any, Any]:
    """The smallest and the largest value; NaN if there is one."""
    if isinstance(values, np.ndarray):
        return values.min().item(), values.max().item()
    # Where the array is a constant of code that is being compiled, too.
    with jax.ensure_compile_time_eval():
        low, high = jax.device_get(_ends(values))
    return low.item(), high.item()


@jax.jit
def _ends(values: Array) -> tuple[Array, Array]:
    return values.min(), values.max()


def _one_image_remedy(model: Callable[..., Any], shape: tuple[int, ...], dtype: Any) -> str:
    """What a classifier of one image, as people write them in Equinox, is called, and what makes it one of a batch."""
    _, first, second, third = shape
    for one, function, note in (
        ((first, second, third), "jax.vmap(f)", ""),
        ((third, first, second), "jax.vmap(f) of x.transpose(0, 3, 1, 2)", ", channels first"),
    ):
        try:
            logits = jax.eval_shape(model, jax.ShapeDtypeStruct(one, dtype))
        except Exception:  # noqa: S112 - it does not take one image either
            continue
        if isinstance(logits, jax.ShapeDtypeStruct) and logits.ndim == 1:
            return f"one of a single image{note}: pass {function}, or advx_jax.from_equinox(f) of an Equinox module"
    return ""


def _refusal(model: Callable[..., Any], shape: tuple[int, ...], dtype: Any, problem: Exception) -> UserError:
    """Why a classifier does not take images: by what it would take instead, where that is known."""
    others: list[tuple[tuple[int, ...], Any, str]] = []
    if len(shape) == 4:
        n, first, second, third = shape
        others += [
            ((n, third, first, second), dtype, "one with channels first: pass lambda x: f(x.transpose(0, 3, 1, 2))"),
            ((n, second, third, first), dtype, f"images of shape {shape}: pass images.transpose(0, 2, 3, 1)"),
        ]
    if len(shape) == 3:
        others += [
            ((1, *shape), dtype, f"an image of shape {shape} without a batch: pass images[None]"),
            ((*shape, 1), dtype, f"images of shape {shape} without channels: pass images[..., None]"),
        ]
    others += [
        (shape, half, f"one that takes {half} only: pass lambda x: f(x.astype({half!r}))")
        for half in ("bfloat16", "float16")
    ]
    for other_shape, other_dtype, message in others:
        try:
            jax.eval_shape(model, jax.ShapeDtypeStruct(other_shape, other_dtype))
        except Exception:  # noqa: S112 - it takes this no more than the images themselves
            continue
        return UserError(f"expected a classifier f of images (batch, height, width, channels), got {message}")
    if len(shape) == 4 and (remedy := _one_image_remedy(model, shape, dtype)):
        return UserError(f"expected a classifier f of images (batch, height, width, channels), got {remedy}")
    if isinstance(problem, UserError):
        return problem
    if evaluate := _TRAINING_MODE.get(type(problem).__name__):
        return UserError(f"expected a classifier in evaluation mode, got one that is in training mode: {evaluate}")
    kind, reason = type(problem).__name__, (str(problem).strip().splitlines() or [""])[0][:_LONGEST_REASON]
    said = f"{kind}: {reason}" if reason else kind
    return UserError(f"expected a classifier that takes {dtype} images of shape {shape}, got from it {said}")

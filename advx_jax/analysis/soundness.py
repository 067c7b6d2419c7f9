"""What must hold before a classifier's answers are worth anything: it fits the images, and answers for each alone.

Work is cut into chunks, padded, compiled once and repeated. A network in training mode, or one that draws or remembers
something, gives answers that look like results and are none. Three small passes over the same image tell.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from advx_jax.attacks.base import Model
from advx_jax.attacks.checks import ImagesLike, LabelsLike, checked, number_of_classes
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.errors import UserError
from advx_jax.messages import one_line, say_once, size_in_words
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.own_classifier import OwnClassifier
from advx_jax.networks.pytrees import as_pytree
from advx_jax.networks.random_classifier import at_some_draw
from advx_jax.networks.registry import NamedModel, OwnModel

# Images in the probe's company.
_COMPANY = 3
# How much two passes over one image may differ, of the logits compared: in float32, and in units in the last place of
# what has fewer digits. Statistics of the batch and dropout move logits by far more than either.
_ROUNDING, _UNITS = 1e-3, 16
# How near to 1 the outputs of a softmax sum up, as in AutoAttack's own checks.
_SUMS_TO_ONE = 1e-5

NO_LOGITS = (
    "outputs are between 0 and 1 and sum to 1, like a softmax's: attacks need logits, for a softmax's gradients vanish"
)
"""What is to be said of a classifier that has a softmax at its end."""

# By their names in compiled code.
_NARROW = {"bf16": jnp.bfloat16, "f16": jnp.float16}
# What accelerators make of products of float32 if not told otherwise: TF32 has the digits of float16.
_PRODUCTS = {"gpu": jnp.float16, "tpu": jnp.bfloat16}


def fitted(model: NamedModel, shape: tuple[int, ...]) -> NamedModel:
    """Tell a person's own classifier what images it is to take, which tells how many classes it has.

    Args:
        model: any; a `Classifier` knows both by its architecture.
        shape: of an image: height, width and channels.

    Raises:
        UserError: it gives no logits for such images, or contradicts what it says of itself.
    """
    if isinstance(model.classifier, Classifier):
        return model
    height, width, channels = shape
    own = model.classifier
    if own.image_shape not in (None, shape):
        raise UserError(
            f"expected images of {size_in_words(own.image_shape)} for the model, got {size_in_words(shape)}"
        )
    n_classes = number_of_classes(own.as_function(), np.zeros((_COMPANY, *shape), np.float32))
    return OwnModel(own.of_images((height, width, channels), n_classes), model.provenance)


def check_fit(classifier: Classifier | OwnClassifier, data: ImageSet, takes_random: bool = False) -> None:
    """Refuse a network and data that do not belong together, and a network that gives no answers, before any work.

    Args:
        classifier: the network.
        data: labelled images.
        takes_random: a random network will do (`from_random_function`).

    Raises:
        UserError: they have not equally many classes, or the network does not take such images; see `check_answers`.
    """
    check_classes(classifier, data.class_names)
    model = at_some_draw(classifier) if takes_random else classifier
    checked(model, np.zeros((1, *data.images.shape[1:]), np.float32), np.zeros(1, np.int32))
    if len(data.images):
        check_answers(model, unit_images(data.images[:1]))


def check_classes(classifier: Classifier | OwnClassifier, class_names: tuple[str, ...]) -> None:
    """Refuse a network that does not have these classes.

    Raises:
        UserError: it has more, or fewer, or calls them otherwise.
    """
    n_classes = classifier.n_classes
    if n_classes != len(class_names):
        raise UserError(
            f"expected a network for the data's {len(class_names)} classes ({class_names[0]} to {class_names[-1]}), "
            f"got one of {n_classes}"
        )
    if classifier.class_names not in (None, class_names):
        pairs = zip(class_names, classifier.class_names, strict=True)
        place, (one, other) = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
        raise UserError(
            f"expected a network with the data's classes, got one whose class {place} is {one_line(other)}, "
            f"not {one_line(one)}"
        )


def prepared(
    model: Model, images: ImagesLike, labels: LabelsLike | None = None
) -> tuple[Float[np.ndarray, "n *shape"], Int[np.ndarray, " n"], int]:
    """Check classifier, images and labels, as every analysis does before its work.

    Args:
        model: images to logits.
        images: on the [0,1] scale. There may be none, and then nothing is checked.
        labels: true classes; None where the analysis has no use for them.

    Returns:
        Images and labels as arrays of the types that attacks take, and K (0 if there are no images).

    Raises:
        UserError: see `checked` and `check_answers`.
    """
    n_images = _length(images)
    if n_images == 0 and (labels is None or _length(labels) == 0):
        return np.asarray(images, np.float32), np.zeros(0, np.int32), 0
    x, y, n_classes = checked(model, images, np.zeros(n_images, np.int32) if labels is None else labels)
    x, y = np.asarray(x), np.asarray(y)
    check_answers(model, x)
    return x, y, n_classes


def _length(values: Any) -> int:
    """How many there are; where that means nothing, `checked` is to say so."""
    return len(values) if hasattr(values, "__len__") and np.ndim(values) else 1


def check_answers(model: Model, images: Float[np.ndarray, "n *shape"]) -> None:
    """Refuse a classifier whose answer for an image does not depend on that image alone.

    The first image is classified in a small batch, twice, and alone without compilation, where it has another place
    too. A `Classifier` is in evaluation mode by its making and is not looked at. Where outputs look like a softmax's, a
    line on standard error says so once: with one on top of them, there still are answers, but to other questions.

    Raises:
        UserError: the answer depends on the rest of the batch, differs from call to call, or was fixed
            by an earlier call; with the remedy.
    """
    if isinstance(model, Classifier):
        return
    compiled = as_pytree(model)
    batch = jnp.asarray(_probes(images))
    for part in (batch, batch[-1:]):
        number_of_classes(model, part)
    try:
        first, second = (np.asarray(_classify(compiled, batch), np.float64) for _ in range(2))
    except jax.errors.ConcretizationTypeError as error:
        raise UserError(
            "expected a classifier whose flags are no arguments of its compiled code, got one that asks for the value "
            "of one: use jax.tree_util.Partial(functools.partial(network.apply, train=False), variables)"
        ) from error

    scale = leading_scale(first)

    def differs(other: Float[np.ndarray, "some classes"]) -> bool:
        part = first[-len(other) :]
        # How precisely it computes costs a look at all that it does, and is asked only where it matters.
        if not differing_rows(part, other, scale, _ROUNDING).any():
            return False
        return bool(differing_rows(part, other, scale, _precision(compiled, batch)).any())

    if differs(second):
        raise UserError(
            "expected equal logits for equal images, got other ones when asked again: a random classifier cannot be "
            "explained or measured image by image; fix what it draws, or let it draw by keys (from_random_function)"
        )
    if not differs(_uncompiled(compiled, batch[-1:])):
        if like_a_softmaxs(first).all():
            say_once(f"warning: {NO_LOGITS}")
        return
    if not differs(_uncompiled(compiled, batch)):
        raise UserError(
            "expected logits that depend on their own image only, got other ones in another batch: put the network "
            "into evaluation mode (train=False, use_running_average=True, deterministic=True; model.eval() in NNX); a "
            "random one has to draw for each image by the image's own key"
        )
    raise UserError(
        "expected a function of the images alone, got other logits from it than when it was compiled: what it draws, "
        "counts or reads from outside was fixed by its first call; pass weights as arguments, as "
        "jax.tree_util.Partial(network.apply, variables) does, or make a new function for new weights"
    )


def _probes(images: Float[np.ndarray, "n *shape"]) -> Float[np.ndarray, "probes *shape"]:
    """An image to ask about, and before it others that have nothing in common with it."""
    drawn = np.random.default_rng(0).uniform(size=(_COMPANY, *images.shape[1:]))
    return np.concatenate([drawn.astype(images.dtype), images[:1]])


def _uncompiled(compiled: Model, images: Array) -> Float[np.ndarray, "batch classes"]:
    """Logits as the function gives them now, whatever was compiled of it before."""
    # Put together anew: a module that counts its calls or moves its statistics is to be left as it was.
    leaves, structure = jax.tree.flatten(compiled)
    try:
        return np.asarray(jax.tree.unflatten(structure, leaves)(images), np.float64)
    except jax.errors.UnexpectedTracerError as error:
        raise UserError(
            "expected a function of the images alone, got one that keeps what it computed in an earlier call"
        ) from error


def leading_scale(logits: Float[np.ndarray, "batch classes"]) -> float:
    """Size of the logits that decide: the two that lead; not the largest, which may be a dead class's -1e9."""
    leading = np.sort(np.where(np.isfinite(logits), logits, -np.inf), axis=-1)[:, -2:]
    return float(np.abs(leading[np.isfinite(leading)]).max(initial=0))


def differing_rows(
    one: Float[np.ndarray, "batch classes"], other: Float[np.ndarray, "batch classes"], scale: float, tolerance: float
) -> Bool[np.ndarray, " batch"]:
    """Which images have logits that differ by more than rounding.

    Args:
        one: logits.
        other: the same images' logits of another pass.
        scale: of logits that decide, see `leading_scale`.
        tolerance: how much they may differ, relative to `scale` and themselves. Infinite and NaN ones may not.
    """
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    finite = np.isfinite(one) & np.isfinite(other)
    apart = np.abs(np.subtract(one, other, where=finite, out=np.zeros(one.shape)))
    close = finite & (apart <= tolerance * (np.where(finite, np.abs(one), 0) + scale))
    return ~(same | close).all(-1)


def like_a_softmaxs(logits: Float[np.ndarray, "batch classes"]) -> Bool[np.ndarray, " batch"]:
    """Of which images the outputs are between 0 and 1 and sum to 1."""
    in_range = ((logits > -_SUMS_TO_ONE) & (logits < 1 + _SUMS_TO_ONE)).all(-1, keepdims=True)
    sums = np.where(in_range, logits, 0).sum(-1)
    return np.asarray(np.abs(sums - 1) < _SUMS_TO_ONE)


def _precision(compiled: Model, batch: Array) -> float:
    """How much logits may differ for the lowest precision that anything is computed in."""
    inside = str(jax.make_jaxpr(lambda f, x: f(x))(compiled, batch))
    types = [dtype for name, dtype in _NARROW.items() if f":{name}[" in inside]
    if (platform := jax.default_backend()) in _PRODUCTS:
        types.append(_PRODUCTS[platform])
    return max([_ROUNDING, *(_UNITS * float(jnp.finfo(dtype).eps) for dtype in types)])


@jax.jit
def _classify(model: Model, images: Array) -> Float[Array, "batch classes"]:
    return model(images)

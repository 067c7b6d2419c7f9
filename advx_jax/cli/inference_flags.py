"""Flags that the inference commands share, and what they mean."""

from typing import get_args

from absl import flags

from advx_jax._runtime import keep_compiled_code
from advx_jax.analysis.soundness import fitted
from advx_jax.cli import file_hint_flags, run_flags
from advx_jax.cli.flag_types import define_size
from advx_jax.data import sources
from advx_jax.data.image_set import CIFAR10_SIDE, ImageSet, with_classes_of
from advx_jax.errors import UserError
from advx_jax.messages import size_in_words
from advx_jax.networks.class_names import class_names_of
from advx_jax.networks.precision import InferenceDtype
from advx_jax.networks.registry import NamedModel, computed_in, first_choice, resolve_model

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Network: a name (resnet44-all, …), a .safetensors or .pt file, a training workdir, or package.module:name of your "
    "own. "
    "Default: the best robust network that ships with the package.",
)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "Images: sample (shipped), tfds, a folder with CIFAR-10 or CIFAR-100, a folder of class folders, an .npz file of "
    "images and labels, tfds:NAME, or package.module:name of your own. Default: CIFAR-10 from $CIFAR10_PATH, else the "
    "fetched set, else the sample.",
)
_IMAGE_SIZE = define_size(
    "image_size",
    "HEIGHTxWIDTH to which images are cropped in the middle and resized. Default: what the network takes.",
)
_COMPUTE_DTYPE = flags.DEFINE_enum(
    "compute_dtype",
    "float32",
    get_args(InferenceDtype),
    "What convolutions are computed in: float32, the same on every machine; or TF32, faster on NVIDIA GPUs.",
)
flags.adopt_module_key_flags(file_hint_flags)
flags.adopt_module_key_flags(run_flags)

_CIFAR10_SHAPE = (CIFAR10_SIDE, CIFAR10_SIDE, 3)


def load_network_and_images(n_images: int | None, default: int | None) -> tuple[NamedModel, ImageSet, int]:
    """The network of --model, the test images of --data, and how many of them to work on.

    Args:
        n_images: as asked for; None if it was not.
        default: how many if nothing was asked for and there are enough; None for all.

    Raises:
        UserError: network or images are missing or cannot be read, or more images are asked for than there are.
    """
    network, data = load_images(load_network())
    return network, data, check_n_images(n_images, len(data), len(data) if default is None else default)


def load_images(network: NamedModel) -> tuple[NamedModel, ImageSet]:
    """The test images of --data as a network takes them, and the network that is known to take them.

    Raises:
        UserError: they are missing or cannot be read; network and images do not fit.
    """
    shape = wanted_shape(network)
    if _DATA.value is None and shape is not None and shape != _CIFAR10_SHAPE:
        raise UserError(
            f"expected --data for a network that takes images of {size_in_words(shape)}, got none: what is taken "
            f"without it is CIFAR-10, of {size_in_words(_CIFAR10_SHAPE)}"
        )
    data = sources.load_images(_DATA.value, "test", shape)
    network = fitted(network, data.images.shape[1:])
    return network, with_classes_of(data, network.classifier.n_classes, class_names_of(network.classifier))


def load_network() -> NamedModel:
    """The network of --model, which may not know yet what images it is to take.

    Raises:
        UserError: it cannot be found or read.
    """
    keep_compiled_code()
    model = first_choice().robust if _MODEL.value is None else _MODEL.value
    return computed_in(resolve_model(model, file_hint_flags.file_hints()), _COMPUTE_DTYPE.value)


def wanted_shape(network: NamedModel) -> tuple[int, int] | tuple[int, int, int] | None:
    """Height, width and channels to which images are brought: what --image_size asks for or the network takes.

    None, or without channels, where neither says it.
    """
    takes = network.classifier.image_shape
    if _IMAGE_SIZE.value is None:
        return takes
    height, width = _IMAGE_SIZE.value
    return (height, width) if takes is None else (height, width, takes[2])


def load_network_beside(model: str | None, shape: tuple[int, ...]) -> NamedModel | None:
    """The network to show beside that of --model, which must be another one.

    Args:
        model: what the command line asks for; if None, there is one only where --model is not given either.
        shape: height, width and channels of the images that it is to take.

    Raises:
        UserError: it cannot be found or read, or does not take such images.
    """
    if model is not None and model == _MODEL.value:
        raise UserError(f"expected another network beside that of --model, got {model!r} for both")
    if model is None and _MODEL.value is None:
        model = first_choice().ordinary
    if model is None:
        return None
    return fitted(computed_in(resolve_model(model), _COMPUTE_DTYPE.value), shape)


def data_was_given() -> bool:
    """Whether --data is on the command line."""
    return _DATA.value is not None


def check_n_images(n_images: int | None, available: int, default: int) -> int:
    """How many images to work on.

    Args:
        n_images: as asked for; None if it was not.
        available: how many there are.
        default: how many if nothing was asked for and there are enough.

    Raises:
        UserError: more are asked for than there are.
    """
    if n_images is None:
        return min(default, available)
    if n_images > available:
        raise UserError(f"expected --n_images from 1 to {available}, got {n_images}")
    return n_images

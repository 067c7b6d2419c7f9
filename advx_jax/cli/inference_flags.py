"""Flags that the inference commands share, and what they mean."""

from absl import flags

from advx_jax._runtime import keep_compiled_code
from advx_jax.analysis.soundness import fitted
from advx_jax.cli import run_flags
from advx_jax.data import sources
from advx_jax.data.image_set import ImageSet
from advx_jax.errors import UserError
from advx_jax.networks.registry import NamedModel, first_choice, resolve_model

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
    "Images: sample (shipped), tfds, or a folder with cifar-10-batches-py or -bin. Default: $CIFAR10_PATH, "
    "else the fetched set, else the sample.",
)
flags.adopt_module_key_flags(run_flags)


def load_network_and_images(n_images: int | None, default: int | None) -> tuple[NamedModel, ImageSet, int]:
    """The network of --model, the test images of --data, and how many of them to work on.

    Args:
        n_images: as asked for; None if it was not.
        default: how many if nothing was asked for and there are enough; None for all.

    Raises:
        UserError: network or images are missing or cannot be read, or more images are asked for than there are.
    """
    # The images first: they are read faster, and a wrong number of them is found before any other work.
    data = load_images()
    n_images = check_n_images(n_images, len(data), len(data) if default is None else default)
    return load_network(data.images.shape[1:]), data, n_images


def load_images() -> ImageSet:
    """The test images of --data.

    Raises:
        UserError: they are missing or cannot be read.
    """
    return sources.load_images(_DATA.value, "test")


def load_network(shape: tuple[int, ...]) -> NamedModel:
    """The network of --model.

    Args:
        shape: height, width and channels of the images that it is to take.

    Raises:
        UserError: it cannot be found or read, or does not take such images.
    """
    keep_compiled_code()
    return fitted(resolve_model(first_choice().robust if _MODEL.value is None else _MODEL.value), shape)


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
    return None if model is None else fitted(resolve_model(model), shape)


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

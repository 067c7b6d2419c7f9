"""What `import advx_jax as ax` offers beside the attacks: networks, images and explanations in one call each."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int32

from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.explanations import Explanation, explain
from advx_jax.attacks.base import Model
from advx_jax.attacks.checks import ImagesLike, LabelsLike, checked, checked_images
from advx_jax.attacks.published import EXPLANATION, PublishedBounded
from advx_jax.cache import at_home
from advx_jax.data.image_set import CIFAR10_CLASSES, Split, unit_images
from advx_jax.data.sources import load_cifar10
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Classifier, Provenance
from advx_jax.networks.files import save_network
from advx_jax.networks.registry import ResolvedNetwork, resolve_network
from advx_jax.runs.explain import ImagesToExplain, NamedImage
from advx_jax.runs.explain import explain_images as write_explanations


class Images(NamedTuple):
    """Labelled images, ready for attacks and analyses.

    Attributes:
        images: NHWC, on the [0,1] scale.
        labels: index of each image's class in `class_names`.
        class_names: what the classes are called.
        source: in words, where the images come from.
    """

    images: Float[np.ndarray, "n height width 3"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    source: str


def load_images(source: str | None = None, split: Split = "test") -> Images:
    """Load labelled images.

    Args:
        source: `sample`, the 256 test images of CIFAR-10 that ship with the package; `tfds`; a folder with CIFAR-10;
            or None for the first of these that is there, the full set before the sample.
        split: "test" or "train".

    Raises:
        UserError: the source is not there, is damaged, or has no such split.
    """
    data = load_cifar10(source, split)
    return Images(unit_images(data.images), data.labels.astype(np.int32), data.class_names, data.source)


def load_model(model: str) -> Classifier:
    """Load a network: a function from images to logits.

    Args:
        model: a name (`resnet20-quick-robust`, `resnet44-all`, …), a `.safetensors` or PyTorch `.pt` file, or a
            training workdir. Files are never executed.

    Raises:
        UserError: there is no such network, or its file is damaged.
    """
    return resolve_network(model).classifier


def save_model(path: str | Path, model: Classifier, name: str = "unnamed") -> None:
    """Write a network to a `.safetensors` file, whole or not at all.

    Raises:
        UserError: its variables are not its architecture's, or hold numbers that no network has.
    """
    save_network(at_home(str(path)), model, Provenance(name=name))


def explain_images(
    model: Model,
    images: ImagesLike,
    labels: LabelsLike | None = None,
    class_names: Sequence[str] | None = None,
    output: str | Path | None = None,
    attack: PublishedBounded = EXPLANATION,
    name: str = "model",
    overwrite: bool = False,
) -> list[Explanation]:
    """Explain images towards every class: what would make each look more like the class (arXiv 1906.02896).

    Args:
        model: any function from images to logits; a `Classifier` with `output`.
        images: on the [0,1] scale.
        labels: true classes; with `output`, where the pictures are named by them. The model's top classes if None.
        class_names: what the classes are called; `CIFAR10_CLASSES` for 10 classes if None.
        output: a folder for pictures, gallery (index.html) and JSON. They are made of 8-bit pixels, so that with it
            the images are those of the pixels.
        attack: how to explain; ρ is its eps.
        name: what to call the model in the results.
        overwrite: replace what other settings left in `output`.

    Returns:
        The explanation of each image; image + perturbation is what to look at.

    Raises:
        UserError: model, images or labels are none to work with; `output` holds results of other settings.
    """
    x = np.asarray(checked_images(images))
    if output is not None:
        if not isinstance(model, Classifier):
            raise UserError(f"expected a Classifier where explanations are written, got {type(model).__name__}")
        _write(model, x, labels, class_names, Path(at_home(str(output))), attack, name, overwrite)
    explained: list[Explanation | None] = [None] * len(x)
    for place, explanation in explain(model, x, attack):
        explained[place] = explanation
    return [explanation for explanation in explained if explanation is not None]


def _write(
    model: Classifier,
    x: Float[np.ndarray, "n height width channels"],
    labels: LabelsLike | None,
    class_names: Sequence[str] | None,
    output: Path,
    attack: PublishedBounded,
    name: str,
    overwrite: bool,
) -> None:
    given = labels is not None
    n_classes = checked(model, x, np.zeros(len(x), np.int32)).n_classes
    tops = predict(model, x).classes.clip(0)
    y = np.asarray(checked(model, x, labels).labels) if given else tops
    if class_names is None:
        class_names = CIFAR10_CLASSES if n_classes == len(CIFAR10_CLASSES) else [f"class_{c}" for c in range(n_classes)]
    pixels = np.round(x * 255).clip(0, 255).astype(np.uint8)
    named = [NamedImage(str(place), pixels[place], int(y[place]), given) for place in range(len(x))]
    wanted = ImagesToExplain(named, "images given in Python", tuple(class_names))
    network = ResolvedNetwork(model, Provenance(name=name), output)
    write_explanations(network, wanted, attack, output, overwrite, strict=False)

"""What `import advx_jax as ax` offers beside the attacks: networks, images and explanations in one call each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int32

from advx_jax.analysis import explanations
from advx_jax.analysis.accuracy import predict
from advx_jax.analysis.attribution.base import Attribution
from advx_jax.analysis.comparison import Comparison, chosen_methods, explain_and_attribute, is_compared, plan
from advx_jax.analysis.explanations import explain
from advx_jax.analysis.soundness import fitted
from advx_jax.analysis.targets import TargetsLike, chosen_targets, targets_named
from advx_jax.attacks.base import Model
from advx_jax.attacks.checks import ImagesLike, LabelsLike, checked_images, checked_labels, number_of_classes
from advx_jax.attacks.explaining import ExplanationAttack, explanation_in
from advx_jax.cache import at_home
from advx_jax.data import sources
from advx_jax.data.image_set import Split, numbered_classes, unit_images
from advx_jax.errors import UserError
from advx_jax.messages import one_line, size_in_words
from advx_jax.networks.class_names import class_names_of
from advx_jax.networks.classifier import Classifier, Provenance
from advx_jax.networks.files import save_network
from advx_jax.networks.own_classifier import OwnClassifier
from advx_jax.networks.registry import FileHints, OwnModel, resolve_network
from advx_jax.progress import call_progress, quiet_unless
from advx_jax.reports.shown_explanation import Explanation, Explanations
from advx_jax.runs.explain import ImagesToExplain, NamedImage, write_explanations

# Of classes, in one line.
_MOST_NAMES = 3


class Images(NamedTuple):
    """Labelled images, ready for attacks and analyses.

    Attributes:
        images: NHWC, on the [0,1] scale.
        labels: index of each image's class in `class_names`.
        class_names: what the classes are called.
        source: in words, where the images come from.
    """

    images: Float[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    source: str

    def __repr__(self) -> str:
        n, *size = self.images.shape
        first = ", ".join(map(one_line, self.class_names[:_MOST_NAMES]))
        names = first + ", …" * (len(self.class_names) > _MOST_NAMES)
        classes = f"{len(self.class_names)} classes: {names}"
        return f"Images({n} images of {size_in_words(size)}, {classes}; {one_line(self.source)})"


def load_images(
    source: str | None = None,
    split: Split = "test",
    n_images: int | None = None,
    image_shape: tuple[int, int] | tuple[int, int, int] | None = None,
) -> Images:
    """Load labelled images.

    Args:
        source: `sample`, the 256 test images of CIFAR-10 that ship with the package; `tfds`; a folder with CIFAR-10; or
            a set of one's own: a folder of class folders, an `.npz` file, and what else `--data` takes
            (docs/own-images.md). None is the first CIFAR-10 that is there, the full set before the sample.
        split: "test" or "train".
        n_images: how many, from the first; all if None.
        image_shape: (height, width) or (height, width, channels) to which the images are brought; as they are if None.

    Raises:
        UserError: the source is not there, is damaged, or has no such split; its images have several sizes and there is
            no `image_shape`; or it has fewer images.
    """
    data = sources.load_images(source, split, image_shape)
    if n_images is not None:
        if not 0 < n_images <= len(data):
            raise UserError(f"expected n_images from 1 to {len(data)}, got {n_images}")
        data = data.part(slice(n_images))
    return Images(unit_images(data.images), data.labels.astype(np.int32), data.class_names, data.source)


def load_model(
    model: str | Path, *, architecture: str | None = None, normalise: str | None = None, state_dict: str | None = None
) -> Classifier:
    """Load a network: a function from images to logits.

    Args:
        model: a name (`resnet20-quick-robust`, `resnet44-all`, …), a `.safetensors` or PyTorch `.pt` file, a
            training workdir, or `robustbench:NAME`. Files are never executed.
        architecture: of a PyTorch file that does not tell it: its name, for instance "PreActResNet-18-v2".
        normalise: of a PyTorch file that does not tell it: how images are normalised, "none", "cifar10",
            "cifar100", "imagenet", or means/standard deviations as "0.49,0.48,0.45/0.25,0.24,0.26".
        state_dict: of a PyTorch file: key of the state dict in it; looked for if None.

    Raises:
        UserError: there is no such network, its file is damaged, or does not tell what must be known.
    """
    return resolve_network(str(model), FileHints(architecture, normalise, state_dict)).classifier


def save_model(path: str | Path, model: Classifier, name: str = "unnamed") -> None:
    """Write a network to a `.safetensors` file, whole or not at all.

    Raises:
        UserError: it is no `Classifier`; its variables are not its architecture's, or hold numbers that no network has.
    """
    if not isinstance(model, Classifier):
        raise UserError(f"expected save_model(path, model) with a Classifier, got {type(model).__name__}")
    save_network(at_home(str(path)), model, Provenance(name=name))


def explain_images(
    model: Model,
    images: ImagesLike,
    labels: LabelsLike | None = None,
    class_names: Sequence[str] | None = None,
    output: str | Path | None = None,
    attack: ExplanationAttack | None = None,
    targets: TargetsLike | None = None,
    name: str = "model",
    overwrite: bool = False,
    progress: bool | None = None,
    norm: str | None = None,
    methods: str | Attribution | Sequence[str | Attribution] | Mapping[str, Attribution] = (),
) -> Explanations:
    """Explain images towards classes: what would make each look more like the class (arXiv 1906.02896).

    Args:
        model: any function from images to logits.
        images: on the [0,1] scale.
        labels: true classes; with `output`, the pictures are named by them, or by the model's top classes if None.
        class_names: what the classes are called; if None, as the model says, or else class_0, class_1, …
        output: a folder for pictures, gallery (index.html) and JSON. They are made of 8-bit pixels, so that with it
            the images are those of the pixels.
        attack: how to explain; ρ is its eps. As published if None.
        targets: `"all"` classes, `"top5"`, the 5 likeliest and the label (any number), or names or numbers of classes,
            with commas between them or in a list; None for all of up to 20 classes, else the top 5.
        name: what to call the model in the results.
        overwrite: replace what other settings left in `output`.
        progress: show a bar; None for in a notebook only.
        norm: `"L2"`, `"Linf"` or `"L1.5"`, for the usual attack in this norm in place of `attack`.
        methods: to compare with, `"integrated_gradients,smoothgrad"`, a method, or a list of names and methods; or
            by names of your own. Explanations then have their attributions, and how good they are as counterfactuals.

    Returns:
        The explanation of each image, in a list; a notebook shows their pictures.

    Raises:
        UserError: model, images, labels, class names or methods are none to work with; `output` holds results of other
            settings.
    """
    if attack is not None and norm is not None:
        raise UserError("expected attack or norm, got both")
    attack = explanation_in("L2" if norm is None else norm) if attack is None else attack
    chosen_to_compare = chosen_methods(methods, attack)
    x = np.asarray(checked_images(images))
    n_classes = number_of_classes(model, x)
    names = _names_of_classes(class_names, model, n_classes)
    y = None if labels is None else np.asarray(checked_labels(labels, len(x), n_classes))
    chosen = targets_named(targets, names)
    found: dict[int, tuple[explanations.Explanation, Comparison | None]] = {}
    if output is not None:
        pixels = np.round(x * 255).clip(0, 255).astype(np.uint8)
        x = unit_images(pixels)
        shown = predict(model, x, progress=False).classes.clip(0) if y is None else y
        named = [NamedImage(str(place), place, int(shown[place]), y is not None) for place in range(len(x))]
        with quiet_unless(progress):
            write_explanations(
                fitted(OwnModel(_classifier(model), Provenance(name=name)), x.shape[1:]),
                ImagesToExplain(named, pixels, "images given in Python", names),
                attack,
                Path(at_home(str(output))),
                overwrite,
                strict=False,
                targets=chosen,
                found=lambda place, *made: found.update({int(place): made}),
                methods=chosen_to_compare,
            )
    # With an output, those whose pictures were there already.
    left = [place for place in range(len(x)) if place not in found]
    towards = chosen_targets(model, x[left], None if y is None else y[left], chosen)
    with call_progress(len(left), "explain", progress) as update:
        if left and is_compared(chosen_to_compare, attack):
            planned = plan(model, x[left], attack, chosen_to_compare, chosen.count(n_classes))
            for place, explanation, comparison in explain_and_attribute(model, x[left], planned, towards, update):
                found[left[place]] = (explanation, comparison)
        else:
            for place, explanation in explain(model, x[left], attack, update, targets=towards):
                found[left[place]] = (explanation, None)
    return Explanations(
        Explanation(
            **vars(found[place][0]),
            image=x[place],
            class_names=names,
            label=None if y is None else int(y[place]),
            comparison=found[place][1],
        )
        for place in range(len(x))
    )


def _classifier(model: Model) -> Classifier | OwnClassifier:
    if isinstance(model, Classifier | OwnClassifier):
        return model
    # Other frameworks' modules are known there, which takes a while to import.
    from advx_jax.networks.adapters import from_function

    return from_function(model)


def _names_of_classes(given: Sequence[str] | None, model: Model, n_classes: int) -> tuple[str, ...]:
    if given is None:
        return class_names_of(model) or numbered_classes(n_classes)
    if len(given) != n_classes:
        raise UserError(f"expected names of the model's {n_classes} classes, got {len(given)}")
    return tuple(map(str, given))

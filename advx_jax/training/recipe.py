"""What is trained and how: the typed form of a config, checked once, before any work."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from advx_jax.errors import UserError
from advx_jax.messages import nearest, shown
from advx_jax.networks.architecture import Architecture
from advx_jax.networks.named import architecture_named
from advx_jax.networks.resnet import ResNetArchitecture
from advx_jax.training.data_facts import CIFAR10_FACTS, DataFacts

# No field of a config.
_FROM_DATA = ("facts",)


@dataclasses.dataclass(frozen=True)
class ArchitectureFields:
    """What a config says of the network.

    Attributes:
        stage_lengths: see `ResNetArchitecture`, as the others.
        stage_widths: see there.
        n_classes: K; 0 for as many as the data have.
        activation: see there.
        bowl_width: see there.
        name: of a network of another family, see `architecture_named`, for which the rest says nothing; "" for ours.
    """

    stage_lengths: tuple[int, ...]
    stage_widths: tuple[int, ...]
    n_classes: int
    activation: Literal["relu", "half_huber"]
    bowl_width: float
    name: str = ""

    def of_images(self, facts: DataFacts) -> Architecture:
        """The network for images.

        Raises:
            UserError: there is no such network.
        """
        n_classes = self.n_classes or facts.n_classes
        if not self.name:
            return ResNetArchitecture(
                self.stage_lengths, self.stage_widths, n_classes, self.activation, self.bowl_width, facts.image_shape
            )
        if self.activation != "relu":
            raise UserError(
                f"config.architecture.activation: expected relu beside the name {self.name}, got {self.activation}"
            )
        try:
            return architecture_named(self.name, n_classes=n_classes, image_shape=facts.image_shape)
        except UserError as error:
            raise UserError(f"config.architecture.name: {error}") from error


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """SGD as PyTorch's, and how its learning rate moves.

    Attributes:
        learning_rate_per_128: highest learning rate, for each 128 examples of the global batch.
        warm_up_epochs: over which the rate rises in a line from 0 to the highest; parts of an epoch count.
        decay: "drops", at the epochs named; "linear" or "cosine", to 0 at the last step.
        learning_rate_drops: epochs (counted from 0) from which on the rate is a tenth of what it was;
            only with "drops".
        momentum: of the velocity; no Nesterov, no dampening.
        weight_decay: factor of every parameter that is added to its gradient.
    """

    learning_rate_per_128: float
    warm_up_epochs: float
    decay: Literal["drops", "linear", "cosine"]
    learning_rate_drops: tuple[int, ...]
    momentum: float
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class Penalty:
    """The Lipschitz penalty ψ·mean((∂s/∂x)²) and the controller of its weight, ψ = ψ₀·exp(rate·r).

    Attributes:
        weight_at_zero: ψ₀, the weight at r = 0.
        rate: growth of ln ψ with r.
        target_loss: cross-entropy above which r falls and below which it rises.
        smallest_move: least change of r in a step.
        largest_move: greatest change of r in a step.
        tandem_probability: ζ, how often s is the label's logit less the largest other one,
            instead of a logit drawn at random.
    """

    weight_at_zero: float
    rate: float
    target_loss: float
    smallest_move: float
    largest_move: float
    tandem_probability: float


@dataclasses.dataclass(frozen=True)
class TrainingAttack:
    """The attack of adversarial training, run in training mode.

    Attributes:
        kind: "none"; "l2", bounded; or "l2_min", minimum norm.
        eps: RMS on the [0,1] scale: the bound, and the length of the path.
        steps: T, the number of steps.
        attacked_probability: how often an example is attacked; ½ is the paper's half-half.
    """

    kind: Literal["none", "l2", "l2_min"]
    eps: float
    steps: int
    attacked_probability: float


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random flips and crops.

    Attributes:
        padding: pixels of edge replication on each side before the crop; in a config, of images of 32 pixels, and of
            others in proportion.
        flip_probability: of a left-right flip.
    """

    padding: int
    flip_probability: float


@dataclasses.dataclass(frozen=True)
class Keeping:
    """What is written while training; nothing here changes what is computed.

    Attributes:
        checkpoint_minutes: time between two checkpoints; there is one at the end of each epoch too.
        n_checkpoints: how many of the last checkpoints stay.
        log_every: steps between two lines of metrics.
        ara_images: images of the short accuracy-robustness area at the end; 0 for none.
    """

    checkpoint_minutes: float
    n_checkpoints: int
    log_every: int
    ara_images: int


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a training run depends on.

    Attributes:
        name: of the network that comes out.
        seed: of all random draws.
        data: the images, as `--data` of the other commands has them.
        epochs: passes over the training images.
        batch_size: of all devices together.
        held_out: training images kept out of training, by which the best network is chosen.
        architecture: of the network.
        optimizer: see `Optimizer`.
        penalty: see `Penalty`; None trains without it.
        attack: see `TrainingAttack`.
        augmentation: see `Augmentation`.
        batch_norm: "synchronised": statistics of the global batch; "per_device": each device's own,
            as published, the running ones averaged at the end of each step.
        compute_dtype: of the convolutions; parameters, statistics and losses are float32 anyway, and with
            "tensorfloat32" all numbers but the factors of a GPU's products, which have 10 bits.
        init_from: network to start from, as `--model`; "" for a fresh one.
        keeping: see `Keeping`.
        image_size: height and width to which images are brought; 0 for as they are.
        facts: what was found out about the images, which no config says.
    """

    name: str
    seed: int
    data: str
    epochs: int
    batch_size: int
    held_out: int
    architecture: Architecture
    optimizer: Optimizer
    penalty: Penalty | None
    attack: TrainingAttack
    augmentation: Augmentation
    batch_norm: Literal["synchronised", "per_device"]
    compute_dtype: Literal["float32", "tensorfloat32", "bfloat16"]
    init_from: str
    keeping: Keeping
    image_size: int = 0
    facts: DataFacts = CIFAR10_FACTS

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        if not self.name.isprintable():
            raise UserError(f"config.name: expected printable text in one line, got {shown(self.name)}")
        _at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        _at_least(0, seed=self.seed, held_out=self.held_out, image_size=self.image_size)
        _at_least(0, **{"augmentation.padding": self.augmentation.padding})
        _at_least(0, **{"keeping.ara_images": self.keeping.ara_images})
        _at_least(1, **{f"keeping.{name}": getattr(self.keeping, name) for name in ("log_every", "n_checkpoints")})
        probabilities = {
            "attack.attacked_probability": self.attack.attacked_probability,
            "augmentation.flip_probability": self.augmentation.flip_probability,
        }
        positive = {"optimizer.learning_rate_per_128": self.optimizer.learning_rate_per_128}
        if self.attack.kind != "none":
            _at_least(1, **{"attack.steps": self.attack.steps})
            positive["attack.eps"] = self.attack.eps
        if self.penalty is not None:
            probabilities["penalty.tandem_probability"] = self.penalty.tandem_probability
            positive["penalty.target_loss"] = self.penalty.target_loss
            positive["penalty.weight_at_zero"] = self.penalty.weight_at_zero
            if self.penalty.smallest_move > self.penalty.largest_move:
                raise UserError(
                    f"config.penalty.smallest_move: expected at most largest_move, {self.penalty.largest_move}, "
                    f"got {self.penalty.smallest_move}"
                )
        drops = self.optimizer.learning_rate_drops
        if len(set(drops)) < len(drops):
            raise UserError(f"config.optimizer.learning_rate_drops: expected different epochs, got {drops}")
        if not 0 <= self.optimizer.warm_up_epochs < self.epochs:
            raise UserError(
                f"config.optimizer.warm_up_epochs: expected from 0 to less than the {self.epochs} epochs, "
                f"got {self.optimizer.warm_up_epochs}"
            )
        for field, value in probabilities.items():
            if not 0 <= value <= 1:
                raise UserError(f"config.{field}: expected a probability from 0 to 1, got {value}")
        for field, value in positive.items():
            if not value > 0:
                raise UserError(f"config.{field}: expected a number above 0, got {value}")

    @property
    def learning_rate(self) -> float:
        """The highest one, for the global batch."""
        return self.optimizer.learning_rate_per_128 * self.batch_size / 128


def recipe_from_config(config: Mapping[str, Any], facts: DataFacts = CIFAR10_FACTS) -> Recipe:
    """Turn a config (nested dictionaries, as JSON has them too) into a recipe.

    Args:
        config: may lack fields that have a default here, which are newer than the others.
        facts: of the images to train on.

    Raises:
        UserError: a field is missing, unknown (the nearest known one is named) or of the wrong type.
    """
    parts = dict(config)
    if "architecture" in parts:
        fields: ArchitectureFields = _build(ArchitectureFields, parts["architecture"], "config.architecture")
        parts["architecture"] = fields.of_images(facts)
    recipe = typing.cast(Recipe, _build(Recipe, parts, "config"))
    padding = round(recipe.augmentation.padding * min(facts.image_shape[:2]) / CIFAR10_FACTS.image_shape[0])
    augmentation = dataclasses.replace(recipe.augmentation, padding=padding)
    return dataclasses.replace(recipe, augmentation=augmentation, facts=facts)


def completed(config: Mapping[str, Any], facts: DataFacts = CIFAR10_FACTS) -> dict[str, Any]:
    """A config with the fields that are newer than it, and with the number of classes where it leaves that to the data.

    Args:
        config: as `recipe_from_config` takes it.
        facts: of the images to train on.
    """
    complete = {"image_size": 0, **config}
    if isinstance(fields := config.get("architecture"), Mapping):
        complete["architecture"] = {"name": "", **fields, "n_classes": fields.get("n_classes") or facts.n_classes}
    return complete


def differing_fields(expected: Mapping[str, Any], got: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> list[str]:
    """Name the fields in which two configs differ, with both values, one in a string."""
    left, right = _flat(expected), _flat(got)
    absent = "nothing"
    return [
        f"{name}: {left.get(name, absent)!s:.200} there, {right.get(name, absent)!s:.200} now"
        for name in sorted(left.keys() | right.keys())
        if left.get(name, absent) != right.get(name, absent) and not name.startswith(ignored)
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def _build(kind: Any, value: Any, where: str) -> Any:
    """Check a value against a type of this module and build it."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        (kind,) = [option for option in typing.get_args(kind) if option is not type(None)]
        return None if value is None else _build(kind, value, where)
    if kind is Architecture:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected fields, got {value!r}")
        hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if name not in _FROM_DATA}
        for name in value:
            if name not in hints:
                raise UserError(f"{where}.{name}: no such field{nearest(name, hints, 0.0)}")
        newer = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
        missing = [name for name in hints if name not in value and name not in newer]
        if missing:
            raise UserError(f"{where}: expected the fields {', '.join(missing)} too, got {', '.join(value)}")
        return kind(**{name: _build(hints[name], value[name], f"{where}.{name}") for name in hints if name in value})
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise UserError(f"{where}: expected one of {', '.join(typing.get_args(kind))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: expected a list, got {value!r}")
        element = typing.get_args(kind)[0]
        return tuple(_build(element, item, where) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number, got {value}")
    if type(value) is not kind:
        raise UserError(f"{where}: expected a value of type {kind.__name__}, got {value!r}")
    return value


def _at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise UserError(f"config.{name}: expected at least {least}, got {number}")

"""What is trained and how: the typed form of a config, checked once, before any work."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal

from advx_jax.errors import UserError
from advx_jax.messages import shown
from advx_jax.networks.architecture import Architecture
from advx_jax.networks.named import architecture_named
from advx_jax.networks.resnet import ResNetArchitecture
from advx_jax.training.config_fields import NO_FIELD, above_zero, at_least, build, expect, probability
from advx_jax.training.data_facts import CIFAR10_FACTS, DataFacts

# Of which random draws take 32 bits: two seeds that differ above them only would make the same network.
_SEEDS = 2**32


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

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        part, drops = "optimizer.", self.learning_rate_drops
        above_zero(part, learning_rate_per_128=self.learning_rate_per_128)
        expect(0 <= self.momentum < 1, f"{part}momentum", "at least 0 and below 1", self.momentum)
        at_least(0, part, weight_decay=self.weight_decay)
        expect(len(set(drops)) == len(drops), f"{part}learning_rate_drops", "different epochs", drops)
        expect(min(drops, default=0) >= 0, f"{part}learning_rate_drops", "epochs counted from 0", drops)


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

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant; the bound of the target is that of the number of classes."""
        part = "penalty."
        above_zero(part, weight_at_zero=self.weight_at_zero, rate=self.rate, target_loss=self.target_loss)
        expect(self.smallest_move <= 0, f"{part}smallest_move", "at most 0", self.smallest_move)
        at_least(0, part, largest_move=self.largest_move)
        probability(part, tandem_probability=self.tandem_probability)


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

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant; an attack that is not made needs no length."""
        part = "attack."
        probability(part, attacked_probability=self.attacked_probability)
        if self.kind != "none":
            at_least(1, part, steps=self.steps)
            above_zero(part, eps=self.eps)


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

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        at_least(0, "augmentation.", padding=self.padding)
        probability("augmentation.", flip_probability=self.flip_probability)


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

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        at_least(0, "keeping.", checkpoint_minutes=self.checkpoint_minutes, ara_images=self.ara_images)
        at_least(1, "keeping.", n_checkpoints=self.n_checkpoints, log_every=self.log_every)


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
    facts: DataFacts = dataclasses.field(default=CIFAR10_FACTS, metadata={NO_FIELD: True})

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        if not self.name.isprintable():
            raise UserError(f"config.name: expected printable text in one line, got {shown(self.name)}")
        at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        at_least(0, held_out=self.held_out, image_size=self.image_size)
        expect(0 <= self.seed < _SEEDS, "seed", f"at least 0 and below {_SEEDS}", shown(self.seed))
        warm_up = self.optimizer.warm_up_epochs
        within = f"from 0 to less than the {self.epochs} epochs"
        expect(0 <= warm_up < self.epochs, "optimizer.warm_up_epochs", within, warm_up)

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
        UserError: a field is missing, unknown (the nearest known one is named), of the wrong type, or a number that
            cannot be meant.
    """
    parts = dict(config)
    if "architecture" in parts:
        fields: ArchitectureFields = build(ArchitectureFields, parts["architecture"], "config.architecture")
        parts["architecture"] = fields.of_images(facts)
    recipe = typing.cast(Recipe, build(Recipe, parts, "config"))
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

"""The `training_options` that the published files carry beside their tensors (docs/method.md, Published networks)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from advx_jax.errors import UserError
from advx_jax.messages import listed, shown
from advx_jax.networks.resnet import ResNetArchitecture

from .pickled_objects import PREPROCESS

_FLAGS = ("robust_additions", "adversarial_training", "l2_min")
_LARGEST_SIZE = 2**20


@dataclass(frozen=True)
class TrainingOptions:
    """How a network was built and trained.

    Attributes:
        architecture: with its default bowl width, which the options do not hold.
        input_offset: channel means and standard deviations.
        flags: what is on and what is off: `robust_additions`, `adversarial_training`, `l2_min`.
        psi_integrator: r of the controller of the Lipschitz penalty's weight, if it has one.
    """

    architecture: ResNetArchitecture
    input_offset: tuple[tuple[float, ...], tuple[float, ...]]
    flags: dict[str, bool]
    psi_integrator: float | None

    def plain(self) -> dict[str, Any]:
        """Write them as in the published files, with None for the function in `arch`."""
        arch = self.architecture
        sizes = [list(arch.stage_lengths), list(arch.stage_widths), arch.n_classes]
        options: dict[str, Any] = {
            **self.flags,
            "arch": [arch.image_shape[0], None, *sizes],
            "input_offset": [list(row) for row in self.input_offset],
        }
        if self.psi_integrator is not None:
            options["robust_integration"] = self.psi_integrator
        return options


def read_options(
    options: object, n_tensors: int, image_shape: tuple[int, int, int] = ResNetArchitecture.image_shape
) -> TrainingOptions:
    """Check `training_options` as they come out of a file.

    Args:
        options: of any type.
        n_tensors: that come with them; no network has more blocks than tensors.
        image_shape: height, width and channels of the images, of which the options tell the height only.

    Raises:
        UserError: a key is missing or a value is not what it should be.
    """
    if not isinstance(options, dict):
        raise UserError(f"expected a dict of training_options, got {shown(options)}")
    options = dict(options)
    required = (*_FLAGS, "arch", "input_offset")
    missing = [key for key in required if key not in options]
    if missing:
        raise UserError(f"training_options: expected {', '.join(required)}, got no {', '.join(missing)}")
    sizes = _read_sizes(options.pop("arch"), n_tensors, image_shape[0])
    input_offset = _read_input_offset(options.pop("input_offset"), image_shape[2])
    psi_integrator = options.pop("robust_integration", None)
    if psi_integrator is not None and not _is_number(psi_integrator):
        raise UserError(f"training_options: expected a number as robust_integration, got {shown(psi_integrator)}")
    wrong = [
        f"{shown(key)} is {shown(value)}"
        for key, value in options.items()
        if not (isinstance(value, bool) and key.isidentifier())
    ]
    if wrong:
        raise UserError(f"training_options: expected True or False, but {listed(wrong)}")
    return TrainingOptions(
        ResNetArchitecture(
            *sizes, activation="half_huber" if options["robust_additions"] else "relu", image_shape=image_shape
        ),
        input_offset,
        options,
        None if psi_integrator is None else float(psi_integrator),
    )


def _read_sizes(arch: object, n_tensors: int, height: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    fields = list(arch) if isinstance(arch, list | tuple) else []
    if len(fields) != 5 or fields[0] != height or fields[1] not in (None, PREPROCESS):
        raise UserError(
            f"training_options: expected arch to be [{height}, preprocessing, stage lengths, stage widths, classes]"
        )
    lengths, widths, n_classes = fields[2:]
    for sizes in (lengths, widths, [n_classes]):
        if not isinstance(sizes, list | tuple) or not sizes or not all(_is_size(size) for size in sizes):
            raise UserError(
                "training_options: expected positive whole numbers as stage lengths, widths and classes in arch"
            )
    if sum(lengths) > n_tensors:
        raise UserError(f"training_options: arch has {sum(lengths)} blocks, but there are only {n_tensors} tensors")
    return tuple(lengths), tuple(widths), n_classes


def _read_input_offset(rows: object, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if isinstance(rows, list | tuple) and len(rows) == 2:
        mean, std = (tuple(row) if isinstance(row, list | tuple) else () for row in rows)
        if len(mean) == len(std) == channels and all(_is_number(value) for value in (*mean, *std)):
            return tuple(map(float, mean)), tuple(map(float, std))
    expected = f"[[{channels} means], [{channels} standard deviations]]"
    raise UserError(f"training_options: expected input_offset to be {expected}")


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return type(value) is int and abs(value) < 2**63


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value <= _LARGEST_SIZE


def shortest(values: np.ndarray) -> tuple[float, ...]:
    """The float64 with the fewest digits for each float32: 0.4914, not 0.49140000343322754."""
    return tuple(float(str(value)) for value in values.astype(np.float32))

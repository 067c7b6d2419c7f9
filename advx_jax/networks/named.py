"""Architectures by name: WideResNet-28-10, DMPreActResNet-18-swish, ResNet-50-imagenet."""

import re
from collections.abc import Callable
from typing import Any

from advx_jax.errors import UserError
from advx_jax.messages import nearest, shown
from advx_jax.networks.architecture import Architecture
from advx_jax.networks.families import (
    STAGES,
    CifarResNetArchitecture,
    DMPreActResNetArchitecture,
    DMWideResNetArchitecture,
    ImageNetResNetArchitecture,
    PreActResNetArchitecture,
    WideResNetArchitecture,
)
from advx_jax.networks.resnet import ResNetArchitecture

_LONGEST = 60
_EXAMPLES = (
    "WideResNet-28-10",
    "DMWideResNet-28-10-swish",
    "PreActResNet-18",
    "PreActResNet-18-v2",
    "DMPreActResNet-18-swish",
    "ResNet-18-cifar",
    "ResNet-50-imagenet",
    "ResNet-44",
)
_ACTIVATIONS = {"swish": "swish", "silu": "swish", "relu": "relu"}


def architecture_named(name: str, **fields: Any) -> Architecture:
    """The architecture that has a name, as `Architecture.name` gives it; upper and lower case are the same.

    Args:
        name: for instance "WideResNet-28-10".
        fields: what the name does not tell: `n_classes`, `image_shape` and what else the family has; its own
            defaults if not given.

    Raises:
        UserError: no architecture has this name.
    """
    if len(name) <= _LONGEST:
        for pattern, build in _PATTERNS:
            if match := re.fullmatch(pattern, name, re.IGNORECASE | re.ASCII):
                return build(match.groupdict(), fields)
    close = nearest(name[:_LONGEST], _EXAMPLES, 0.4)
    raise UserError(f"expected an architecture such as {', '.join(_EXAMPLES)}, got {shown(name)}{close}")


def _wide(found: dict[str, str], fields: dict[str, Any]) -> Architecture:
    return WideResNetArchitecture(depth=int(found["depth"]), width=int(found["width"]), **fields)


def _wide_large(found: dict[str, str], fields: dict[str, Any]) -> Architecture:
    return ImageNetResNetArchitecture(depth=int(found["depth"]), width=int(found["width"]), **fields)


def _deepmind(found: dict[str, str], fields: dict[str, Any]) -> Architecture:
    given = fields | {"depth": int(found["depth"]), "padding": int(found["padding"] or 0)}
    given |= {"activation": _ACTIVATIONS[found["activation"].lower()]}
    if "width" in found:
        return DMWideResNetArchitecture(width=int(found["width"]), **given)
    return DMPreActResNetArchitecture(**given)


def _pre_activation(found: dict[str, str], fields: dict[str, Any]) -> Architecture:
    depth = int(found["depth"])
    activated = found["second"] or STAGES.get(depth, ((), False))[1]
    return PreActResNetArchitecture(depth=depth, shortcut_of="activated" if activated else "input", **fields)


def _small_or_large(found: dict[str, str], fields: dict[str, Any]) -> Architecture:
    family = CifarResNetArchitecture if found["form"].lower() == "cifar" else ImageNetResNetArchitecture
    return family(depth=int(found["depth"]), **fields)


def _own(found: dict[str, str], fields: dict[str, Any]) -> Architecture:
    depth = int(found["depth"])
    if depth % 6 != 2 or depth < 8:
        raise UserError(
            f"expected a ResNet of 6n + 2 layers, ResNet-{depth}-cifar or ResNet-{depth}-imagenet, got ResNet-{depth}"
        )
    return ResNetArchitecture(stage_lengths=(depth // 6,) * 3, **fields)


_DEPTH, _WIDTH = r"-(?P<depth>\d{1,4})", r"-(?P<width>\d{1,4})"
_VARIANT = r"-(?P<activation>swish|silu|relu)(-pad(?P<padding>\d{1,4}))?"
_PATTERNS: tuple[tuple[str, Callable[[dict[str, str], dict[str, Any]], Architecture]], ...] = (
    (f"WideResNet{_DEPTH}{_WIDTH}", _wide),
    (f"WideResNet{_DEPTH}{_WIDTH}-imagenet", _wide_large),
    (f"DMWideResNet{_DEPTH}{_WIDTH}{_VARIANT}", _deepmind),
    (f"DMPreActResNet{_DEPTH}{_VARIANT}", _deepmind),
    (f"PreActResNet{_DEPTH}(?P<second>-v2)?", _pre_activation),
    (f"ResNet{_DEPTH}-(?P<form>cifar|imagenet)", _small_or_large),
    (f"ResNet{_DEPTH}", _own),
)

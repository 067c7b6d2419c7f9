"""The families of networks whose PyTorch files are common: their tensors' names, and how they are recognised."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from advx_jax.errors import UserError
from advx_jax.messages import listed, shown
from advx_jax.networks.families import (
    FAMILIES,
    STAGES,
    CifarResNetArchitecture,
    DMPreActResNetArchitecture,
    DMWideResNetArchitecture,
    ImageNetResNetArchitecture,
    PreActResNetArchitecture,
    ResidualArchitecture,
    WideResNetArchitecture,
)
from advx_jax.networks.named import architecture_named

_PRE_ACTIVATION = ("bn1", "conv1", "bn2", "conv2", "bn3", "conv3")
_POST_ACTIVATION = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")


@dataclasses.dataclass(frozen=True)
class Names:
    """What a family calls its tensors in PyTorch.

    Attributes:
        stem: the first convolution.
        stem_norm: BatchNorm behind it, if there is one.
        block: a residual block, by the number of its stage and its own, both from 0.
        layers: of a block, each by what it is called here, in PyTorch's order.
        head_norm: BatchNorm before the last pooling.
        head: the linear layer.
        first_stage: number of the first stage.
    """

    stem: str
    block: str
    layers: Mapping[str, str]
    head_norm: str
    head: str
    stem_norm: str = ""
    first_stage: int = 0


def _layers(order: tuple[str, ...], shortcut: str, **others: str) -> dict[str, str]:
    return {**dict(zip(order, order, strict=True)), "shortcut": shortcut, **others}


def _deepmind_layers(first: str, second: str) -> dict[str, str]:
    return {"bn1": "batchnorm_0", "conv1": first, "bn2": "batchnorm_1", "conv2": second, "shortcut": "shortcut"}


_NAMES: dict[type[ResidualArchitecture], Names] = {
    WideResNetArchitecture: Names(
        stem="conv1",
        block="block{stage}.layer.{block}",
        layers=_layers(_PRE_ACTIVATION[:4], "convShortcut"),
        head_norm="bn1",
        head="fc",
        first_stage=1,
    ),
    DMWideResNetArchitecture: Names(
        stem="init_conv",
        block="layer.{stage}.block.{block}",
        layers=_deepmind_layers("conv_0", "conv_1"),
        head_norm="batchnorm",
        head="logits",
    ),
    PreActResNetArchitecture: Names(
        stem="conv1",
        block="layer{stage}.{block}",
        layers=_layers(_PRE_ACTIVATION, "shortcut.0"),
        head_norm="bn",
        head="linear",
        first_stage=1,
    ),
    DMPreActResNetArchitecture: Names(
        stem="conv_2d",
        block="layer_{stage}.{block}",
        layers=_deepmind_layers("conv_2d_1", "conv_2d_2"),
        head_norm="batchnorm",
        head="logits",
    ),
    CifarResNetArchitecture: Names(
        stem="conv1",
        stem_norm="bn1",
        block="layer{stage}.{block}",
        layers=_layers(_POST_ACTIVATION, "shortcut.0", shortcut_bn="shortcut.1"),
        head_norm="",
        head="linear",
        first_stage=1,
    ),
    ImageNetResNetArchitecture: Names(
        stem="conv1",
        stem_norm="bn1",
        block="layer{stage}.{block}",
        layers=_layers(_POST_ACTIVATION, "downsample.0", shortcut_bn="downsample.1"),
        head_norm="",
        head="fc",
        first_stage=1,
    ),
}


def layer_names(architecture: ResidualArchitecture, layers: set[str]) -> Iterator[tuple[str, str]]:
    """What each layer of a network is called in PyTorch and in Flax, in the order of PyTorch's state dict.

    Args:
        architecture: of the network.
        layers: those that it has, as Flax calls them: "stem", "stage1_block1/conv1".
    """
    names, plan = _NAMES[type(architecture)], architecture.plan()
    candidates = [(names.stem, "stem"), (names.stem_norm, "stem_bn")]
    for number, stage in enumerate(plan.stages, start=names.first_stage):
        templates = [(names.block.format(stage=number, block="{}"), stage)]
        if number == names.first_stage:
            templates += [(f"{idle.name}.layer.{{}}", idle) for idle in plan.idle]
        for template, stage_or_idle in templates:
            for block in range(stage_or_idle.length):
                torch, flax = template.format(block), f"{stage_or_idle.name}_block{block + 1}"
                candidates += [(f"{torch}.{there}", f"{flax}/{here}") for here, there in names.layers.items()]
    candidates += [(names.head_norm, "head_bn"), (names.head, "head")]
    return ((torch, flax) for torch, flax in candidates if flax in layers)


def recognise(
    tensors: Mapping[str, np.ndarray], architecture: str | None = None, image_shape: tuple[int, int, int] | None = None
) -> ResidualArchitecture:
    """Find out from names and shapes what network a state dict is of.

    Whether all tensors are there and fit is for `check_tensors` to say.

    Args:
        tensors: by their names in PyTorch, without what wrappers put before them.
        architecture: its name (`advx_jax.networks.named`), which decides what tensors do not tell, such as
            the activation.
        image_shape: height, width and channels of the images that it is made for; if None, 224x224 for
            the ImageNet form and 32x32 for all others.

    Raises:
        UserError: it is of no known family; what decides is missing, and is named; or the architecture
            given is another one, or has to be given.
    """
    family, inferred = _inferred(tensors)
    names = _NAMES[family]
    n_classes, channels = _shape(tensors, f"{names.head}.weight", 2)[0], _shape(tensors, f"{names.stem}.weight", 4)[1]
    default: Any = family.__dataclass_fields__["image_shape"].default
    if image_shape is not None and image_shape[2] != channels:
        raise UserError(f"expected images of {channels} channels, got {image_shape[2]}")
    inferred |= {"n_classes": n_classes, "image_shape": (*(image_shape or default)[:2], channels)}
    candidates = [family(**inferred, **choice) for choice in _choices(family, inferred)]
    if architecture is None:
        if len(candidates) == 1:
            return candidates[0]
        flags = " or ".join(f"--architecture={candidate.name}" for candidate in candidates)
        raise UserError(f"names and shapes of the tensors fit several architectures: give {flags}")
    wanted = architecture_named(architecture)
    if isinstance(wanted, family):
        found = dataclasses.replace(wanted, **inferred)
        if found.name == wanted.name:
            return found
    offered = " or ".join(candidate.name for candidate in candidates)
    raise UserError(f"expected the tensors of {wanted.name}, got those of {offered}")


def _inferred(tensors: Mapping[str, np.ndarray]) -> tuple[type[ResidualArchitecture], dict[str, Any]]:
    """Family of a network, and what else names and shapes tell of it."""
    if _block_counts(tensors, r"block([123])\.layer\.(\d+)\."):
        return WideResNetArchitecture, {
            **_wide(tensors, r"block([123])\.layer\.(\d+)\.", "block1.layer.0.conv1.weight"),
            "sub_block1": any(name.startswith("sub_block1.") for name in tensors),
            "bias_last": "fc.bias" in tensors,
        }
    if _block_counts(tensors, r"layer\.([012])\.block\.(\d+)\."):
        return DMWideResNetArchitecture, _wide(
            tensors, r"layer\.([012])\.block\.(\d+)\.", "layer.0.block.0.conv_0.weight"
        )
    if counts := _block_counts(tensors, r"layer_([0123])\.(\d+)\."):
        return DMPreActResNetArchitecture, {"depth": _depth(counts, bottleneck=False)}
    counts = _block_counts(tensors, r"layer([1234])\.(\d+)\.")
    if not counts:
        raise UserError(f"expected the tensors of one of the families {', '.join(FAMILIES)}, got {_some(tensors)}")
    bottleneck = any(re.fullmatch(r"layer1\.\d+\.conv3\.weight", name) for name in tensors)
    depth = _depth(counts, bottleneck=bottleneck)
    if any(name.startswith("fc.") for name in tensors):
        inner = _shape(tensors, "layer1.0.conv1.weight", 4)[0]
        return ImageNetResNetArchitecture, {"depth": depth, "width": inner // 64 if bottleneck else 1}
    if any(name.startswith("bn1.") for name in tensors):
        return CifarResNetArchitecture, {"depth": depth}
    inferred: dict[str, Any] = {"depth": depth, "bn_before_fc": any(name.startswith("bn.") for name in tensors)}
    return PreActResNetArchitecture, inferred | ({"shortcut_of": "activated"} if bottleneck else {})


def _choices(family: type[ResidualArchitecture], inferred: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What tensors do not tell, in every way that it may be; the more common way first."""
    if family in (DMWideResNetArchitecture, DMPreActResNetArchitecture):
        return [{"activation": name} for name in ("swish", "relu")]
    if family is PreActResNetArchitecture and "shortcut_of" not in inferred:
        return [{"shortcut_of": taken} for taken in ("input", "activated")]
    return [{}]


def _block_counts(tensors: Mapping[str, np.ndarray], pattern: str) -> tuple[int, ...]:
    """Number of blocks in each stage; a pattern has groups for the numbers of stage and block."""
    blocks: dict[str, set[str]] = {}
    for name in tensors:
        if match := re.match(pattern, name):
            blocks.setdefault(match[1], set()).add(match[2])
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def _wide(tensors: Mapping[str, np.ndarray], pattern: str, first: str) -> dict[str, int]:
    counts = _block_counts(tensors, pattern)
    if len(counts) != 3 or len(set(counts)) > 1:
        raise UserError(
            f"expected as many blocks in each of a WideResNet's three stages, got {listed([str(n) for n in counts])}"
        )
    features = _shape(tensors, first, 4)[0]
    if features % 16:
        raise UserError(f"{first}: expected a multiple of 16 channels, got {features}")
    return {"depth": 6 * counts[0] + 4, "width": features // 16}


def _depth(counts: tuple[int, ...], *, bottleneck: bool) -> int:
    depth = next((depth for depth, stages in STAGES.items() if stages == (counts, bottleneck)), None)
    if depth is None:
        kind = "bottlenecks" if bottleneck else "basic blocks"
        known = listed([f"{stages} (depth {depth})" for depth, (stages, deep) in STAGES.items() if deep == bottleneck])
        raise UserError(f"expected stages of {known} {kind}, got {counts}")
    return depth


def _shape(tensors: Mapping[str, np.ndarray], name: str, ndim: int) -> tuple[int, ...]:
    if name not in tensors:
        raise UserError(f"{name} is missing")
    shape = tensors[name].shape
    if len(shape) != ndim or 0 in shape:
        raise UserError(f"{name}: expected a tensor of {ndim} dimensions, got {list(shape)}")
    return shape


def _some(tensors: Mapping[str, np.ndarray]) -> str:
    return listed([shown(name) for name in tensors]) or "none"

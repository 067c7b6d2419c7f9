"""Where each layer and tensor of the Flax network lies in the twin; independent of the project's own converter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .network import ResNet

_BATCH_NORM = (
    ("params", "scale", "weight"),
    ("params", "bias", "bias"),
    ("batch_stats", "mean", "running_mean"),
    ("batch_stats", "var", "running_var"),
)
_IN_BLOCK = {"bn1": "pre.0", "conv1": "main.0", "bn2": "main.1", "conv2": "main.3", "shortcut": "shortcut"}


def layer_names(stage_lengths: Sequence[int], stage_widths: Sequence[int]) -> dict[str, str]:
    """Map Flax module paths to the twin's module names, in the order of the forward pass, blocks after their parts."""
    names = {"stem": "pipe.0"}
    inputs = stage_widths[0]
    for stage, (length, width) in enumerate(zip(stage_lengths, stage_widths, strict=True), start=1):
        for block in range(length):
            flax_block, torch_block = f"stage{stage}_block{block + 1}", f"pipe.{stage}.{block}"
            has_shortcut = block == 0 and (stage > 1 or inputs != width)
            for flax_name, torch_name in _IN_BLOCK.items():
                if flax_name != "shortcut" or has_shortcut:
                    names[f"{flax_block}/{flax_name}"] = f"{torch_block}.{torch_name}"
            names[flax_block] = torch_block
        inputs = width
    last = len(stage_lengths)
    return names | {"head_bn": f"pipe.{last + 1}", "head": f"pipe.{last + 4}"}


def state_dict_from_flax(variables: Mapping[str, Any], network: ResNet, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Lay the Flax variables out as the twin's state dict.

    Args:
        variables: collections `params`, `batch_stats`, `constants`.
        network: gives what Flax has no counterpart of (bowl widths, batch counters).
        names: from `layer_names`.
    """
    constants = variables["constants"]
    state = {
        name: value for name, value in network.state_dict().items() if name.endswith((".d", ".num_batches_tracked"))
    }
    state["input_offset"] = torch.tensor(np.stack([constants["mean"], constants["std"]]))
    for flax_name, torch_name in names.items():
        path = flax_name.split("/")
        if path[-1].startswith("bn") or flax_name == "head_bn":
            for collection, flax_leaf, torch_leaf in _BATCH_NORM:
                state[f"{torch_name}.{torch_leaf}"] = _tensor(_descend(variables[collection], path)[flax_leaf])
        elif "kernel" in (leaves := _descend(variables["params"], path)):
            kernel = np.asarray(leaves["kernel"])
            if kernel.ndim == 2:
                kernel = kernel[None, None]
            state[f"{torch_name}.weight"] = _tensor(kernel.transpose(3, 2, 0, 1))
            if "bias" in leaves:
                state[f"{torch_name}.bias"] = _tensor(leaves["bias"])
    return state


def _descend(tree: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    for name in path:
        tree = tree[name]
    return tree


def _tensor(array: Any) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array))

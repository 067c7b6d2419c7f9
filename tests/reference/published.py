"""Reading the published files with PyTorch itself."""

from pathlib import Path
from typing import Any

import torch

from .network import HalfHuberReLU, ResNet


def cifar10_preprocess() -> None:
    """Stand in for the function of that name which the published files refer to; it is never called."""


def load_published(path: Path) -> tuple[ResNet, dict[str, Any]]:
    """Read a published network, on the CPU and in evaluation mode, and the options it was trained with."""
    with torch.serialization.safe_globals([(cifar10_preprocess, "__main__.cifar10_preprocess")]):
        contents = torch.load(path, map_location="cpu", weights_only=True)
    options = contents["training_options"]
    _, _, lengths, widths, n_classes = options["arch"]
    network = ResNet(lengths, widths, n_classes, robust=options["robust_additions"])
    network.load_state_dict(contents["model_params"], strict=True)
    for module in network.modules():
        if isinstance(module, HalfHuberReLU) and float(module.d) != module.bowl_width:
            raise ValueError(f"expected bowl width {module.bowl_width} in {path}, got {float(module.d)}")
    return network.eval(), options

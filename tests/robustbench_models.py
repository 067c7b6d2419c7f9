"""RobustBench's own classes, and torchvision's ResNet, in PyTorch, with random numbers."""

import functools
import importlib.util
import sys
import unittest
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn


@functools.cache
def robustbench_file(name: str) -> ModuleType:
    """Execute one architecture file of the installed package, whose `__init__` needs more than is installed.

    Raises:
        SkipTest: the package is not installed; pytest skips the test that asks.
    """
    spec = importlib.util.find_spec("robustbench")
    if spec is None or spec.origin is None:
        raise unittest.SkipTest("robustbench is not installed: pip install --no-deps robustbench==1.1.1")
    path = Path(spec.origin).parent / "model_zoo" / "architectures" / f"{name}.py"
    file_spec = importlib.util.spec_from_file_location(f"robustbench_{name}", path)
    module = importlib.util.module_from_spec(file_spec)
    sys.modules[file_spec.name] = module
    file_spec.loader.exec_module(module)
    return module


def with_random_numbers(model: nn.Module, seed: int = 0) -> nn.Module:
    """A network in which every number matters, in evaluation mode; activations keep their size."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                value.fill_(7)
                continue
            shape, last = tuple(value.shape), name.rpartition(".")[2]
            if last == "running_var" or (last == "weight" and value.ndim == 1):
                drawn = rng.uniform(0.5, 1.5, shape)
            elif value.ndim > 1:
                drawn = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
            else:
                drawn = rng.normal(size=shape) / 2
            value.copy_(torch.from_numpy(drawn))
    return model.eval()


def numpy_state(model: nn.Module) -> dict[str, np.ndarray]:
    """State dict as numpy arrays."""
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


class TorchvisionBlock(nn.Module):
    """Basic block or bottleneck, with torchvision's names."""

    def __init__(self, before: int, inner: int, after: int, stride: int, bottleneck: bool):
        super().__init__()
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv1, self.bn1 = nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner)
            self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
            self.conv3, self.bn3 = nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after)
        else:
            self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
            self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        main = torch.relu(self.bn1(self.conv1(x)))
        main = self.bn2(self.conv2(main))
        if self.bottleneck:
            main = self.bn3(self.conv3(torch.relu(main)))
        return torch.relu(main + (x if self.downsample is None else self.downsample(x)))


class TorchvisionResNet(nn.Module):
    """ResNet for large images, with torchvision's names."""

    def __init__(self, lengths: tuple[int, ...], bottleneck: bool, n_classes: int, width: int = 1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = 64
        for number, (length, inner) in enumerate(zip(lengths, (64, 128, 256, 512), strict=True), start=1):
            after, blocks = inner * (4 if bottleneck else 1), []
            for block in range(length):
                stride = 2 if number > 1 and block == 0 else 1
                blocks.append(TorchvisionBlock(before, inner * width, after, stride, bottleneck))
                before = after
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, n_classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))

"""A small WideResNet in PyTorch whose tensors have the names that the family's files have."""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn import functional

MEAN, STD = (0.5, 0.25, 0.375), (0.25, 0.5, 0.125)


class Block(nn.Module):
    def __init__(self, before, features, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, features, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        if before != features:
            self.convShortcut = nn.Conv2d(before, features, 1, stride, bias=False)

    def forward(self, x):
        pre = functional.relu(self.bn1(x))
        main = self.conv2(functional.relu(self.bn2(self.conv1(pre))))
        return main + (self.convShortcut(pre) if hasattr(self, "convShortcut") else x)


class WideResNet10(nn.Module):
    """One block in each stage; the first one's width times 1, so that it has no shortcut."""

    def __init__(self, n_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        for number, (before, features, stride) in enumerate(((16, 16, 1), (16, 32, 2), (32, 64, 2)), start=1):
            stage = nn.Module()
            stage.layer = nn.Sequential(Block(before, features, stride))
            self.add_module(f"block{number}", stage)
        self.bn1 = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, n_classes)

    def forward(self, x):
        x = self.conv1(x)
        for stage in (self.block1, self.block2, self.block3):
            x = stage.layer(x)
        return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))


class Normalise(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).reshape(1, 3, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


class WithBuffers(WideResNet10):
    """Normalises by itself, as many of RobustBench's classes do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mu", torch.tensor(MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("sigma", torch.tensor(STD).reshape(1, 3, 1, 1))

    def forward(self, x):
        return super().forward((x - self.mu) / self.sigma)


def sequential():
    return nn.Sequential(Normalise(), WideResNet10())


def named():
    return nn.Sequential(OrderedDict(normalize=Normalise(), model=WideResNet10()))


def randomised(network, seed=0):
    """In evaluation mode, and nothing but the normalisation is as after initialisation."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            last = name.rpartition(".")[2]
            if last in ("mean", "std", "mu", "sigma"):
                continue
            if tensor.ndim == 0:
                tensor.fill_(7)
            elif tensor.ndim == 1:
                tensor.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, tensor.shape)))
            else:
                tensor.copy_(torch.from_numpy(rng.normal(size=tensor.shape) * np.sqrt(2 / tensor[0].numel())))
    return network.eval()


def logits_of(network, images):
    """Of NHWC images."""
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()

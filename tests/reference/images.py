"""Images between NHWC numpy arrays and the twin's NCHW tensors."""

import numpy as np
import torch
from torch import Tensor


def to_torch(images: np.ndarray) -> Tensor:
    """NHWC to NCHW; uint8 pixels are divided by 255 in float32 by numpy, whose division is exact on every device."""
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / np.float32(255)
    return torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def to_numpy(images: Tensor) -> np.ndarray:
    """NCHW to NHWC."""
    return images.detach().cpu().numpy().transpose(0, 2, 3, 1)

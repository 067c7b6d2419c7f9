"""Floating-point operations of a training step, counted by hand from the architecture.

Only convolutions and the head count, as is usual; a multiplication and its addition are two.
"""

from advx_jax.errors import UserError
from advx_jax.networks.resnet import ResNetArchitecture
from advx_jax.training.recipe import Recipe

_IMAGE_SIZE = 32


def flops_per_image(recipe: Recipe) -> int:
    """Operations of a training step on one image.

    In units of a forward pass: its input gradient costs one more, its gradient by the parameters
    another. The Lipschitz penalty differentiates forward pass and input gradient (2), each by what
    went through it and by the parameters (4).
    """
    steps = recipe.attack.steps
    attack = {"none": 0, "l2": 2 * steps, "l2_min": 2 * steps + 1}[recipe.attack.kind]
    descent = 3 if recipe.penalty is None else 6
    architecture = recipe.architecture
    if not isinstance(architecture, ResNetArchitecture):
        raise UserError(f"expected a recipe of the method's own family of networks, got {architecture.name}")
    # Training needs no gradient by the pixels, except as the input gradient itself.
    return (attack + descent) * forward_flops(architecture) - _stem(architecture)


def forward_flops(architecture: ResNetArchitecture) -> int:
    """Operations of a forward pass of one image."""
    total, inputs, size = _stem(architecture), architecture.stage_widths[0], _IMAGE_SIZE
    for stage, (length, width) in enumerate(zip(architecture.stage_lengths, architecture.stage_widths, strict=True)):
        stride = 2 if stage > 0 else 1
        size //= stride
        # Where stride or width changes, the shortcut is one more convolution.
        entering = 2 if stride != 1 or inputs != width else 1
        total += entering * _convolution(inputs, width, size) + (2 * length - 1) * _convolution(width, width, size)
        inputs = width
    return total + 2 * inputs * architecture.n_classes


def _stem(architecture: ResNetArchitecture) -> int:
    return _convolution(3, architecture.stage_widths[0], _IMAGE_SIZE)


def _convolution(inputs: int, outputs: int, size: int) -> int:
    return 2 * 9 * inputs * outputs * size * size

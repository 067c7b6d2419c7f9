"""Flags that tell what a PyTorch file does not tell itself."""

from absl import flags

from advx_jax.networks.registry import FileHints

_ARCHITECTURE = flags.DEFINE_string(
    "architecture",
    None,
    "Of a PyTorch file: name of the network's architecture (WideResNet-28-10, PreActResNet-18-v2, …), where names and "
    "shapes of its tensors do not tell it.",
)
_NORMALISE = flags.DEFINE_string(
    "normalise",
    None,
    "Of a PyTorch file that does not tell it: how images are normalised, none, cifar10, cifar100, imagenet, or means "
    "and standard deviations as 0.49,0.48,0.45/0.25,0.24,0.26.",
)
_STATE_DICT = flags.DEFINE_string(
    "state_dict", None, "Of a PyTorch file: key of the state dict in it, parts joined by dots. Default: looked for."
)


def file_hints() -> FileHints:
    """What the command line tells."""
    return FileHints(_ARCHITECTURE.value, _NORMALISE.value, _STATE_DICT.value)

"""The flag that says towards which classes images are explained."""

from collections.abc import Sequence

from absl import flags

from advx_jax.analysis.targets import Targets, targets_named

_TARGETS = flags.DEFINE_string(
    "targets",
    None,
    "Classes to explain towards: all, top5 (the 5 likeliest and the real one; any number), or names, cat,dog. Default: "
    "all of up to 20 classes, else top5.",
)


def chosen(class_names: Sequence[str]) -> Targets:
    """The targets of --targets.

    Raises:
        UserError: there are no such classes.
    """
    return targets_named(_TARGETS.value, class_names)

"""Which classes images are explained towards."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from advx_jax.analysis.accuracy import predict
from advx_jax.attacks.base import Model
from advx_jax.errors import UserError
from advx_jax.messages import nearest

# Up to so many classes, images are explained towards all of them where nobody chooses.
_MOST_CLASSES = 20
_TOP = re.compile(r"top([1-9][0-9]{0,3})")
_DEFAULT_TOP = 5


class Targets(NamedTuple):
    """A choice of classes to explain images towards: all, the likeliest and the real one, or some by number.

    Attributes:
        top: how many of the likeliest classes, with the real one; 0 for another choice.
        classes: numbers of chosen classes; empty for another choice. With `top` of 0, all classes.
    """

    top: int = 0
    classes: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """As results record it."""
        return f"top{self.top}" if self.top else ",".join(map(str, self.classes)) or "all"

    def count(self, n_classes: int) -> int:
        """How many targets each image has."""
        return self.top + 1 if self.top else len(self.classes) or n_classes

    def likeliest(
        self, logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
    ) -> Int[np.ndarray, "n targets"]:
        """The targets of each image where there is a top, the likeliest first.

        Args:
            logits: of the images as they are.
            labels: real classes, which are among the targets.
        """
        numbers = np.nan_to_num(logits, nan=-np.inf)
        # The real one is made the likeliest, and then all are put in order again.
        with_label = np.where(np.arange(logits.shape[1]) == labels[:, None], np.inf, numbers)
        chosen = np.argsort(-with_label, axis=1, kind="stable")[:, : self.top + 1]
        order = np.argsort(-np.take_along_axis(numbers, chosen, 1), axis=1, kind="stable")
        return np.take_along_axis(chosen, order, axis=1).astype(np.int32)


TargetsLike = str | int | np.integer | Sequence[str | int] | Array | np.ndarray
"""What a person asks for, see `targets_named`."""

ALL_CLASSES = Targets()
"""Explain towards every class."""


def chosen_targets(
    model: Model, images: Float[np.ndarray, "n *shape"], labels: Int[np.ndarray, " n"] | None, targets: Targets
) -> Int[np.ndarray, "n targets"] | None:
    """The targets of each image, as `explain` takes them; None for all classes.

    Args:
        model: images to logits; asked where its likeliest classes matter.
        images: on the [0,1] scale.
        labels: real classes; its likeliest class stands in for an image's where None.
        targets: the choice.
    """
    if targets == ALL_CLASSES or len(images) == 0:
        return None
    if not targets.top:
        return np.tile(np.array(targets.classes, np.int32), (len(images), 1))
    predictions = predict(model, images, progress=False)
    return targets.likeliest(predictions.logits, predictions.classes.clip(0) if labels is None else labels)


def targets_named(asked: TargetsLike | None, class_names: Sequence[str]) -> Targets:
    """The targets that a person asks for.

    Args:
        asked: `all`, `top5`, or names or numbers of classes, with commas between them or in a list or an array; None
            for all of up to 20 classes, else the 5 likeliest with the real one. A text is a name first, a number in it
            only where no class is called so.
        class_names: what the classes are called.

    Raises:
        UserError: there is no such class, a class is named twice, or there are fewer classes than asked for.
    """
    n_classes = len(class_names)
    if asked is None:
        return ALL_CLASSES if n_classes <= _MOST_CLASSES else Targets(top=_DEFAULT_TOP)
    # A class may be called so.
    if isinstance(asked, str) and asked not in class_names:
        if asked == "all":
            return ALL_CLASSES
        if match := _TOP.fullmatch(asked):
            top = int(match[1])
            if top > n_classes:
                raise UserError(f"expected at most top{n_classes} of {n_classes} classes as targets, got {asked}")
            return ALL_CLASSES if top >= n_classes - 1 else Targets(top=top)
    if isinstance(asked, np.ndarray | jax.Array):
        asked = np.asarray(asked).tolist()
    names = asked.split(",") if isinstance(asked, str) else asked if isinstance(asked, Sequence) else [asked]
    chosen = [_class_number(name.strip() if isinstance(name, str) else name, class_names) for name in names]
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"expected each class once as a target, got {asked}")
    return Targets(classes=tuple(chosen))


def _class_number(asked: Any, class_names: Sequence[str]) -> int:
    if isinstance(asked, str) and asked in class_names:
        return class_names.index(asked)
    is_number = asked.isdecimal() if isinstance(asked, str) else isinstance(asked, int | np.integer)
    if is_number and not isinstance(asked, bool) and 0 <= int(asked) < len(class_names):
        return int(asked)
    raise UserError(
        f"expected all, top5, or names or numbers of classes ({', '.join(class_names[:3])}, …) as targets, "
        f"got {asked!r}{nearest(asked, class_names) if isinstance(asked, str) else ''}"
    )

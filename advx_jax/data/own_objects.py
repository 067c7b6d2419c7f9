"""Images that a person's own code gives, by the place of that code: `package.module:name`."""

import dataclasses
import inspect
from typing import Any

from advx_jax.data.arrays import image_set_of
from advx_jax.data.image_set import ImageSet, Split
from advx_jax.errors import UserError
from advx_jax.importing import import_by_name

_FIELDS = ("images", "labels", "class_names")
_LENGTHS = (2, 3)


def load_own_object(spec: str, split: Split) -> ImageSet:
    """Import images.

    Args:
        spec: `package.module:name` of an `ImageSet`; a tuple (images, labels) or (images, labels, class_names);
            anything with these attributes; or a function that gives one of them, without arguments or of a `split`.
        split: "train" or "test", for a function with an argument of that name.

    Raises:
        UserError: it cannot be imported, fails, or is nothing of the kind.
    """
    found = import_by_name(spec, "data", "images")
    has_splits = callable(found) and _takes_split(found)
    if callable(found):
        try:
            found = found(split=split) if has_splits else found()
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"expected {spec} to give images, got {type(error).__name__}: {reason}") from error
    if all(hasattr(found, name) for name in _FIELDS):
        parts: tuple[Any, ...] = tuple(getattr(found, name) for name in _FIELDS)
    elif isinstance(found, tuple | list) and len(found) in _LENGTHS:
        parts = (*found, None)[:3]
    else:
        length = f" of length {len(found)}" if isinstance(found, tuple | list) else ""
        raise UserError(
            f"expected {spec} to be an ImageSet, (images, labels) or (images, labels, class_names), "
            f"got {type(found).__name__}{length}"
        )
    if isinstance(found, ImageSet) and not found.class_names_given:
        parts = (*parts[:2], None)
    images, labels, class_names = parts
    return dataclasses.replace(image_set_of(images, labels, class_names, spec), is_whole=not has_splits)


def _takes_split(function: Any) -> bool:
    try:
        return "split" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False

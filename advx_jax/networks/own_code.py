"""A classifier from whatever stands behind `package.module:name`."""

import dataclasses
import inspect
from typing import Any

from flax import linen as nn

from advx_jax.errors import UserError
from advx_jax.importing import import_by_name
from advx_jax.messages import one_line
from advx_jax.networks.adapters import checked_class_names, checked_shape, from_function, from_haiku, from_linen
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.own_classifier import OwnClassifier

_FORMS = "a function from images to logits, (module, variables), or a function without arguments that makes one"


def own_classifier(name: str) -> Classifier | OwnClassifier:
    """What a person names as a model.

    Args:
        name: `package.module:name` of a function from images to logits, of anything that is callable as one (an NNX
            or Equinox module, a `Classifier`), of a pair of Linen module and variables, of what Haiku's `transform`
            gave with parameters (and state), of what `from_random_function` made, or of a function or class without
            arguments that makes one of these. What it is attached to it may say: attributes `class_names` and
            `image_shape`, (height, width, channels).

    Raises:
        UserError: there is nothing of that name, or it is none of these.
    """
    found = import_by_name(name, "model", "a model")
    made = _made(name, found) if _is_maker(found) else found
    classifier = _classifier(name, made)
    said = {attribute: _said(attribute, made, found) for attribute in ("class_names", "image_shape")}
    if isinstance(classifier, Classifier) or not any(said.values()):
        return classifier
    names = said["class_names"] or classifier.class_names
    shape = checked_shape(said["image_shape"]) if said["image_shape"] else classifier.image_shape
    return dataclasses.replace(classifier, class_names=names and checked_class_names(names), image_shape=shape)


def _is_maker(found: Any) -> bool:
    """A class, or a function that needs no argument: a classifier needs one, the images."""
    if inspect.isclass(found):
        return True
    if not (inspect.isfunction(found) or inspect.ismethod(found)):
        return False
    return not any(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
        for parameter in inspect.signature(found).parameters.values()
    )


def _made(name: str, maker: Any) -> Any:
    try:
        return maker()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"expected {name}() to make a model, got {type(error).__name__}: {one_line(str(error))}"
        ) from error


def _classifier(name: str, made: Any) -> Classifier | OwnClassifier:
    if isinstance(made, Classifier | OwnClassifier):
        return made
    if isinstance(made, tuple) and not callable(made):
        if len(made) == 2 and isinstance(made[0], nn.Module):
            return from_linen(*made)
        if len(made) in (2, 3) and hasattr(made[0], "apply"):
            return from_haiku(*made)
    if isinstance(made, nn.Module):
        if made.scope is None:
            raise UserError(f"expected {name} to be {_FORMS}, got a Linen module without its variables")
        module, variables = made.unbind()
        return from_linen(module, variables)
    if not callable(made):
        raise UserError(f"expected {name} to be {_FORMS}, got {type(made).__name__}")
    return from_function(made)


def _said(attribute: str, *objects: Any) -> Any:
    """Of a model or else of what made it, as far as it is no method of theirs."""
    values = (getattr(one, attribute, None) for one in objects)
    return next((value for value in values if isinstance(value, tuple | list | str)), None)

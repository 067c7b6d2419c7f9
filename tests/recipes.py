"""The published recipes, made small."""

import dataclasses
import importlib
from typing import Any

from advx_jax.networks.resnet import ResNetArchitecture
from advx_jax.training.recipe import Recipe, recipe_from_config

PUBLISHED_RECIPES = ("standard", "adv_train", "robust", "all")


def published_recipe(name: str) -> Recipe:
    """As in `configs/`."""
    return recipe_from_config(importlib.import_module(f"advx_jax.configs.{name}").get_config().to_dict())


def tiny_recipe(name: str, **changes: Any) -> Recipe:
    """With a network of two blocks and batches of 12; fields can be changed."""
    recipe = published_recipe(name)
    tiny = ResNetArchitecture((1, 1), (4, 6), activation=recipe.architecture.activation)
    return dataclasses.replace(recipe, **{"architecture": tiny, "batch_size": 12, "epochs": 5, **changes})

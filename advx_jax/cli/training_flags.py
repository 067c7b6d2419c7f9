"""Flags of the training command, and what they mean."""

import contextlib
import functools
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from advx_jax.cli import process_flags
from advx_jax.cli.flag_types import read_number
from advx_jax.data.sources import load_images, load_splits
from advx_jax.errors import UserError
from advx_jax.messages import nearest
from advx_jax.names import safe_name
from advx_jax.training.loop import Data
from advx_jax.training.recipe import Recipe, recipe_from_config

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe, a Python file with get_config(); change a field with --config.FIELD=VALUE."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for checkpoints, metrics and the network, from which training goes on, also without --config; "
    "runs/NAME if not given.",
)
flags.adopt_module_key_flags(process_flags)

_SAMPLE_TRAIN = 192
_PREFIX = "--config="
_OVERRIDE = "--config."
_RECIPES = Path(__file__).parents[1] / "configs"


def parse(argv: list[str]) -> list[str]:
    """Parse the command line; returns the positional arguments.

    A config that is not there is looked for among the recipes that come with the package.

    Raises:
        UserError: the config is not there or cannot be loaded, or a field is overridden that it does not have.
    """
    argv = [_decimal(_packaged_if_missing(argument)) for argument in _joined(argv)]
    named = [argument.removeprefix(_PREFIX) for argument in argv if argument.startswith(_PREFIX)]
    for name in named:
        _check_is_there(name)
    override = next((argument for argument in argv if argument.startswith(_OVERRIDE)), None)
    if override and not named:
        raise UserError(f"expected a recipe, for instance --config=configs/robust.py, beside {override}, got none")
    try:
        return list(flags.FLAGS(argv)[1:])
    except flags.Error:
        raise
    except Exception as error:
        # ml_collections raises all kinds here, some with several lines.
        raise UserError(_reason(argv, error)) from error


def config() -> tuple[dict[str, Any], Recipe]:
    """The config with its overrides, as nested dictionaries, and as a recipe.

    Where none is named, that of the run in the workdir.

    Raises:
        UserError: none is named and the workdir has none, or it cannot be loaded or is no recipe.
    """
    try:
        loaded = _CONFIG.value
        # What stands in for a config that could not be loaded raises at its first use.
        fields = loaded.to_dict() if hasattr(loaded, "to_dict") else loaded
    except OSError as error:
        raise UserError(str(error)) from error
    if fields is None:
        fields = _kept_config()
    return fields, recipe_from_config(fields)


def workdir(name: str) -> Path:
    """The folder of the run.

    Raises:
        UserError: checkpoints cannot be written to a folder of that name.
    """
    folder = _workdir(name)
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"expected a workdir whose whole path is text in UTF-8, got {folder.resolve()}") from error
    return folder


def _workdir(name: str) -> Path:
    return Path(_WORKDIR.value) if _WORKDIR.value else Path("runs") / safe_name(name)


def load_data(recipe: Recipe) -> Data:
    """Training and test images of a recipe; the shipped sample is split in two.

    Raises:
        UserError: they are not there.
    """
    size = (recipe.image_size, recipe.image_size) if recipe.image_size else None
    if recipe.data != "sample":
        return Data(*load_splits(recipe.data, size))
    sample = load_images(recipe.data, "test", size)
    return Data(sample.part(slice(_SAMPLE_TRAIN)), sample.part(slice(_SAMPLE_TRAIN, None)))


def _kept_config() -> dict[str, Any]:
    """The config of the run to go on with."""
    example = "expected a recipe, for instance --config=configs/robust.py"
    if not _WORKDIR.value:
        raise UserError(f"{example}, got none")
    # It takes seconds, and only a run that goes on needs it.
    from advx_jax.reports.training_record import CONFIG_FILE, read_config

    workdir = Path(_WORKDIR.value)
    if not (workdir / CONFIG_FILE).exists():
        raise UserError(f"{example}, or the workdir of a run to go on with, got {workdir} without {CONFIG_FILE}")
    return read_config(workdir).config


def _joined(argv: list[str]) -> list[str]:
    """Write `--config FILE` as one argument."""
    if "--config" not in argv[:-1]:
        return argv
    place = argv.index("--config")
    return [*argv[:place], _PREFIX + argv[place + 1], *argv[place + 2 :]]


def _decimal(argument: str) -> str:
    """Write `--config.attack.eps=8/255` as a decimal, which ml_collections reads."""
    name, _, value = argument.partition("=")
    if not (name.startswith(_OVERRIDE) and name.endswith("eps") and "/" in value):
        return argument
    try:
        return f"{name}={read_number(value)!r}"
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"flag {argument}: expected a number or fraction (0.03, 8/255), got {value!r}") from error


def _check_is_there(name: str) -> None:
    """Make sure that a recipe is a file; what ml_collections says does not name those there are."""
    # Behind a colon is what get_config() gets.
    if Path(name.partition(":")[0]).is_file() or Path(name).is_file():
        return
    files = {path.name: path for folder in (_RECIPES, Path("configs")) for path in sorted(folder.glob("*.py"))}
    recipes = [f"configs/{base}" for base, path in sorted(files.items()) if b"def get_config" in path.read_bytes()]
    raise UserError(
        f"expected the file of a recipe ({', '.join(recipes)}, or your own), got {name!r}{nearest(name, recipes, 0.0)}"
    )


def _packaged_if_missing(argument: str) -> str:
    path = Path(argument.removeprefix(_PREFIX))
    if not argument.startswith(_PREFIX) or path.exists() or path.parent != Path("configs"):
        return argument
    packaged = _RECIPES / path.name
    return f"{_PREFIX}{packaged}" if packaged.exists() else argument


def _reason(argv: list[str], error: Exception) -> str:
    """Say in one line why ml_collections could not make a config of the command line."""
    # Without its overrides, which are what went wrong most likely.
    path = next((argument.removeprefix(_PREFIX) for argument in argv if argument.startswith(_PREFIX)), "")
    loaded: Any = None
    if Path(path).is_file():
        with contextlib.suppress(Exception):
            loaded = runpy.run_path(path).get("get_config", dict)()
        for argument in argv:
            name = argument.partition("=")[0].removeprefix(_OVERRIDE)
            if loaded is not None and name != argument.partition("=")[0] and not _has(loaded, name):
                return f"config has no field {name}{_fields_instead(loaded, name)}"
    text = " ".join(str(error).split())
    return f"cannot use the config: {text}"


def _fields_instead(loaded: Any, name: str) -> str:
    """Name the field that may be meant, or all there are beside it."""
    place, _, field = name.rpartition(".")
    if place and not _has(loaded, place):
        return nearest(name, _names(loaded), 0.0)
    section = functools.reduce(lambda inside, part: inside[part], place.split(".") if place else [], loaded)
    if not isinstance(section, Mapping | ConfigDict):
        return f": {place} is a value"
    similar = nearest(field, list(section))
    similar = similar or ("" if place else nearest(name, _names(loaded)))
    return similar or f", only {', '.join(section)}"


def _has(loaded: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(loaded, Mapping | ConfigDict) or part not in loaded:
            return False
        loaded = loaded[part]
    return True


def _names(loaded: Any, prefix: str = "") -> list[str]:
    names = []
    for name, value in loaded.items():
        names.append(prefix + name)
        if isinstance(value, Mapping | ConfigDict):
            names += _names(value, f"{prefix}{name}.")
    return names

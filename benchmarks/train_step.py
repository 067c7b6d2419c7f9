"""Time a training step of the published recipes, on random images that lie on the device.

    python -m benchmarks.train_step [--batch_size=128] [--recipes=standard,all] [--rounds=5]
    python -m benchmarks.train_step --devices=1,2

Both draw, augment, attack and descend as configs/ says, on one accelerator or all cores of a CPU, and in true float32.
Their first steps start from the same network with the same draws, and must see the same loss and gradient. With
--devices, JAX alone is timed on so many devices, in turns, the batch staying the same; the devices of a CPU share its
cores, and by default there are as many as advx_jax.train takes.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax._runtime import keep_compiled_code, keep_freed_memory
from advx_jax.analysis.workers import processor_cores
from advx_jax.errors import UserError
from advx_jax.reports.console import table
from advx_jax.training.cpu_devices import devices_for
from advx_jax.training.recipe import Recipe, recipe_from_config
from benchmarks.side_by_side import torch_settings, use_every_core, write
from benchmarks.training.flops import flops_per_image
from benchmarks.training.scaling import scale
from benchmarks.training.with_jax import use_devices

PUBLISHED = ("standard", "adv_train", "robust", "all")

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples of a step, on all devices together.")
_RECIPES = flags.DEFINE_list("recipes", list(PUBLISHED), "Which of the published recipes to time.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each has its turn.", lower_bound=1)
_STEPS = flags.DEFINE_integer(
    "steps", None, "Steps in a turn; 1 on a CPU and 10 elsewhere if not given.", lower_bound=1
)
_DEVICES = flags.DEFINE_list("devices", [], "Numbers of devices to time JAX on, without PyTorch.")
_PEAK = flags.DEFINE_float(
    "peak_tflops",
    None,
    "Peak of one device in 10^12 operations a second, to tell what share of it is reached.",
    lower_bound=0.0,
)


class Speed(NamedTuple):
    """How fast a recipe trains.

    Attributes:
        step_seconds: best time of a step.
        ms_per_image: the same for one image of the batch.
        images_per_second: the inverse of that.
        share_of_peak: of all devices used; None if the peak is not given.
    """

    step_seconds: float
    ms_per_image: float
    images_per_second: float
    share_of_peak: float | None

    def share(self) -> tuple[str, ...]:
        """The share as a cell of a table; none if there is no such column."""
        return () if self.share_of_peak is None else (f"{self.share_of_peak:.1%}",)


@command()
def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    no_arguments(arguments)
    recipes = {name: _recipe(name) for name in _RECIPES.value or [""]}
    device_counts = [_count(text) for text in _DEVICES.value]
    if device_counts:
        _scale(recipes, device_counts)
    else:
        _compare(recipes)


def _compare(recipes: Mapping[str, Recipe]) -> None:
    # As the command does; PyTorch in the same process has the advantage too.
    keep_freed_memory()
    # All recipes have the same batch.
    use_devices(1, devices_for(next(iter(recipes.values())), processor_cores()))
    keep_compiled_code()
    use_every_core()
    # Imports PyTorch.
    from benchmarks.training.comparison import compare_steps

    rows, cells = [], []
    for name, recipe in recipes.items():
        found = compare_steps(recipe, _ROUNDS.value, _STEPS.value)
        speeds = {who: _speed(recipe, best) for who, best in (("torch", found.torch), ("jax", found.jax))}
        ratios = {"median_ratio": found.median_ratio, "best_ratio": found.best_ratio}
        print(f"{name}: JAX/PyTorch {found.median_ratio:.2f} (median), {found.best_ratio:.2f} (best)", flush=True)
        rows.append(
            {
                "recipe": name,
                **{who: speed._asdict() for who, speed in speeds.items()},
                **ratios,
                "gflop_per_image": flops_per_image(recipe) / 1e9,
                "round_seconds": found.rounds,
                "first_step": {"torch": found.first_torch._asdict(), "jax": found.first_jax._asdict()},
            }
        )
        cells.append(
            (
                name,
                *(f"{speed.ms_per_image:.3f}" for speed in speeds.values()),
                *(f"{speed.images_per_second:.0f}" for speed in speeds.values()),
                *(f"{ratio:.2f}" for ratio in ratios.values()),
                *speeds["torch"].share(),
                *speeds["jax"].share(),
            )
        )
    shares = ("PyTorch of peak", "JAX of peak") if _PEAK.value else ()
    header = ("recipe", "PyTorch ms/image", "JAX ms/image", "PyTorch images/s", "JAX images/s")
    print(table((*header, "JAX/PyTorch median", "best", *shares), cells))
    write("train_step", _settings() | torch_settings(), {"rows": rows})


def _scale(recipes: Mapping[str, Recipe], device_counts: Sequence[int]) -> None:
    rows, cells = [], []
    for name, recipe in recipes.items():
        for found in scale(recipe, device_counts, _ROUNDS.value, _STEPS.value):
            speed = _speed(recipe, found.best, found.n_devices)
            print(f"{name} on {found.n_devices}: speed-up {found.speed_up:.2f}", flush=True)
            rows.append(
                {
                    "recipe": name,
                    "devices": found.n_devices,
                    "jax": speed._asdict(),
                    "speed_up": found.speed_up,
                    "gflop_per_image": flops_per_image(recipe) / 1e9,
                    "round_seconds": found.rounds,
                }
            )
            numbers = (f"{speed.ms_per_image:.3f}", f"{speed.images_per_second:.0f}", f"{found.speed_up:.2f}")
            cells.append((name, found.n_devices, *numbers, *speed.share()))
    header = ("recipe", "devices", "JAX ms/image", "JAX images/s", "speed-up median")
    print(table((*header, *(("of peak",) if _PEAK.value else ())), cells))
    write("train_step_devices", _settings() | {"devices": device_counts}, {"rows": rows})


def _speed(recipe: Recipe, step_seconds: float, n_devices: int = 1) -> Speed:
    images_per_second = recipe.batch_size / step_seconds
    share = None
    if _PEAK.value:
        share = images_per_second * flops_per_image(recipe) / (n_devices * _PEAK.value * 1e12)
    return Speed(step_seconds, 1000 / images_per_second, images_per_second, share)


def _settings() -> dict[str, Any]:
    return {
        "batch_size": _BATCH_SIZE.value,
        "recipes": _RECIPES.value,
        "rounds": _ROUNDS.value,
        "steps": _STEPS.value,
        "peak_tflops": _PEAK.value,
    }


def _recipe(name: str) -> Recipe:
    if name not in PUBLISHED:
        raise UserError(f"expected --recipes among {', '.join(PUBLISHED)}, got {name}")
    config = importlib.import_module(f"advx_jax.configs.{name}").get_config()
    config.batch_size = _BATCH_SIZE.value
    return recipe_from_config(config.to_dict())


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise UserError(f"expected numbers of devices, as in --devices=1,2, got {text}")
    return int(text)


if __name__ == "__main__":
    main()

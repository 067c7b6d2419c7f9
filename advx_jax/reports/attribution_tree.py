"""Heat maps of the methods that explanations are compared with, as files, and what `explanations.json` says of them."""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advx_jax.analysis.comparison import Comparison
from advx_jax.names import safe_name
from advx_jax.reports.explanation_tree import ExplainedImage, folder_name, folder_written_whole, picture_names
from advx_jax.reports.heat_maps import by_position, heat_map, heat_scale
from advx_jax.reports.pictures import png_bytes

_ATTRIBUTIONS = "attributions"


def attribution_folder(output: Path, method: str, folder: str) -> Path:
    """Where a method's heat maps of an image lie; they are called as its difference maps are."""
    return output / _ATTRIBUTIONS / safe_name(method) / folder


def write_comparison(output: Path, record: ExplainedImage, comparison: Comparison) -> dict[str, Any]:
    """Write the heat maps of an image, replacing those of an earlier run; returns what is told of it.

    `attributions/{method}/{name}-{class}/{c}_{class}.png` for every method and target; each folder appears whole or
    not at all.

    Raises:
        UserError: a folder of that name holds other files.
    """
    folder, targets = folder_name(record.name, record.class_names[record.label]), record.targets.tolist()
    names = picture_names(record.class_names, record.confidences.tolist(), record.second, record.label, targets)
    entries = {}
    for method, attributions in comparison.attributions.items():
        maps = by_position(attributions)
        scale = heat_scale(maps)
        place = attribution_folder(output, method, folder)
        with folder_written_whole(place) as temporary:
            for name, values in zip(names.differences, maps, strict=True):
                (temporary / name).write_bytes(png_bytes(heat_map(record.input, values, scale)))
        entries[method] = {
            "pictures": [str((place / name).relative_to(output).as_posix()) for name in names.differences],
            "scale": scale,
            "sum": maps.sum((1, 2)),
        }
        if method in comparison.completeness_gaps:
            entries[method]["completeness_gap"] = comparison.completeness_gaps[method]
    return {"counterfactual": comparison.quality._asdict(), "methods": entries}


def are_written(output: Path, methods: Mapping[str, Any], folder: str) -> bool:
    """Whether all methods' heat maps of an image are there."""
    return all(attribution_folder(output, method, folder).is_dir() for method in methods)


def forget_attributions(output: Path, folders: Sequence[str]) -> None:
    """Remove the heat maps of images, of whatever methods there are; folders are called as those of images are."""
    top = output / _ATTRIBUTIONS
    if not (folders and top.is_dir()):
        return
    for of_method in [*sorted(top.iterdir()), top]:
        for folder in folders:
            shutil.rmtree(of_method / folder, ignore_errors=True)
        # Where there are pictures of other images, or what is somebody else's, it stays.
        with contextlib.suppress(OSError):
            of_method.rmdir()

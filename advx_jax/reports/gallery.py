"""The HTML gallery of explanations: pages that carry all their pictures and need nothing else."""

import base64
import importlib.resources
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsFloat

from advx_jax.errors import UserError
from advx_jax.files import atomic_write
from advx_jax.reports.explanation_tree import INPUT, difference_folder, folder_name, picture_names

if TYPE_CHECKING:
    import jinja2

_IMAGES_PER_PAGE = 100
_PAGE_NAME = re.compile(r"index-\d+\.html")
_GENERATOR = "advx_jax explanation gallery"


class _Tile(NamedTuple):
    """An explanation towards one class as the page shows it; pictures as data URIs, numbers as text."""

    class_index: int
    class_name: str
    role: str
    picture: str
    difference: str
    confidence: str
    percent: float
    logit: str
    rms: str
    first_ok: str
    missed: bool


class _Image(NamedTuple):
    anchor: str
    name: str
    label_is_given: bool
    input: str
    real: _Tile
    second: _Tile
    tiles: list[_Tile]
    predicted: _Tile
    n_missed: int
    beside: "_Image | None"


class Beside(NamedTuple):
    """Explanations of the same images by a second network, to be shown under the first's.

    Attributes:
        output: the folder with its pictures.
        results: content of its `explanations.json`.
    """

    output: Path
    results: Mapping[str, Any]


class _Page(NamedTuple):
    number: int
    name: str
    first: int
    last: int


def write_gallery(output: Path, results: Mapping[str, Any], beside: Beside | None = None) -> Path:
    """Write `index.html` for the explanations in `output`; more than 100 images go on `index-2.html`, ….

    Every page embeds its pictures, read from the tree that `write_explanation` wrote, so the gallery
    can be made again at any time from what is on disk.

    Args:
        output: the folder with the pictures.
        results: content of `explanations.json`: a head whose `settings` name at least `model` and
            `eps` (ρ), then `class_names`, and `images`, a `summary` each.
        beside: explanations by another network, shown for the images that it explained too.

    Returns:
        The first page.

    Raises:
        UserError: the results lack something, or a picture is missing.
    """
    try:
        records, class_names = list(results["images"]), [str(name) for name in results["class_names"]]
        eps = float(results["settings"]["eps"])
        model, other_model = results["settings"]["model"], beside and beside.results["settings"]["model"]
        others = {record["folder"]: record for record in beside.results["images"]} if beside else {}
        both = [others[record["folder"]] for record in records if record["folder"] in others]
        shared = {
            "generator": _GENERATOR,
            "title": f"Adversarial explanations: {model}" + (f" beside {other_model}" if beside else ""),
            "model": model,
            "other_model": other_model,
            "other_overview": _overview(both),
            "eps": f"{eps:g}",
            "n_classes": len(class_names),
            "facts": _facts({**results["settings"], "data": results.get("data")}),
            "environment": _environment(results["environment"]),
            "overview": _overview(records),
            "pages": (pages := _pages(len(records))),
        }
        template = _template()
        for page in pages:
            images = []
            for number, record in enumerate(records[page.first - 1 : page.last], page.first):
                image = _image(output, number, record, class_names)
                if beside and record["folder"] in others:
                    other = _image(beside.output, number, others[record["folder"]], class_names)
                    image = image._replace(beside=other)
                images.append(image)
            with atomic_write(output / page.name) as temporary:
                html = template.render(shared, page=page, images=images)
                # A file name that is no valid text must not make the page invalid.
                temporary.write_bytes(html.encode("utf-8", "replace"))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot make a gallery from the results in {output}: {error!r}") from error
    _remove_pages_beyond(output, pages)
    return output / pages[0].name


def _template() -> "jinja2.Template":
    # Imported here because most commands make no gallery.
    import jinja2

    source = importlib.resources.files("advx_jax.reports").joinpath("gallery.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)


def _pages(n_images: int) -> list[_Page]:
    starts = range(0, max(n_images, 1), _IMAGES_PER_PAGE)
    return [
        _Page(number, "index.html" if number == 1 else f"index-{number}.html", start + 1, end)
        for number, start in enumerate(starts, 1)
        for end in [min(start + _IMAGES_PER_PAGE, n_images)]
    ]


def _overview(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Counts over the images of all pages."""
    labelled = [record for record in records if record["label_is_given"]]
    reached = list(itertools.chain.from_iterable(record["reached"] for record in records))
    return {
        "images": len(records),
        "labelled": len(labelled),
        "right": sum(record["predicted"] == record["label"] for record in labelled),
        "explanations": len(reached),
        "missed": reached.count(False),
    }


def _image(output: Path, number: int, record: Mapping[str, Any], class_names: Sequence[str]) -> _Image:
    label, second, name = record["label"], record["second"], str(record["name"])
    confidences = [_number(value) for value in record["confidences"]]
    names = picture_names(class_names, confidences, second, label)
    # Made anew, not read from the record: a path in a results file must not lead out of `output`.
    folder = folder_name(name, class_names[label])
    differences = difference_folder(output, folder)
    roles = {label: "real" if record["label_is_given"] else "top", second: "second"}
    tiles = [
        _Tile(
            class_index=c,
            class_name=class_name,
            role=roles.get(c, ""),
            picture=_data_uri(output / folder / names.towards[c]),
            difference=_data_uri(differences / names.differences[c]),
            confidence=_text(confidences[c], ".3f"),
            percent=round(100 * confidences[c], 2) if math.isfinite(confidences[c]) else 0.0,
            logit=_text(_number(record["logits"][c]), ".3f"),
            rms=_text(_number(record["rms"][c]), ".4f"),
            first_ok=str(record["first_ok"][c]) if record["reached"][c] else "never",
            missed=not record["reached"][c],
        )
        for c, class_name in enumerate(class_names)
    ]
    return _Image(
        anchor=f"image-{number}",
        name=name,
        label_is_given=record["label_is_given"],
        input=_data_uri(output / folder / INPUT),
        real=tiles[label],
        second=tiles[second],
        tiles=tiles,
        predicted=tiles[record["predicted"]],
        n_missed=sum(tile.missed for tile in tiles),
        beside=None,
    )


def _data_uri(path: Path) -> str:
    try:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise UserError(
            f"expected the picture {path} of an image listed in the results, got: {error.strerror}"
        ) from error


def _number(value: SupportsFloat | None) -> float:
    """A number from JSON, where null stands for what is not finite."""
    return math.nan if value is None else float(value)


def _text(value: float, spec: str) -> str:
    return format(value, spec) if math.isfinite(value) else "not finite"


def _facts(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings as pairs of text; what is not set is left out, and digests are cut to what tells them apart."""
    facts = []
    for name, value in settings.items():
        if value is None:
            continue
        if isinstance(value, bool):
            text = "yes" if value else "no"
        elif isinstance(value, list | tuple):
            text = ", ".join(map(str, value))
        elif name.endswith("sha256"):
            text = f"{value:.12}…"
        else:
            text = f"{value:g}" if isinstance(value, float) else str(value)
        facts.append((name.replace("_", " "), text))
    return facts


def _environment(environment: Mapping[str, Any]) -> str:
    versions = [f"{name} {version}" for name, version in environment.items() if name != "device"]
    device = environment["device"]
    return ", ".join(versions) + f" on {device['count']} × {device['kind']}"


def _remove_pages_beyond(output: Path, pages: Sequence[_Page]) -> None:
    """Remove the later pages of an earlier, longer gallery, which nothing links to any more."""
    current = {page.name for page in pages}
    for path in output.glob("index-*.html"):
        if _PAGE_NAME.fullmatch(path.name) and path.name not in current:
            with path.open(encoding="utf-8", errors="replace") as file:
                ours = _GENERATOR in file.read(2000)
            if ours:
                path.unlink()

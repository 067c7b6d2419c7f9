"""The HTML gallery of explanations: pages that carry all their pictures and need nothing else."""

import base64
import importlib.resources
import itertools
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsFloat

from advx_jax.errors import UserError
from advx_jax.files import atomic_write
from advx_jax.reports.attribution_tree import attribution_folder
from advx_jax.reports.explanation_tree import INPUT, difference_folder, folder_name, picture_names
from advx_jax.reports.explanation_words import bound
from advx_jax.reports.heat_maps import colour_ramp, scale_text
from advx_jax.reports.pictures import picture_size, shrunken

if TYPE_CHECKING:
    import jinja2

# Of small images and few classes; of others as many as make a page that browsers open quickly.
_IMAGES_PER_PAGE, _PIXELS_PER_PAGE, _FEWEST_PER_PAGE = 100, 4_000_000, 4
# Larger pictures are shown larger; and none is embedded with more pixels than screens of twice as many points show.
_SMALL_SIDE, _EMBEDDED_SIDE = 96, 448
_PAGE_NAME = re.compile(r"index-\d+\.html")
_GENERATOR = "advx_jax explanation gallery"
# It stands in the head of a page, among the first so many characters.
_LONGEST_HEAD = 2000


# With a method more, a line of pictures is so much wider; beyond the widest it is broken.
_WIDTH, _METHODS_IN_WIDTH, _WIDTH_OF_METHOD, _WIDEST = 1140, 4, 146, 1900


class _Heat(NamedTuple):
    """What a method attributes to a class."""

    method: str
    picture: str
    scale: str
    is_finite: bool
    gap: str | None


class _Quality(NamedTuple):
    """How good an explanation is as a counterfactual, numbers as text."""

    valid: bool
    confidence: str
    gained: str
    l1: str
    l2: str
    linf: str
    unchanged: str


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
    quality: _Quality | None
    heats: list[_Heat]


class _Image(NamedTuple):
    anchor: str
    name: str
    label_is_given: bool
    input: str
    real: str
    lead: list[_Tile]
    tiles: list[_Tile]
    others: list[_Tile]
    predicted: str
    predicted_confidence: str
    agrees: bool
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


def check_pages_replaceable(output: Path) -> None:
    """Make sure, before any work, that a gallery takes the place of no page of somebody's own.

    Raises:
        UserError: it would.
    """
    page = output / _pages(0, 1)[0].name
    if os.path.lexists(page) and not (page.is_file() and _is_ours(page)):
        raise UserError(f"expected a gallery of explain in {page}, or no file, got another: choose another --output")


def write_gallery(output: Path, results: Mapping[str, Any], beside: Beside | None = None) -> Path:
    """Write `index.html` for the explanations in `output`; what does not fit (100 small images) goes on `index-2.html`.

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
        methods = results["settings"].get("methods", {})
        model, other_model = results["settings"]["model"], beside and beside.results["settings"]["model"]
        others = {record["folder"]: record for record in beside.results["images"]} if beside else {}
        both = [others[record["folder"]] for record in records if record["folder"] in others]
        size = _size(output, records[0], class_names) if records else (1, 1)
        shared = {
            "generator": _GENERATOR,
            "title": f"Adversarial explanations: {model}" + (f" beside {other_model}" if beside else ""),
            "model": model,
            "other_model": other_model,
            "other_overview": _overview(both),
            "eps": f"{eps:g}",
            # Of the published attack the bound has a name.
            "bound": bound(results["settings"]) if (has_norm := "norm" in results["settings"]) else f"ρ = {eps:g}",
            "short_bound": "the bound" if has_norm else "ρ",
            "methods": {name: _method_facts(method) for name, method in methods.items()},
            "ramp": colour_ramp(),
            "width": min(_WIDEST, _WIDTH + _WIDTH_OF_METHOD * max(0, len(methods) - _METHODS_IN_WIDTH)),
            "towards": _towards(records, len(class_names)),
            # Pixels of small images are to be seen as such.
            "large": (large := max(size) > _SMALL_SIDE),
            "rendering": "auto" if large else "pixelated",
            "facts": _facts({**results["settings"], "data": results.get("data")}),
            "judged": any("counterfactual" in record for record in [*records, *both]),
            "environment": _environment(results["environment"]),
            "overview": _overview(records),
            "pages": (pages := _pages(len(records), _per_page(records, size, len(methods)))),
        }
        template = _template()
        for page in pages:
            images = []
            for number, record in enumerate(records[page.first - 1 : page.last], page.first):
                image = _image(output, number, record, class_names, methods)
                if beside and record["folder"] in others:
                    other = _image(beside.output, number, others[record["folder"]], class_names, methods)
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


def _towards(records: Sequence[Mapping[str, Any]], n_classes: int) -> str:
    """In words, how many classes the images are explained towards."""
    counts = sorted({len(record["rms"]) for record in records} or {n_classes})
    few = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{n_classes} classes" if counts == [n_classes] else f"{few} of {n_classes} classes"


def _size(output: Path, record: Mapping[str, Any], class_names: Sequence[str]) -> tuple[int, int]:
    path = output / folder_name(str(record["name"]), class_names[record["label"]]) / INPUT
    try:
        return picture_size(path)
    except OSError as error:
        raise _no_picture(path, error) from error


def _per_page(records: Sequence[Mapping[str, Any]], size: tuple[int, int], n_methods: int) -> int:
    pixels = (2 + n_methods) * max((len(record["rms"]) for record in records), default=1) * math.prod(size)
    return max(_FEWEST_PER_PAGE, min(_IMAGES_PER_PAGE, _PIXELS_PER_PAGE // pixels))


def _pages(n_images: int, per_page: int) -> list[_Page]:
    starts = range(0, max(n_images, 1), per_page)
    return [
        _Page(number, "index.html" if number == 1 else f"index-{number}.html", start + 1, end)
        for number, start in enumerate(starts, 1)
        for end in [min(start + per_page, n_images)]
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


def _image(
    output: Path, number: int, record: Mapping[str, Any], class_names: Sequence[str], methods: Iterable[str]
) -> _Image:
    label, second, name = record["label"], record["second"], str(record["name"])
    confidences = [_number(value) for value in record["confidences"]]
    targets = record.get("targets", range(len(class_names)))
    names = picture_names(class_names, confidences, second, label, targets)
    # Made anew, not read from the record: a path in a results file must not lead out of `output`.
    folder = folder_name(name, class_names[label])
    differences = difference_folder(output, folder)
    roles = {second: "second", label: "real" if record["label_is_given"] else "top"}
    tiles = [
        _Tile(
            class_index=c,
            class_name=class_names[c],
            role=roles.get(c, ""),
            picture=_data_uri(output / folder / names.towards[place]),
            difference=_data_uri(differences / names.differences[place]),
            confidence=_text(confidences[c], ".3f"),
            percent=round(100 * confidences[c], 2) if math.isfinite(confidences[c]) else 0.0,
            logit=_text(_number(record["logits"][c]), ".3f"),
            rms=_text(_number(record["rms"][place]), ".4f"),
            first_ok=str(record["first_ok"][place]) if record["reached"][place] else "never",
            missed=not record["reached"][place],
            quality=_quality(record["counterfactual"], place) if "counterfactual" in record else None,
            heats=[
                _heat(method, record["methods"][method], place, attribution_folder(output, method, folder) / map_name)
                for method in methods
                for map_name in [names.differences[place]]
            ],
        )
        for place, c in enumerate(targets)
    ]
    lead = {tile.class_index: tile for tile in tiles}
    return _Image(
        anchor=f"image-{number}",
        name=name,
        label_is_given=record["label_is_given"],
        input=_data_uri(output / folder / INPUT),
        real=class_names[label],
        lead=(first := [lead[c] for c in (label, second) if c in lead]),
        tiles=tiles,
        others=[tile for tile in tiles if tile not in first],
        predicted=class_names[record["predicted"]],
        predicted_confidence=_text(confidences[record["predicted"]], ".3f"),
        agrees=record["predicted"] == label,
        n_missed=sum(tile.missed for tile in tiles),
        beside=None,
    )


def _quality(found: Mapping[str, Any], place: int) -> _Quality:
    def text(name: str, spec: str) -> str:
        return _text(_number(found[name][place]), spec)

    return _Quality(
        valid=found["valid"][place],
        confidence=text("confidence", ".3f"),
        gained=text("gained", "+.3f"),
        l1=text("l1", ".4g"),
        l2=text("l2", ".3f"),
        linf=text("linf", ".3f"),
        unchanged=text("sparsity", ".0%"),
    )


def _heat(method: str, entry: Mapping[str, Any], place: int, picture: Path) -> _Heat:
    gaps = entry.get("completeness_gap")
    return _Heat(
        # Where a line may be broken.
        method=method.replace("_", " ").replace("(", " ("),
        picture=_data_uri(picture),
        scale=scale_text(float(entry["scale"])),
        is_finite=entry["sum"][place] is not None,
        gap=None if gaps is None else _text(_number(gaps[place]), ".2g"),
    )


def _method_facts(settings: Mapping[str, Any]) -> str:
    """A method's settings in a line; its name stands before them."""
    plain = {
        name: value.get("method", value.get("attack")) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name != "method"
    }
    return ", ".join(f"{name} {value}" for name, value in _facts(plain))


def _data_uri(path: Path) -> str:
    try:
        return "data:image/png;base64," + base64.b64encode(shrunken(path.read_bytes(), _EMBEDDED_SIDE)).decode("ascii")
    except OSError as error:
        raise _no_picture(path, error) from error


def _no_picture(path: Path, error: OSError) -> UserError:
    return UserError(f"expected the picture {path} of an image listed in the results, got: {error.strerror or error}")


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
        if isinstance(value, Mapping):
            facts.append((name.replace("_", " "), ", ".join(other.replace("_", " ") for other in value)))
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
        if _PAGE_NAME.fullmatch(path.name) and path.name not in current and _is_ours(path):
            path.unlink()


def _is_ours(page: Path) -> bool:
    with page.open(encoding="utf-8", errors="replace") as file:
        return _GENERATOR in file.read(_LONGEST_HEAD)

"""Explanations as Python shows them: in a line, and with their pictures in a notebook."""

import base64
import dataclasses
import html
from collections.abc import Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
from jaxtyping import Float

from advx_jax.analysis import explanations
from advx_jax.analysis.comparison import Comparison
from advx_jax.messages import one_line, size_in_words
from advx_jax.reports.heat_maps import by_position, heat_map, heat_scale, scale_text
from advx_jax.reports.pictures import png_bytes, shrunken, to_pixels

# Classes of an image, and images of a list, that a notebook shows.
_MOST_CLASSES, _MOST_IMAGES = 12, 10
# With the attributions of each.
_MOST_COMPARED = 3
# Side of a picture on the page; and of what is embedded, for screens of twice as many points.
_SHOWN_SIDE, _EMBEDDED_SIDE = 96, 192


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Explanation(explanations.Explanation):
    """One image explained towards classes, with what it takes to show it; a notebook shows the pictures.

    Attributes, beside those of `analysis.explanations.Explanation`:
        image: x, on the [0,1] scale.
        class_names: what the classes are called.
        label: the true class; None where nobody says which it is.
        comparison: attributions by other methods and quality as counterfactuals, in the order of the targets; None
            where nobody asked for them.
    """

    image: Float[np.ndarray, "*shape"]
    class_names: tuple[str, ...]
    label: int | None
    comparison: Comparison | None = None

    @property
    def pictures(self) -> Float[np.ndarray, "targets *shape"]:
        """The explanations, image + δ towards each target, clipped to [0,1]."""
        return np.clip(self.image + self.perturbations, 0, 1)

    def __repr__(self) -> str:
        top = int(np.argmax(self.confidences))
        parts = [
            f"{size_in_words(self.image.shape)} image towards {len(self.rms)} classes",
            f"looks like {one_line(self.class_names[top])} ({self.confidences[top]:.3f})",
            f"RMS {np.min(self.rms):.4f} to {np.max(self.rms):.4f}",
        ]
        if not self._arrived.all():
            parts.append(f"{np.sum(~self._arrived)} short of ρ")
        if self.label is not None:
            parts.insert(1, f"label {one_line(self.class_names[self.label])}")
        return f"Explanation({', '.join(parts)})"

    def _repr_html_(self) -> str | None:
        if self.image.ndim != 3:
            return None
        if self.comparison is not None and self.comparison.attributions:
            return self._compared(self.comparison)
        shown = self._shown_places(_MOST_CLASSES)
        return _line([self._input(), *map(self._towards, shown)], self._left_out(len(shown)))

    def _input(self) -> str:
        label = [] if self.label is None else [self.class_names[self.label]]
        return _tile(self.image, "input", label, outlined=False)

    def _towards(self, place: int) -> str:
        c = int(self.targets[place])
        numbers = [f"was {self.confidences[c]:.3f}", f"RMS {self.rms[place]:.4f}"]
        if self.comparison is not None:
            numbers.insert(1, f"is {self.comparison.quality.confidence[place]:.3f}")
        if not self._arrived[place]:
            numbers.append("short of ρ")
        picture = self.image + self.perturbations[place]
        return _tile(picture, f"→ {self.class_names[c]}", numbers, outlined=c == self.label)

    def _compared(self, comparison: Comparison) -> str:
        """A line for each target, with the heat maps of the methods in it."""
        maps = {name: by_position(found) for name, found in comparison.attributions.items()}
        scales = {name: heat_scale(found) for name, found in maps.items()}
        shown = self._shown_places(_MOST_COMPARED)
        lines = []
        for number, place in enumerate(shown):
            heats = [
                _tile(
                    heat_map(self.image, found[place], scales[name]) / np.float32(255),
                    name.replace("_", " "),
                    [f"full colour: {scale_text(scales[name])}"],
                    outlined=False,
                )
                for name, found in maps.items()
            ]
            last = number == len(shown) - 1
            lines.append(
                _line([self._input(), self._towards(place), *heats], self._left_out(len(shown)) if last else "")
            )
        return "".join(lines)

    def _left_out(self, n_shown: int) -> str:
        left_out = len(self.rms) - n_shown
        return f'<div style="align-self:center">… {left_out} less confident classes</div>' if left_out else ""

    @property
    def _arrived(self) -> Any:
        return self.reached & self.finite

    def _shown_places(self, most: int) -> list[int]:
        """All targets in their order, or of many those that the model is most confident of, and the label."""
        if len(self.targets) <= most:
            return list(range(len(self.targets)))
        is_label = self.targets == (-1 if self.label is None else self.label)
        order = np.lexsort((np.arange(len(is_label)), -self.confidences[self.targets], ~is_label))
        return [int(place) for place in order[:most]]


class Explanations(list[Explanation]):
    """A list of explanations; a notebook shows the pictures of the first of them."""

    @overload
    def __getitem__(self, place: SupportsIndex) -> Explanation: ...

    @overload
    def __getitem__(self, place: slice) -> "Explanations": ...

    def __getitem__(self, place: SupportsIndex | slice) -> "Explanation | Explanations":
        found = super().__getitem__(place)
        return found if isinstance(found, Explanation) else Explanations(found)

    def __repr__(self) -> str:
        return "[" + ",\n ".join([*map(repr, self[:_MOST_IMAGES]), *self._more()]) + "]"

    def _repr_html_(self) -> str | None:
        parts = [explanation._repr_html_() for explanation in self[:_MOST_IMAGES]]
        if not parts or None in parts:
            return None
        return "".join([*filter(None, parts), *(f"<div>{more}</div>" for more in self._more())])

    def _more(self) -> Sequence[str]:
        left_out = len(self) - _MOST_IMAGES
        return [f"… {left_out} more of {len(self)}"] if left_out > 0 else []


def _line(tiles: Sequence[str], more: str) -> str:
    return f'<div style="display:flex;flex-wrap:wrap;gap:10px;margin:6px 0">{"".join(tiles)}{more}</div>'


def _tile(picture: Float[np.ndarray, "height width channels"], title: str, lines: Sequence[str], outlined: bool) -> str:
    """A picture with lines below it, in the colours of the page; that of the label's class within a frame."""
    border = f"border:2px solid {'currentColor' if outlined else 'transparent'};padding:2px"
    pixelated = "" if max(picture.shape[:2]) > _SHOWN_SIDE else ";image-rendering:pixelated"
    name = html.escape(one_line(title))
    below = "<br>".join(html.escape(one_line(line)) for line in lines)
    return (
        f'<figure style="margin:0;width:{_SHOWN_SIDE + 8}px;{border};box-sizing:border-box">'
        f'<img src="{_data_uri(picture)}" alt="{name}" style="width:100%;margin:0{pixelated}">'
        f'<figcaption style="font-size:11px;line-height:1.3;overflow-wrap:anywhere">'
        f'{name}<br><span style="opacity:.75">{below}</span></figcaption></figure>'
    )


def _data_uri(picture: Float[np.ndarray, "height width channels"]) -> str:
    png = shrunken(png_bytes(to_pixels(picture)), _EMBEDDED_SIDE)
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")

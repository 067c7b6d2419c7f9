"""Explanations as Python shows them: short in words, with pictures in a notebook."""

import base64
import dataclasses
import html.parser
import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from advx_jax.analysis.comparison import Comparison
from advx_jax.analysis.faithfulness.counterfactual import CounterfactualQuality
from advx_jax.reports.shown_explanation import Explanation, Explanations

NAMES = ("cat", "dog", "<script>alert('&')</script>\n\x1b[31m")


def explanation(n_classes=3, shape=(4, 6, 3), label=1, names=None, **fields):
    rng = np.random.default_rng(0)
    confidences = rng.dirichlet(np.ones(n_classes)).astype(np.float32)
    found = {
        "logits": np.log(confidences),
        "confidences": confidences,
        "targets": np.arange(n_classes, dtype=np.int32),
        "perturbations": rng.normal(0, 0.1, (n_classes, *shape)).astype(np.float32),
        "rms": np.linspace(0.0991, 0.1009, n_classes).astype(np.float32),
        "first_ok": np.full(n_classes, 20, np.int32),
        "reached": np.ones(n_classes, bool),
        "finite": np.ones(n_classes, bool),
        "image": rng.uniform(size=shape).astype(np.float32),
        "class_names": names or (*NAMES, *map(str, range(3, n_classes)))[:n_classes],
        "label": label,
    }
    return Explanation(**found | fields)


class Page(html.parser.HTMLParser):
    """Pictures and text of a fragment, which must be whole."""

    def __init__(self, fragment):
        super().__init__()
        self.open, self.tags, self.pictures, self.names, self.text = [], set(), [], [], []
        self.feed(fragment)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "img":
            values = dict(attributes)
            self.names.append(values["alt"])
            kind, data = values["src"].split(",")
            assert kind == "data:image/png;base64"
            self.pictures.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
        elif tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_it_says_in_a_line_what_it_is():
    shown = repr(explanation())
    assert shown.startswith("Explanation(4×6×3 image towards 3 classes, label dog, looks like ")
    assert shown.endswith("RMS 0.0991 to 0.1009)")
    assert shown.isprintable()
    short = explanation(reached=np.array([True, False, True]), finite=np.array([False, True, True]), label=None)
    assert repr(short).endswith("2 short of ρ)")
    assert "label" not in repr(short)
    many = repr(Explanations([explanation()] * 25))
    assert len(many) < 2000
    assert many.endswith("… 15 more of 25]")


def test_a_notebook_shows_input_and_pictures_with_their_numbers():
    one = explanation()
    fragment = one._repr_html_()
    page = Page(fragment)
    assert page.names == ["input", "→ cat", "→ dog", "→ <script>alert('&')</script> \\x1b[31m"]
    pixels = np.floor(255 * one.image + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(page.pictures[0], pixels)
    np.testing.assert_array_equal(page.pictures[2], np.floor(255 * one.pictures[1] + 0.5).astype(np.uint8))
    assert {f"was {one.confidences[0]:.3f}", "RMS 0.0991", "RMS 0.1009"} <= set(page.text)
    # The class of the label is framed, in whatever colour the page writes.
    assert fragment.count("currentColor") == 1
    frame, name = fragment.index("currentColor"), fragment.index('alt="→ dog"')
    assert frame < name < fragment.index("transparent", frame)
    assert not {"script", "style", "link"} & page.tags
    assert "short of ρ" not in fragment
    assert Page(explanation(reached=np.zeros(3, bool))._repr_html_()).text.count("short of ρ") == 3


def test_of_many_classes_the_likeliest_are_shown_and_the_label():
    least = int(np.argmin(explanation(1000).confidences))
    one = explanation(1000, label=least)
    page = Page(one._repr_html_())
    assert len(page.pictures) == 13
    order = [one.class_names[c] for c in [least, *np.argsort(-one.confidences)[:11]]]
    assert page.names[1:] == [f"→ {' '.join(name.split())}" for name in order]
    assert "… 988 less confident classes" in page.text


@pytest.mark.parametrize(
    ("shape", "shown"), [((600, 400, 3), (192, 128, 3)), ((5, 5, 1), (5, 5)), ((5, 5, 4), (5, 5, 4))]
)
def test_pictures_of_other_sizes_and_channels_are_shown_small(shape, shown):
    page = Page(explanation(2, shape, label=None)._repr_html_())
    assert len(page.pictures) == 3
    assert page.pictures[0].shape == shown


def test_what_is_no_picture_is_shown_in_words():
    flat = explanation(2, (7,))
    assert flat._repr_html_() is None
    assert Explanations([flat])._repr_html_() is None
    assert Explanations()._repr_html_() is None


def test_methods_are_shown_beside_each_explanation():
    one = explanation(5)
    maps = {"adversarial": one.perturbations, "grad_cam": np.zeros((5, 4, 6), np.float32)}
    quality = CounterfactualQuality(*(jnp.linspace(0, 1, 5) for _ in CounterfactualQuality._fields))
    page = Page(dataclasses.replace(one, comparison=Comparison(maps, {}, quality))._repr_html_())
    towards = [name for name in page.names if name.startswith("→")]
    assert len(towards) == 3
    assert page.names == [name for title in towards for name in ("input", title, "adversarial", "grad cam")]
    assert page.pictures[2].shape == (4, 6, 3)
    assert "full colour: 0 everywhere" in page.text
    assert {"is 0.250", "… 2 less confident classes"} <= set(page.text)


def test_a_list_of_explanations_is_a_list_that_shows_the_first():
    several = Explanations([explanation()] * 12)
    assert len(Page(several._repr_html_()).pictures) == 40
    assert "… 2 more of 12" in several._repr_html_()
    assert isinstance(several, list)
    assert isinstance(several[0], Explanation)
    assert isinstance(several[:2], Explanations)
    assert len(several[:2]) == 2


def test_values_that_are_no_numbers_are_shown_all_the_same():
    broken = explanation(perturbations=np.full((3, 4, 6, 3), np.nan, np.float32), finite=np.zeros(3, bool))
    assert len(Page(broken._repr_html_()).pictures) == 4
    assert "3 short of ρ" in repr(broken)

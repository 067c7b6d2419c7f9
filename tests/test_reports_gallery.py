import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from explained_images import explained_image

from advx_jax.errors import UserError
from advx_jax.reports.explanation_tree import summary, write_explanation
from advx_jax.reports.gallery import Beside, write_gallery
from advx_jax.reports.results_json import read_json, write_json

ENVIRONMENT = {"advx_jax": "0.1.0", "jax": "0.10.1", "device": {"platform": "cpu", "kind": "cpu", "count": 2}}
SETTINGS = {"model": "resnet44-all", "eps": 0.1, "steps": 35, "stay_in_range": False, "network_sha256": "ab" * 32}


class Page(HTMLParser):
    """What a browser would see: elements with attributes, and text."""

    VOID = frozenset({"meta", "img", "input"})

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self._open = [], "", []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text += data

    def all(self, tag, **attributes):
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]


def make(output, records, settings=SETTINGS, **changes):
    results = {
        "format": 1,
        "command": "explain",
        "settings": settings,
        "environment": ENVIRONMENT,
        "data": "sample",
        "class_names": records[0].class_names,
        "images": [summary(record) for record in records],
    } | changes
    write_json(output / "explanations.json", results)
    for record in records:
        write_explanation(output, record)
    # The gallery is made from what is on disk alone.
    return write_gallery(output, read_json(output / "explanations.json"))


@pytest.fixture
def page(tmp_path):
    return Page(make(tmp_path, [explained_image("0", 3), explained_image("1", 8, seed=1)]))


def test_the_page_needs_nothing_but_itself(page):
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "PICTURE", page.source)
    assert without_pictures.count("PICTURE") == 2 * (1 + 1 + 2 * 12)
    assert not re.search(r"https?:|file:|//|@import|url\((?!PICTURE\))", without_pictures)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for _, attributes in page.elements:
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attributes.get("href", "#image-1").removeprefix("#") in anchors
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy[0]["content"].startswith("default-src 'none'; img-src data:")


def test_every_picture_on_disk_is_on_the_page(tmp_path, page):
    embedded = {base64.b64decode(image["src"].split(",")[1]) for image in page.all("img")}
    on_disk = {path.read_bytes() for path in tmp_path.rglob("*.png")}
    assert len(on_disk) == 2 * 21
    assert embedded == on_disk


def test_the_pictures_stand_under_their_own_classes(tmp_path, page):
    record = explained_image("1", 8, seed=1)
    for c, name in enumerate(record.class_names):
        picture = (tmp_path / "1-ship" / f"{c}_{name}_was_{record.confidences[c]:.3f}.png").read_bytes()
        found = page.all("img", alt=f"Image 1 changed towards {name}")
        assert found
        assert all(base64.b64decode(image["src"].split(",")[1]) == picture for image in found)


def test_every_picture_has_a_text_in_its_place(page):
    assert all(image["alt"] for image in page.all("img"))
    assert len({image["alt"] for image in page.all("img")}) == 2 * 21


def test_every_confidence_is_told_as_number_and_bar(page):
    for seed, label in ((0, 3), (1, 8)):
        for confidence in explained_image(label=label, seed=seed).confidences:
            assert f"{confidence:.3f}" in page.text
            assert page.all("span", style=f"width: {round(100 * float(confidence), 2)}%")


def test_title_settings_data_and_versions_are_told(page):
    for text in (
        "Adversarial explanations: resnet44-all",
        "steps35",
        "eps0.1",
        "stay in rangeno",
        "network sha256abababababab…",
        "datasample",
        "advx_jax 0.1.0, jax 0.10.1 on 2 × cpu",
        "How to read an explanation",
    ):
        assert text in page.text.replace("\n", "")


def test_what_fell_short_is_flagged_with_the_rms_that_it_reached(page):
    assert "4 of 20 explanations ended short of ρ = 0.1" in page.text
    assert page.text.count("⚠ 2 of 10 short of ρ") == 2
    # Class 1 and class 4 of two images; none is the real one, and the second one is shown twice.
    shown_twice = sum(explained_image(label=label, seed=seed).second in (1, 4) for seed, label in ((0, 3), (1, 8)))
    flagged = [figure for figure in page.all("figure") if "missed" in (figure.get("class") or "").split()]
    assert len(flagged) == 4 + shown_twice
    assert page.text.count("⚠ RMS 0.0273") >= 2
    assert page.text.count("⚠ RMS 0.0997") >= 2
    assert page.text.count("never") == 4 + 1  # the fifth is in the legend


def test_nothing_is_flagged_where_all_reached(tmp_path):
    page = Page(make(tmp_path, [explained_image(reached=np.ones(10, bool))]))
    assert "All 10 explanations reached ρ = 0.1" in page.text
    assert "⚠ RMS" not in page.text
    assert not [figure for figure in page.all("figure") if "missed" in (figure.get("class") or "")]


def test_it_says_whether_the_network_is_right(tmp_path):
    records = [explained_image(str(seed), label, seed) for seed, label in ((0, 3), (1, 8))]
    right = explained_image("2", int(records[0].logits.argmax()))
    wrong = explained_image("3", int(records[0].logits.argmin()))
    page = Page(make(tmp_path, [right, wrong]))
    assert "The network is right on 1 of 2." in page.text
    assert page.text.count("network agrees") == 1
    assert page.text.count("network says") == 1


def test_without_a_label_the_top_class_is_said_to_stand_in(tmp_path):
    page = Page(make(tmp_path, [explained_image("my photo", 3, label_is_given=False)]))
    assert "no label given" in page.text
    assert "The network is right" not in page.text
    assert page.all("figure", class_="top")
    assert not page.all("figure", class_="real")


def test_hostile_names_are_text(tmp_path):
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    names = [evil, *[f"{c}</style><script>" for c in range(8)], "'\"&"]
    page = Page(make(tmp_path, [explained_image(evil, 0, class_names=names)], {**SETTINGS, "model": evil, evil: evil}))
    assert "script" not in {tag for tag, _ in page.elements}
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes)]
    assert f"Adversarial explanations: {evil}" in page.text
    assert names[1] in page.text
    assert page.all("img", alt=f"Image {evil}, unchanged")


def test_a_name_that_is_no_valid_text_leaves_a_valid_page(tmp_path):
    assert "photo?" in Page(make(tmp_path, [explained_image("photo\udcff")])).text


def test_a_record_cannot_lead_out_of_the_output(tmp_path):
    (tmp_path / "secret").mkdir()
    record = explained_image()
    make(tmp_path / "out", [record])
    entry = summary(record) | {"folder": "../secret"}
    page = Page(make(tmp_path / "out", [record], images=[entry]))
    assert len(page.all("img")) == 1 + 2 * 12


def test_values_that_were_not_finite_are_said_to_be_so(tmp_path):
    nan = np.full(10, np.nan, np.float32)
    page = Page(make(tmp_path, [explained_image(confidences=nan, rms=nan, reached=np.zeros(10, bool))]))
    assert "⚠ RMS not finite" in page.text
    assert "nan" not in page.text


def many(output, n):
    record = explained_image()
    write_explanation(output, record)
    return make(output, [record], images=[summary(record)] * n)


def test_many_images_are_split_into_linked_pages(tmp_path):
    first = many(tmp_path, 201)
    assert first == tmp_path / "index.html"
    assert {path.name for path in tmp_path.glob("*.html")} == {"index.html", "index-2.html", "index-3.html"}
    pages = [Page(tmp_path / name) for name in ("index.html", "index-2.html", "index-3.html")]
    assert [len(page.all("article")) for page in pages] == [100, 100, 1]
    for number, page in enumerate(pages):
        links = [a["href"] for a in page.all("a") if a["href"].endswith(".html")]
        assert links == ["index.html", "index-2.html", "index-3.html"] * 2
        assert [a["href"] for a in page.all("a", **{"aria-current": "page"})] == [links[number]] * 2
        assert "201 images" in page.text
        assert "402 of 2010 explanations ended short" in page.text
    ids = [article["id"] for page in pages for article in page.all("article")]
    assert len(set(ids)) == 201


def test_one_page_has_no_page_links(tmp_path):
    page = Page(many(tmp_path, 100))
    assert len(page.all("article")) == 100
    assert not [a for a in page.all("a") if a["href"].endswith(".html")]


def test_pages_of_an_earlier_longer_gallery_go_and_other_files_stay(tmp_path):
    many(tmp_path, 101)
    (tmp_path / "index-3.html").write_text("<p>mine</p>")
    (tmp_path / "index-mine.html").write_text("advx_jax explanation gallery")
    many(tmp_path, 1)
    assert {path.name for path in tmp_path.glob("*.html")} == {"index.html", "index-3.html", "index-mine.html"}


def test_a_missing_picture_is_a_one_line_error_and_the_old_page_stays(tmp_path):
    path = make(tmp_path, [explained_image()])
    before = path.read_bytes()
    (tmp_path / "0-cat" / "_input.png").unlink()
    with pytest.raises(UserError, match=r"expected the picture .*_input\.png"):
        write_gallery(tmp_path, read_json(tmp_path / "explanations.json"))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"images": None},
        {"images": [{}]},
        {"images": [3]},
        {"class_names": ["a"]},
        {"settings": {"model": "m"}},
        {"settings": {"model": "m", "eps": "much"}},
        {"environment": {}},
    ],
)
def test_results_that_are_none_are_one_line_errors(tmp_path, change):
    with pytest.raises(UserError, match="cannot make a gallery") as caught:
        make(tmp_path, [explained_image()], **change)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "index.html").exists()


def test_a_second_network_is_shown_under_the_first(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    make(first, [explained_image("0", 3), explained_image("1", 8, seed=1)])
    # The second has explained only one of the images, and another one.
    make(
        second, [explained_image("1", 8, seed=2), explained_image("7", 2, seed=3)], SETTINGS | {"model": "<i>standard"}
    )
    results, other = (read_json(folder / "explanations.json") for folder in (first, second))
    page = Page(write_gallery(first, results, Beside(second, other)))
    assert "resnet44-all beside <i>standard" in page.text
    assert len(page.all("article")) == 2
    (section,) = page.all("section")
    assert section["aria-label"] == "The same image by <i>standard"
    # 12 explanations each, for two images and for one; the inputs of the three.
    assert len(page.all("img", class_="explanation")) == 36
    for name in ("1-ship/_input.png", "1-ship/4_*.png"):
        (picture,) = second.glob(name)
        assert base64.b64encode(picture.read_bytes()).decode() in page.source
    assert not any(base64.b64encode(path.read_bytes()).decode() in page.source for path in second.glob("7-bird/[0-9]*"))
    # Two of ten explanations are short, and only the image that both have explained is counted.
    assert "2 of its 10 explanations ended short" in " ".join(page.text.split())

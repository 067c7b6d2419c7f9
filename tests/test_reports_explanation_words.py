from pathlib import Path

from advx_jax.reports.explanation_words import closing_words, shortfall

CLASSES = ("airplane", "automobile", "bird")
FOLDERS = {"0-bird", "photo-airplane"}


def _entry(name, label, rms, reached, **fields):
    entry = {"name": name, "folder": f"{name}-{CLASSES[label]}", "label": label, "label_is_given": name.isdecimal()}
    return entry | {"predicted": 1, "confidences": [0.1, 0.75, 0.15], "rms": rms, "reached": reached} | fields


def _results(model, *entries, direction="cross_entropy"):
    return {
        "settings": {"model": model, "eps": 8 / 255, "direction": direction},
        "class_names": CLASSES,
        "images": list(entries),
    }


GOOD = _results(
    "strong",
    _entry("0", 2, [0.1, 0.1, 0.1], [True] * 3),
    _entry("7", 2, [0.0] * 3, [False] * 3),
    _entry("photo", 0, [0.1, 0.1, 0.1], [True] * 3, confidences=[None] * 3),
)
SHORT = _results(
    "weak",
    _entry("0", 2, [0.01, 0.02, 0.1], [False, False, True]),
    _entry("photo", 0, [None, 0.1, 0.1], [False, True, True]),
)


def test_success_is_said_and_nothing_else_where_all_reached_the_size():
    lines = closing_words(Path("out"), GOOD, None, FOLDERS).splitlines()
    assert lines == [
        "image  class  strong says",
        "0      bird   automobile 0.750",
        "photo  ?      automobile nan",
        "2 images explained towards each of 3 classes by strong",
        "look at them: out/index.html (numbers: out/explanations.json)",
    ]


def test_what_fell_short_is_a_note_after_what_was_made_and_names_its_network():
    lines = closing_words(Path("out"), GOOD, SHORT, FOLDERS).splitlines()
    assert lines[1].split() == ["0", "bird", "automobile", "0.750", "automobile", "0.750"]
    assert lines[3] == "2 images explained towards each of 3 classes by strong, beside weak"
    assert lines[4].startswith("look at them: out/index.html")
    assert lines[5] == (
        "note: 3 of 6 explanations by weak end before RMS 8/255, at 0.0100 to 0.0200 (marked in the gallery). That is "
        "usual for networks that were not trained to be robust, and no fault of this run; --direction=scale_free or "
        "more --steps may get nearer"
    )
    assert len(lines) == 6


def test_what_ends_beyond_is_not_the_networks_fault():
    message = shortfall(_results("weak", _entry("0", 2, [0.5, 0.4, 0.1], [False, False, True])), FOLDERS)
    assert message.startswith("2 of 3 explanations by weak end beyond RMS 8/255, at 0.4000 to 0.5000")
    assert "robust" not in message


def test_only_images_that_were_asked_for_count():
    assert shortfall(GOOD, FOLDERS) == ""
    assert shortfall(GOOD, {"7-bird"}).startswith("3 of 3 explanations by strong end before")


def test_remedy_is_none_that_is_taken_already():
    message = shortfall(_results("weak", _entry("0", 2, [0.02] * 3, [False] * 3), direction="scale_free"), FOLDERS)
    assert "--direction" not in message
    assert "more --steps may get nearer" in message


def test_a_network_whose_numbers_are_none_is_not_called_usual():
    message = shortfall(_results("broken", _entry("0", 2, [None] * 3, [False] * 3)), FOLDERS)
    assert message.startswith("3 of 3 explanations by broken have no finite size: its logits or gradients are infinite")
    assert "usual" not in message


def test_in_another_norm_the_bound_has_another_name():
    results = _results("tiny", _entry("0", 2, [0.02] * 3, [False] * 3))
    results["settings"] = {"model": "tiny", "eps": 8 / 255, "norm": "Linf"}
    assert shortfall(results, FOLDERS).startswith("3 of 3 explanations by tiny end short of the size L∞ norm 8/255 ")

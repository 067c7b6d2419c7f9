import json

import numpy as np
import pytest
from explained_images import explained_image
from PIL import Image

from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.errors import UserError
from advx_jax.reports.explanation_tree import difference_folder, summary, write_explanation
from advx_jax.reports.pictures import to_pixels
from advx_jax.reports.results_json import write_json

CONFIDENCES = np.array([0.0004, 0.0006, 0.1, 0.5, 0.25, 0.0, 1 / 3, 0.9996, 0.05, 0.049], np.float32)


def read(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_the_published_tree_and_nothing_else(tmp_path):
    record = explained_image("17", 3, confidences=CONFIDENCES, second=7)
    folder = write_explanation(tmp_path, record)
    assert folder == tmp_path / "17-cat"
    assert names_in(folder) == {
        "_input.png",
        "_real_was_0.500.png",
        "_second_horse_was_1.000.png",
        "0_airplane_was_0.000.png",
        "1_automobile_was_0.001.png",
        "2_bird_was_0.100.png",
        "3_cat_was_0.500.png",
        "4_deer_was_0.250.png",
        "5_dog_was_0.000.png",
        "6_frog_was_0.333.png",
        "7_horse_was_1.000.png",
        "8_ship_was_0.050.png",
        "9_truck_was_0.049.png",
    }
    assert names_in(tmp_path) == {"17-cat", "differences"}
    assert names_in(tmp_path / "differences") == {"17-cat"}
    assert names_in(tmp_path / "differences" / "17-cat") == {
        f"{c}_{name}.png" for c, name in enumerate(CIFAR10_CLASSES)
    }


def test_pictures_show_what_their_names_say(tmp_path):
    record = explained_image("17", 3, confidences=CONFIDENCES, second=7)
    folder = write_explanation(tmp_path, record)
    np.testing.assert_array_equal(read(folder / "_input.png"), to_pixels(record.input))
    for name, c in {
        "_real_was_0.500": 3,
        "_second_horse_was_1.000": 7,
        "0_airplane_was_0.000": 0,
        "8_ship_was_0.050": 8,
    }.items():
        np.testing.assert_array_equal(read(folder / f"{name}.png"), to_pixels(record.explanations[c]))


def test_difference_maps_of_one_image_have_one_scale(tmp_path):
    record = explained_image()
    explanations = np.repeat(record.input[None], 10, 0)
    explanations[2] += 0.08
    explanations[5] -= 0.04
    write_explanation(tmp_path, record._replace(explanations=explanations))
    maps = difference_folder(tmp_path, "0-cat")
    assert set(np.unique(read(maps / "0_airplane.png"))) == {128}
    assert set(np.unique(read(maps / "2_bird.png"))) == {255}
    assert set(np.unique(read(maps / "5_dog.png"))) <= {63, 64, 65}


def test_published_file_names_and_pixels_from_the_reference_outputs(tmp_path, golden):
    reference, images = golden("explain_all.npz"), golden("images_test_first256.npz")
    image = images["images_u8"][0].astype(np.float32) / np.float32(255)
    record = explained_image(
        "0", int(images["labels"][0]), input=image, explanations=reference["expl_0"], confidences=reference["conf_0"]
    )
    folder = write_explanation(tmp_path, record._replace(second=5))
    assert {"_real_was_0.173.png", "_second_dog_was_0.171.png", "6_frog_was_0.160.png"} <= names_in(folder)
    np.testing.assert_array_equal(read(folder / "_input.png"), images["images_u8"][0])


def test_a_second_run_replaces_the_pictures(tmp_path):
    write_explanation(tmp_path, explained_image(confidences=CONFIDENCES, second=7))
    first = names_in(tmp_path / "0-cat")
    (tmp_path / "0-cat" / ".DS_Store").touch()
    record = explained_image(seed=1)
    folder = write_explanation(tmp_path, record)
    assert len(names_in(folder)) == 13
    assert names_in(folder) != first
    np.testing.assert_array_equal(read(folder / "_input.png"), to_pixels(record.input))
    assert names_in(tmp_path) == {"0-cat", "differences"}


@pytest.mark.parametrize("existing", ["notes.txt", "cat.png", "folder/"])
def test_a_folder_with_other_files_is_left_as_it_is(tmp_path, existing):
    (tmp_path / "0-cat").mkdir()
    (tmp_path / "0-cat" / "2_mine.png").write_bytes(b"mine")
    path = tmp_path / "0-cat" / existing
    path.mkdir() if existing.endswith("/") else path.write_bytes(b"mine too")
    before = names_in(tmp_path / "0-cat")
    with pytest.raises(UserError, match="nothing was replaced"):
        write_explanation(tmp_path, explained_image())
    assert names_in(tmp_path / "0-cat") == before
    assert names_in(tmp_path) == {"0-cat", "differences"}


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "0-cat").write_bytes(b"mine")
    with pytest.raises(UserError, match="got a file"):
        write_explanation(tmp_path, explained_image())
    assert (tmp_path / "0-cat").read_bytes() == b"mine"


def test_an_error_half_way_leaves_nothing_behind(tmp_path):
    # A name that is too long for the file system fails while the pictures are being written; the
    # class is not the image's own, so that the folders can be made.
    record = explained_image(confidences=np.full(10, 1e300))
    with pytest.raises(OSError, match="name too long"):
        write_explanation(tmp_path, record)
    assert names_in(tmp_path) == {"differences"}


def test_an_error_half_way_keeps_the_earlier_pictures(tmp_path):
    write_explanation(tmp_path, explained_image())
    before = {path.name: path.read_bytes() for path in (tmp_path / "0-cat").iterdir()}
    with pytest.raises(OSError, match="name too long"):
        write_explanation(tmp_path, explained_image(seed=1, confidences=np.full(10, 1e300)))
    assert {path.name: path.read_bytes() for path in (tmp_path / "0-cat").iterdir()} == before
    assert names_in(tmp_path) == {"0-cat", "differences"}


def test_folders_have_the_permissions_of_any_new_folder(tmp_path):
    (tmp_path / "other").mkdir()
    folder = write_explanation(tmp_path, explained_image())
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode
    (tmp_path / "file").touch()
    assert (folder / "_input.png").stat().st_mode == (tmp_path / "file").stat().st_mode


def test_hostile_names_stay_inside_the_output(tmp_path):
    names = ["../up", "a/b", "<script>", "." * 9, "x" * 300, "ok", "", "a b", "a-b", "猫"]
    output = tmp_path / "deep" / "output"
    folder = write_explanation(output, explained_image("../../evil/x", 0, class_names=names))
    assert folder.parent == output
    assert len(names_in(folder)) == 13
    assert names_in(tmp_path) == {"deep"}
    assert names_in(tmp_path / "deep") == {"output"}
    assert names_in(output) == {folder.name, "differences"}


def test_an_image_of_nan_has_a_tree_too(tmp_path):
    nan = np.full(10, np.nan, np.float32)
    record = explained_image(confidences=nan, explanations=np.full((10, 32, 32, 3), np.nan, np.float32))
    folder = write_explanation(tmp_path, record)
    assert "3_cat_was_nan.png" in names_in(folder)
    assert write_explanation(tmp_path, record) == folder


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("explanations", np.zeros((9, 32, 32, 3), np.float32), r"explanations of shape \(10, 32, 32, 3\)"),
        ("explanations", np.zeros((10, 32, 31, 3), np.float32), r"got \(10, 32, 31, 3\)"),
        ("confidences", np.zeros(9, np.float32), r"confidences of shape \(10,\)"),
        ("reached", np.zeros(11, bool), "reached of shape"),
        ("label", 10, r"label in 0\.\.9"),
        ("second", -1, r"second in 0\.\.9"),
    ],
)
def test_a_record_that_does_not_fit_itself_is_refused(tmp_path, field, value, message):
    with pytest.raises(UserError, match=message):
        write_explanation(tmp_path, explained_image(**{field: value}))
    assert names_in(tmp_path) == set()


def test_summary_is_the_record_without_pictures(tmp_path):
    record = explained_image("17", 3)
    write_json(tmp_path / "r.json", summary(record))
    entry = json.loads((tmp_path / "r.json").read_text())
    pictures = {"class_names", "input", "explanations", "targets"}
    assert set(entry) == set(record._fields) - pictures | {"folder", "predicted"}
    assert entry["folder"] == "17-cat"
    assert entry["predicted"] == int(record.logits.argmax())
    assert entry["reached"] == record.reached.tolist()
    np.testing.assert_array_equal(np.array(entry["confidences"], np.float32), record.confidences)

from pathlib import Path

import pytest

from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.data.own_files import find_files, natural_order
from advx_jax.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with photos in it."""
    for name in ("photos/img10.png", "photos/img2.PNG", "photos/deeper/a.jpg", "photos/notes.txt", "one, two.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "photos" / ".hidden.png").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _found(*names):
    found = find_files(names, CIFAR10_CLASSES)
    return [str(file.path) for file in found.files], found


def test_of_a_folder_the_images_are_taken_in_natural_order(folder):
    files, found = _found("photos")
    assert files == ["photos/img2.PNG", "photos/img10.png"]
    assert found.notes == ["photos: not taken: 2 entries without an image's name"]
    assert found.left_out == []


def test_files_patterns_and_folders_mix_and_each_file_counts_once(folder):
    files, found = _found("photos/img10.png,photos/**/*.jpg", "./photos/", "photos/notes.txt")
    assert files == ["photos/img10.png", "photos/deeper/a.jpg", "photos/img2.PNG", "photos/notes.txt"]
    assert found.left_out == []


def test_a_pattern_takes_natural_order_and_no_hidden_files(folder):
    assert _found("photos/*.[pP][nN][gG]")[0] == ["photos/img2.PNG", "photos/img10.png"]


def test_a_name_with_commas_is_a_name(folder):
    assert _found("one, two.png")[0] == ["one, two.png"]


def test_what_is_not_there_is_named(folder):
    (folder / "album.jpg").mkdir()
    (folder / "empty").mkdir()
    files, found = _found("gone.png, *.gif ,a*.jpg,phot*,empty,photos/img2.PNG")
    assert files == ["photos/img2.PNG"]
    assert found.left_out == [
        ("gone.png", "there is no such file"),
        ("*.gif", "no file matches this pattern"),
        ("album.jpg", "it is a folder"),
        ("phot*", "only folders match this pattern; name a folder itself"),
        ("empty", "no images in this folder"),
    ]


def test_natural_order_counts():
    names = ["img10", "12", "Img2", "3", "img2-b", "img2", "1-2", "1", "a.png", "1a2b10", "1a2b9"]
    assert sorted(names, key=natural_order) == [
        *("1", "1-2", "1a2b9", "1a2b10", "3", "12", "a.png", "Img2", "img2", "img2-b", "img10"),
    ]


def test_home_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "photos"))
    assert _found("~/*.png")[0] == [str(folder / "photos" / "img10.png")]


def test_class_folders_give_labels(folder):
    for name in ("own/frog/1.png", "own/Cat/2.png", "own/7/3.png", "own/7/readme.md", "own/.cache/4.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    _, found = _found("own")
    assert found.files == [(Path("own/7/3.png"), 7), (Path("own/Cat/2.png"), 3), (Path("own/frog/1.png"), 6)]
    assert found.notes == ["own/7: not taken: 1 entry without an image's name"]
    # Named without its label before, a file still has it.
    _, found = _found("own/frog/1.png", "own")
    assert found.files[0] == (Path("own/frog/1.png"), 6)
    # Where names mean nothing, no name is wrong.
    (folder / "own" / "tiger").mkdir()
    (folder / "own" / "tiger" / "5.png").touch()
    assert {file.label for file in find_files(["own"], None).files} == {None}
    with pytest.raises(UserError, match=r"own holds .* expected a class \(airplane, .*, or 0 to 9\), got 'tiger'"):
        _found("own")

import pytest

from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.data.own_labels import class_index, read_label_table
from advx_jax.errors import UserError


@pytest.mark.parametrize(("text", "index"), [("cat", 3), (" Truck ", 9), ("0", 0), ("AIRPLANE", 0)])
def test_a_class_has_a_name_and_a_number(text, index):
    assert class_index(text, CIFAR10_CLASSES) == index


def test_names_that_differ_in_their_case_alone_are_two():
    assert [class_index(text, ("A", "b", "a", "0")) for text in ("A", "a", "B", "0", "1")] == [0, 2, 1, 3, 1]


@pytest.mark.parametrize("text", ["tiger", "", "10", "-1", "3.0", "²"])
def test_an_unknown_class_is_refused_with_those_there_are(text):
    with pytest.raises(UserError, match=r"expected a class \(airplane, automobile, .*, truck, or 0 to 9\), got"):
        class_index(text, CIFAR10_CLASSES)


def _table(folder, content, encoding="utf-8"):
    path = folder / "labels.csv"
    path.write_bytes(content.encode(encoding))
    return read_label_table(path, CIFAR10_CLASSES)


def test_a_file_may_be_called_like_nobodys_home(tmp_path):
    assert _table(tmp_path, "file,label\n~nobody-x.png,cat\n").labels([tmp_path / "~nobody-x.png"]) == [3]


@pytest.mark.parametrize(
    "content",
    [
        "file,label\na.png,cat\nb.png,2\n",
        "\ufeffFile;Who;Label\r\na.png;me;Cat\r\n\r\nb.png;me;bird\r\n",
        'label\tfile\n3\ta.png\nbird\t"b.png"',
    ],
)
def test_tables_of_several_kinds_are_read(tmp_path, content):
    assert _table(tmp_path, content).rows == [("a.png", 3), ("b.png", 2)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the columns file and label in the first line, got ''"),
        ("a.png,cat\n", "expected the columns file and label in the first line, got 'a.png,cat'"),
        ("file,label\n", "expected a row for each image, got none"),
        ("file,label\na.png,cat\nb.png,tiger\n", "labels.csv: line 3: expected a class (airplane"),
        ("file,label\na.png\n", "line 2: expected a class"),
        ("file,label\n,cat\n", "line 2: expected a file, got none"),
        ('file,label\n"a.png,cat\n', "unexpected end of data"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(UserError) as caught:
        _table(tmp_path, content)
    assert message in str(caught.value)
    assert "labels.csv: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="it is no text in UTF-8"):
        _table(tmp_path, "file,label\nä.png,cat\n", "latin-1")
    with pytest.raises(UserError, match=r"cannot read the labels in .*: No such file"):
        read_label_table(tmp_path / "gone.csv", CIFAR10_CLASSES)


def test_files_are_found_by_path_or_bare_name(tmp_path):
    table = _table(tmp_path, "file,label\ndeeper/a.png,cat\nb.png,2\nb.png,bird\n")
    deeper = tmp_path / "deeper"
    assert table.labels([deeper / "a.png", deeper / "b.png"]) == [3, 2]
    with pytest.raises(UserError, match=r"expected a row for each image .*, got none for .*/a.png"):
        table.labels([tmp_path / "a.png"])
    # Two files have the bare name: it says nothing of the one that lies elsewhere.
    with pytest.raises(UserError, match=r"got none for .*deeper/b.png"):
        table.labels([tmp_path / "b.png", deeper / "b.png"])
    with pytest.raises(UserError, match=r"expected one class for b.png in .*, got two"):
        _table(tmp_path, "file,label\nb.png,2\nb.png,3\n").labels([tmp_path / "b.png"])

"""The commands as a person runs them, on a tiny network and the shipped sample."""

import json
import os
import re
import time

import numpy as np
import pytest
from networks import random_classifier
from PIL import Image
from processes import fail, interrupt, start, succeed
from stores import change_record, kept_records

from advx_jax.analysis.subset import published_subset
from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import save_network
from advx_jax.networks.registry import first_choice
from advx_jax.reports.results_json import fingerprint

COMMANDS = ("evaluate", "explain", "ara")
# What JAX's allocator and the garbage collector may keep; ten times fewer than the arrays that must not pile up.
MEMORY_SLACK = 60 * 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to work in, with a network in it."""
    path = tmp_path_factory.mktemp("commands")
    tiny = random_classifier().replace(class_names=CIFAR10_CLASSES)
    save_network(path / "tiny.safetensors", tiny, Provenance(name="tiny"))
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples_and_flags(command, folder):
    out = succeed(folder, command, "--help")
    assert f"python -m advx_jax.{command} --model=resnet44-all" in out
    assert "--model" in out
    assert "--data" in out


def test_evaluate(folder):
    out = succeed(folder, "evaluate", "--model=tiny.safetensors", "--n_images=100", "--output=made/result.json")
    results = json.loads((folder / "made" / "result.json").read_text())
    assert results["format"] == 1
    assert results["settings"]["model"] == "tiny"
    assert results["environment"]["device"]["platform"] == "cpu"
    assert results["correct"] == round(results["accuracy"] * 100)
    assert f"accuracy {results['accuracy']:.4f}" in out
    assert "sample" in out


# Nobody, not even the superuser, writes into /proc.
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("evaluate", ["--output=/proc/accuracy.json"]),
        ("evaluate", ["--output=tiny.safetensors/accuracy.json"]),
        ("explain", ["--output=tiny.safetensors"]),
        ("ara", ["--output=/proc/ara"]),
        ("robustness", ["--eps=0.5", "--output=tiny.safetensors/below"]),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(command, arguments, folder):
    message = fail(folder, command, "--model=tiny.safetensors", *arguments)
    assert "expected a folder that can be written to, got" in message


def test_accuracy_is_told_before_it_is_written(folder):
    process = start(folder, "evaluate", "--model=tiny.safetensors", "--output=vanishing/result.json")
    # In the way only once the work has begun, as a disk that fills up.
    deadline = time.monotonic() + 60
    while not (folder / "vanishing" / "result.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    (folder / "vanishing" / "result.json").mkdir()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "accuracy 0." in out
    assert err.strip().splitlines()[-1].startswith("error: ")


def test_accuracy_is_written_though_nobody_reads_what_is_told(folder):
    process = start(folder, "evaluate", "--model=tiny.safetensors", "--n_images=4", "--output=unread.json")
    process.stdout.close()
    process.stdout = None
    process.communicate(timeout=240)
    assert process.returncode == 1
    assert json.loads((folder / "unread.json").read_text())["n_images"] == 4


def test_accuracy_takes_no_other_files_place(folder):
    notes = folder / "notes.json"
    notes.write_text('{"mine": 1}')
    (folder / "link.json").symlink_to("led-to.json")
    before = (folder / "tiny.safetensors").read_bytes()
    for name in ("notes.json", "tiny.safetensors"):
        message = fail(
            folder, "evaluate", "--model=tiny.safetensors", "--n_images=2", f"--output={name}", "--overwrite"
        )
        assert "or no file, got another file" in message
    assert notes.read_text() == '{"mine": 1}'
    assert (folder / "tiny.safetensors").read_bytes() == before
    succeed(folder, "evaluate", "--model=tiny.safetensors", "--n_images=2", "--output=link.json")
    assert (folder / "link.json").is_symlink()
    assert json.loads((folder / "led-to.json").read_text())["n_images"] == 2
    fail(folder, "evaluate", "--model=tiny.safetensors", "--output=new/name.jsonl")
    assert not (folder / "new").exists()
    # Nor do the records beside it, of which half a line would be cut off.
    (folder / "others.jsonl").write_text("no line of ours")
    message = fail(folder, "evaluate", "--model=tiny.safetensors", "--n_images=2", "--output=others.json")
    assert "or no file, got another file" in message
    assert (folder / "others.jsonl").read_text() == "no line of ours"


def test_explain_writes_the_published_tree_and_goes_on_from_it(folder):
    flags = ("--model=tiny.safetensors", "--output=explained", "--steps=5")
    out = succeed(folder, "explain", *flags, "--n_images=2", "--eps=25.5/255")
    assert "explained/index.html" in out
    # The first two test images: a cat and a ship.
    tree = folder / "explained"
    names = sorted(path.name for path in (tree / "0-cat").iterdir())
    assert len(names) == 13
    assert "_input.png" in names
    assert sum(bool(re.fullmatch(r"_real_was_\d\.\d{3}\.png", name)) for name in names) == 1
    assert sum(bool(re.fullmatch(r"_second_[a-z]+_was_\d\.\d{3}\.png", name)) for name in names) == 1
    for index, name in enumerate(
        ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    ):
        assert sum(bool(re.fullmatch(rf"{index}_{name}_was_\d\.\d{{3}}\.png", found)) for found in names) == 1
    before = {path: path.stat().st_mtime_ns for path in tree.glob("*-*/*.png")}

    out = succeed(folder, "explain", *flags, "--indices=0-1,5,1")
    assert "explained once each, though named more often: 1\n" in out
    after = {path: path.stat().st_mtime_ns for path in tree.glob("*-*/*.png")}
    assert len(after) == len(before) + 13
    assert before.items() <= after.items()
    results = json.loads((tree / "explanations.json").read_text())
    assert [entry["name"] for entry in results["images"]] == ["0", "1", "5"]
    assert "5-frog" in {path.name for path in tree.iterdir()}

    message = fail(folder, "explain", *flags, "--n_images=2", "--eps=0.2")
    assert "eps=0.1 there, 0.2 now" in message
    assert "--overwrite" in message
    succeed(folder, "explain", *flags, "--n_images=1", "--eps=0.2", "--overwrite")
    results = json.loads((tree / "explanations.json").read_text())
    assert [entry["name"] for entry in results["images"]] == ["0"]
    assert not (tree / "5-frog").exists()
    assert not (tree / "differences" / "5-frog").exists()


def test_explanations_that_miss_eps_are_flagged_and_fatal_only_if_strict(folder):
    flags = ("--model=tiny.safetensors", "--n_images=1", "--steps=1", "--eps=0.1")
    # A single step can only be judged after it, so none of the ten is seen to reach ρ.
    out = succeed(folder, "explain", *flags, "--output=short")
    *_, made, _, note = out.splitlines()
    assert made == "1 image explained towards each of 10 classes by tiny"
    assert note.startswith("note: 10 of 10 explanations by tiny end beyond RMS 0.1, at 0.5000 to 0.5000 ")
    message = fail(folder, "explain", *flags, "--output=strict", "--strict")
    assert "10 of 10 explanations by tiny end beyond RMS 0.1" in message
    assert (folder / "strict" / "index.html").is_file()


def test_explain_takes_own_images(folder):
    rng = np.random.default_rng(0)
    for name, size in (("wide.png", (40, 64, 3)), ("small.png", (32, 32, 3))):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / name)
    (folder / "broken.png").write_text("no image")
    out = succeed(folder, "explain", "--model=tiny.safetensors", "--images=*.png", "--steps=2", "--output=own")
    assert out.splitlines()[-1].startswith("left out: broken.png: expected an image (PNG, ")
    assert "wide.png: 64x40, centre-cropped to 40x40 and resized to 32x32" in out
    assert "small.png" not in out
    results = json.loads((folder / "own" / "explanations.json").read_text())
    assert [entry["name"] for entry in results["images"]] == ["small", "wide"]
    assert not any(entry["label_is_given"] for entry in results["images"])
    assert all(entry["label"] == entry["predicted"] for entry in results["images"])


@pytest.mark.slow
def test_explain_takes_the_classes_of_own_images(folder):
    rng = np.random.default_rng(1)
    for name in ("zoo/dog/1.png", "zoo/frog/1.png"):
        (folder / name).parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name)
    flags = ("--model=tiny.safetensors", "--steps=2", "--output=zoo-explained")
    succeed(folder, "explain", *flags, "--images=zoo")
    (folder / "zoo" / "labels.csv").write_text("file,label\nfrog/1.png,cat\n")
    out = succeed(folder, "explain", *flags, "--labels=zoo/labels.csv")
    # Of the three images in the folder, only the one that was asked for.
    assert [line.split()[:2] for line in out.splitlines()[:2]] == [["image", "class"], ["1", "cat"]]
    assert "1 image explained" in out
    results = json.loads((folder / "zoo-explained" / "explanations.json").read_text())
    assert {entry["folder"]: entry["label"] for entry in results["images"]} == {"1-dog": 5, "1-2-frog": 6, "1-cat": 3}
    assert all(entry["label_is_given"] for entry in results["images"])


ARA = ("--model=tiny.safetensors", "--steps=20", "--eps=5")


@pytest.fixture(scope="module")
def six_images(folder):
    """Results of ara that several tests go on from."""
    succeed(folder, "ara", *ARA, "--output=ara", "--n_images=6")
    return json.loads((folder / "ara" / "ara.json").read_text())


def test_ara_measures_the_subset_and_goes_on_from_what_is_there(folder, six_images):
    flags, first = (*ARA, "--output=ara"), six_images
    kept = kept_records(folder / "ara" / "distances.jsonl")
    assert first["gradient_evaluations"] == 20
    for kind in ("attack", "btr"):
        assert first[kind]["indices"] == [int(i) for i in published_subset(6, 256)]
        assert {f"{kind}/{i}" for i in first[kind]["indices"]} <= set(kept)
        lengths = {len(first[kind][field]) for field in ("indices", "distances", "first_ok", "valid")}
        assert lengths == {6}
    with Image.open(folder / "ara" / "ara.png") as curve:
        assert curve.format == "PNG"

    # Work that is there is not done again: what is changed in the file stays so.
    index = str(first["attack"]["indices"][0])
    changed = {"distances": 0.125, "first_ok": 3, "crossed": True, "finite": True}
    change_record(folder / "ara" / "distances.jsonl", f"attack/{index}", changed)
    out = succeed(folder, "ara", *flags, "--n_images=9")
    second = json.loads((folder / "ara" / "ara.json").read_text())
    assert second["attack"]["distances"][0] == 0.125
    assert second["btr"]["distances"][:6] == first["btr"]["distances"]
    assert len(second["attack"]["indices"]) == 9
    assert f"{second['attack']['ara']:.4f}" in out

    assert "momentum=0.9 there, 0.5 now" in fail(folder, "ara", *flags, "--n_images=6", "--momentum=0.5")


@pytest.mark.slow
def test_ara_with_another_attack_tells_its_cost(folder):
    flags = ("--model=tiny.safetensors", "--n_images=6")
    out = succeed(folder, "ara", *flags, "--attack=best", "--steps=30")
    assert "at most 30 gradient evaluations an image" in out
    found = json.loads((folder / "ara" / "tiny-best" / "ara.json").read_text())
    assert found["gradient_evaluations"] == 30
    assert {k: found["settings"][k] for k in ("attack", "1.steps", "2.steps")} == {
        "attack": "best",
        "1.steps": 15,
        "2.steps": 15,
    }
    assert all(found["attack"]["valid"])

    # What is there is gone on from, and not mixed with another attack's.
    path = folder / "ara" / "tiny-best" / "distances.jsonl"
    before = path.read_text()
    succeed(folder, "ara", *flags, "--attack=best", "--steps=30")
    assert path.read_text() == before
    message = fail(folder, "ara", *flags, "--attack=fmn", "--output=ara/tiny-best")
    assert "attack=best there, fmn now" in message


@pytest.mark.slow
def test_ara_counts_what_never_crossed_apart(folder):
    succeed(folder, "ara", "--model=tiny.safetensors", "--n_images=60", "--steps=3", "--eps=1e-6", "--output=near")
    found = json.loads((folder / "near" / "ara.json").read_text())["attack"]
    at_start = found["n_misclassified_at_start"]
    assert found["n_never_crossed"] == 60 - at_start > 0
    assert found["distances"].count(None) == found["n_never_crossed"]
    assert found["valid"].count(True) == at_start
    assert {t for t, d in zip(found["first_ok"], found["distances"], strict=True) if d is None} == {3}


@pytest.mark.slow
def test_interrupted_ara_keeps_what_it_has(folder):
    flags = ("--model=tiny.safetensors", "--steps=40", "--eps=5", "--output=cut", "--n_images=200")
    path = folder / "cut" / "distances.jsonl"
    process = start(folder, "ara", *flags)
    interrupt(process, lambda: kept_records(path))
    kept = kept_records(path)
    assert 0 < len(kept) < 400
    # A lock may stay behind, as that of a killed process does; nobody waits for it.
    assert {found.name for found in path.parent.iterdir()} - {".distances.lock"} == {"distances.jsonl"}

    succeed(folder, "ara", *flags[:3], "--output=cut", "--n_images=40")
    assert kept.items() <= kept_records(path).items()


@pytest.mark.slow
def test_explain_shows_a_second_network_beside_the_first(folder):
    save_network(folder / "other.safetensors", random_classifier(seed=4), Provenance(name="other"))
    flags = ("--model=tiny.safetensors", "--output=two", "--steps=5", "--n_images=2")
    out = succeed(folder, "explain", *flags, "--beside=other.safetensors")
    assert out.splitlines()[0].split() == ["image", "class", "tiny", "says", "other", "says"]
    for tree in (folder / "two", folder / "two" / "beside" / "other"):
        assert {"0-cat", "1-ship", "explanations.json", "index.html"} <= {path.name for path in tree.iterdir()}
    assert "other" in (folder / "two" / "index.html").read_text()
    results = json.loads((folder / "two" / "beside" / "other" / "explanations.json").read_text())
    assert results["settings"]["model"] == "other"


def test_explain_without_a_network_shows_the_shipped_ones(folder):
    out = succeed(folder, "explain", "--steps=2", "--n_images=1", "--output=first")
    chosen = first_choice()
    page = (folder / "first" / "index.html").read_text()
    assert f"{chosen.robust} beside {chosen.ordinary}" in page
    by = f"by {chosen.robust}, beside {chosen.ordinary}"
    assert out.splitlines()[2:4] == [
        f"1 image explained towards each of 10 classes {by}",
        "look at them: first/index.html (numbers: first/explanations.json)",
    ]
    assert len(list((folder / "first").glob("*-*/_input.png"))) == 1


@pytest.mark.slow
def test_memory_of_ara_grows_neither_with_images_nor_with_steps(folder):
    def peak(n_images, steps):
        output = f"--output=memory-{n_images}-{steps}"
        flags = ("--model=tiny.safetensors", f"--n_images={n_images}", f"--steps={steps}", "--eps=5", output)
        process = start(folder, "ara", *flags)
        # This child's own peak: what getrusage tells of all children has the largest of the whole test run.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.communicate()
        assert process.returncode == 0
        return usage.ru_maxrss * 1024

    small = peak(32, 10)
    assert peak(256, 10) - small < MEMORY_SLACK
    assert peak(32, 300) - small < MEMORY_SLACK


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("evaluate", ["--model="], "expected a network by name"),
        ("evaluate", ["--model=gone.pt", "--output=."], "expected the name of a file for the results, got ."),
        ("explain", ["--model=tiny.safetensors", "--beside=tinier"], "got 'tinier'"),
        ("explain", ["--model=tiny.safetensors", "--beside=tiny.safetensors"], "expected another network beside"),
        ("evaluate", ["--model=resnet45"], "resnet44-"),
        ("evaluate", ["--model=tiny.safetensors", "--n_images=257"], "expected --n_images from 1 to 256, got 257"),
        ("evaluate", ["--model=tiny.safetensors", "--data=nowhere"], "nowhere"),
        ("evaluate", ["--model=gone.safetensors"], "gone.safetensors"),
        ("explain", ["--model=gone.pt", "--indices=3,x"], "flag --indices=3,x: expected whole numbers or ranges"),
        ("explain", ["--model=tiny.safetensors", "--indices=256"], "expected --indices from 0 to 255, got 256"),
        ("explain", ["--model=gone.pt", "--eps=-1"], "flag --eps=-1: expected a number"),
        ("explain", ["--model=gone.pt", "--eps=8"], "got 8; did you mean --eps=8/255?"),
        ("explain", ["--model=gone.pt", "--steps=0"], "flag --steps=0: expected a whole number of at least 1, got 0"),
        ("explain", ["--model=tiny.safetensors", "--images=*.gif"], "*.gif: no file matches this pattern"),
        ("explain", ["--model=gone.pt", "--images="], "expected a name after --images=, got nothing"),
        ("explain", ["--model=gone.pt", "--images=a", "--data=sample"], "expected either --images or --data, got both"),
        (
            "explain",
            ["--model=gone.pt", "--labels=a", "--indices=1"],
            "expected either --labels or --indices, got both",
        ),
        ("explain", ["--model=gone.pt", "--n_images=1", "--indices=1"], "expected either --n_images or --indices"),
        ("explain", ["--model=gone.pt", "--images", "a.png", "b.png"], "got 'b.png' too: put a pattern in quotes"),
        ("explain", ["--model=tiny.safetensors", "--colour=red"], "Unknown command line flag 'colour'"),
        ("ara", ["--model=gone.pt", "--momentum=1"], "flag --momentum=1: expected a number of at least 0 and below 1"),
        ("ara", ["tiny.safetensors"], "expected flags only"),
        ("ara", ["--compare=a,b", "--output=c", "--eps=1"], "expected --compare with --output only, got --eps too"),
        ("attackbench", ["--across=a", "--norm=L2"], "expected --across alone, got --norm too"),
        (
            "ara",
            ["--model=tiny.safetensors", "--attack=fmn", "--momentum=0.9"],
            "expected --momentum with --attack=published only, got it with --attack=fmn",
        ),
        (
            "ara",
            ["--model=tiny.safetensors", "--attack=ddn", "--direction=scale_free"],
            "expected --direction with --attack=published only, got it with --attack=ddn",
        ),
        ("ara", ["--model=tiny.safetensors", "--attack=best", "--steps=1"], "expected --steps of at least 2"),
        (
            "ara",
            ["--model=tiny.safetensors", "--attack=pgd"],
            "expected an attack (published, ddn, fmn, best, fmn-steep, alma, ",
        ),
    ],
)
def test_bad_input_gives_one_clear_line(command, arguments, message, folder):
    assert message in fail(folder, command, *arguments)


@pytest.mark.slow
def test_what_an_earlier_release_left_is_gone_on_from(folder, six_images):
    flags, made = (*ARA, "--n_images=6"), six_images
    (folder / "old").mkdir()
    settings = {name: value for name, value in made["settings"].items() if name != "n_images"}
    rows = [[0.125, 3, True, True], [0.0, 20, False, True]]
    older = made | {"settings": settings, "fingerprint": fingerprint(settings)}
    older["measured"] = {
        kind: {str(index): row for index, row in zip(made[kind]["indices"], rows, strict=False)}
        for kind in ("attack", "btr")
    }
    (folder / "old" / "distances.json").write_text(json.dumps(older))
    succeed(folder, "ara", *flags, "--output=old")
    found = json.loads((folder / "old" / "ara.json").read_text())
    assert found["attack"]["distances"][:2] == [0.125, None]
    assert found["attack"]["distances"][2:] == made["attack"]["distances"][2:]
    assert "momentum=0.9 there, 0.5 now" in fail(folder, "ara", *flags, "--output=old", "--momentum=0.5")

    flags = ("--model=tiny.safetensors", "--steps=5", "--output=explained-before")
    succeed(folder, "explain", *flags, "--n_images=1")
    (folder / "explained-before" / "explanations.jsonl").unlink()
    succeed(folder, "explain", *flags, "--indices=1")
    results = json.loads((folder / "explained-before" / "explanations.json").read_text())
    assert [entry["name"] for entry in results["images"]] == ["0", "1"]

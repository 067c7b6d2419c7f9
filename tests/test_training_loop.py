"""The loop in this process: what it keeps, chooses, starts from and refuses."""

import collections
import dataclasses
import gc
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from networks import random_classifier
from recipes import tiny_recipe

from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import load_network
from advx_jax.training.batches import hold_out
from advx_jax.training.checkpoints import Checkpoints, Progress, check_room
from advx_jax.training.evaluation import evaluate
from advx_jax.training.export import BEST_NETWORK
from advx_jax.training.fit import check_fit
from advx_jax.training.loop import Data, train
from advx_jax.training.state import initial_state, make_optimizer
from advx_jax.training.stopping import StopRequest

# Of the resident memory of a process that has trained before, over the epochs of one more run.
HOST_GROWTH_MIB = 12
# Enough to learn something.
EPOCHS = 8


class Notes:
    """A watcher that writes down what it is told, and how much memory there is at that time."""

    def __init__(self, stop=None, stop_after=0):
        self.begun, self.losses, self.epochs = None, [], []
        self.device_bytes, self.host_mib = [], []
        self._stop, self._stop_after = stop, stop_after

    def begin(self, plan, progress):
        self.begun = progress.step

    def step(self, step, metrics):
        self.losses.append(metrics.class_loss)
        self.device_bytes.append(sum(array.nbytes for array in jax.live_arrays()))
        if step == self._stop_after:
            self._stop.signal = "asked"

    def epoch(self, summary):
        self.epochs.append(summary)
        gc.collect()
        self.host_mib.append(resident_mib())


def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def images(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    # Brightness tells the class, so that a few steps teach something.
    pixels = rng.integers(0, 30, (n, 8, 8, 3)) + 22 * labels[:, None, None, None]
    return ImageSet(pixels.astype(np.uint8), labels, CIFAR10_CLASSES, "random")


@pytest.fixture(autouse=True, scope="module")
def _compiled_once(tmp_path_factory):
    """Most runs here are of one recipe: compiled code is kept among them."""
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    yield
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


DATA = Data(images(44, 1), images(20, 2))


def quick(name="standard", **changes):
    recipe = tiny_recipe(name, epochs=3, **changes)
    keeping = dataclasses.replace(recipe.keeping, checkpoint_minutes=1000.0)
    return dataclasses.replace(recipe, keeping=keeping)


def run(recipe, workdir, **options):
    workdir.mkdir(exist_ok=True)
    notes = Notes()
    assert train(recipe, DATA, workdir, notes, StopRequest(), **options)
    return notes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A whole run, which costs most of what is tested here: its recipe, its folder, and what was noted."""
    recipe, workdir = dataclasses.replace(quick(), epochs=EPOCHS), tmp_path_factory.mktemp("trained")
    return recipe, workdir, run(recipe, workdir)


def test_every_example_counts_once_an_epoch_and_the_test_set_is_measured(trained):
    _, workdir, notes = trained
    assert notes.begun == 0
    assert [summary.epoch for summary in notes.epochs] == list(range(1, EPOCHS + 1))
    # Four batches of 12, 12, 12 and 8.
    weights = np.array([12, 12, 12, 8])
    for summary, losses in zip(notes.epochs, np.reshape(notes.losses, (EPOCHS, 4)), strict=True):
        assert summary.train_loss == pytest.approx((losses * weights).sum() / 44)
    classifier, provenance = load_network(workdir / "network.safetensors")
    measured = evaluate(classifier, DATA.test)
    assert (measured.accuracy, measured.loss) == (notes.epochs[-1].test.accuracy, notes.epochs[-1].test.loss)
    assert provenance.name == "resnet44-standard"
    assert provenance.batches_tracked == 4 * EPOCHS
    assert provenance.psi_integrator is None


def test_training_learns(trained):
    _, _, notes = trained
    assert notes.epochs[-1].train_loss < 0.8 * notes.epochs[0].train_loss


@pytest.mark.slow
def test_the_exported_network_tells_how_it_was_trained(tmp_path):
    run(dataclasses.replace(quick("all"), epochs=1), tmp_path)
    _, provenance = load_network(tmp_path / "network.safetensors")
    assert dict(provenance.options) == {"adversarial_training": True, "l2_min": True, "robust_additions": True}
    # Four steps of eight passes of the attack and one of training.
    assert provenance.batches_tracked == 4 * 9
    assert provenance.psi_integrator >= 0


@pytest.mark.slow
def test_the_best_network_is_chosen_by_held_out_images(tmp_path):
    recipe = quick(held_out=12)
    notes = run(recipe, tmp_path)
    accuracies = [summary.held_out.accuracy for summary in notes.epochs]
    best, _ = load_network(tmp_path / BEST_NETWORK)
    _, held_out = hold_out(DATA.train, 12, recipe.seed)
    assert evaluate(best, held_out).accuracy == max(accuracies)
    assert len(notes.losses) == 3 * 3


@pytest.mark.slow
def test_a_run_starts_from_a_network_and_its_psi_integrator(tmp_path):
    recipe = quick("robust")
    start = random_classifier(7, recipe.architecture), Provenance(psi_integrator=100.0, batches_tracked=50)
    run(dataclasses.replace(recipe, epochs=1), tmp_path, start=start)
    _, provenance = load_network(tmp_path / "network.safetensors")
    assert 99 < provenance.psi_integrator < 105
    assert provenance.batches_tracked == 50 + 4
    with pytest.raises(UserError, match="init_from: expected a network of architecture"):
        initial_state(quick("standard"), make_optimizer(recipe, 4), start)


def test_a_stop_is_heard_and_what_was_done_is_kept(trained, tmp_path):
    recipe, whole, undisturbed = trained
    stop = StopRequest()
    notes = Notes(stop, stop_after=5)
    assert not train(recipe, DATA, tmp_path, notes, stop)
    made = len(notes.losses)
    assert 5 < made <= 8
    later = run(recipe, tmp_path)
    assert later.begun == made
    assert notes.losses + later.losses == undisturbed.losses
    ours, theirs = (load_network(folder / "network.safetensors")[0].variables for folder in (tmp_path, whole))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
    run(quick("robust"), tmp_path / "before")
    notes = run(dataclasses.replace(quick("robust"), epochs=20), tmp_path / "long")
    assert len(set(notes.device_bytes[10:])) <= 2, notes.device_bytes
    assert max(notes.device_bytes[60:]) == max(notes.device_bytes[10:60])
    assert notes.host_mib[-1] - notes.host_mib[5] < HOST_GROWTH_MIB, notes.host_mib


def test_last_checkpoints_stay(trained):
    _, workdir, _ = trained
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert steps == [4 * epoch for epoch in (EPOCHS - 2, EPOCHS - 1, EPOCHS)]


@pytest.mark.slow
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_the_end_is_the_same(tmp_path, capsys):
    recipe = quick()
    run(recipe, tmp_path / "damaged")
    shutil.copytree(tmp_path / "damaged", tmp_path / "whole")
    longer = dataclasses.replace(recipe, epochs=4)
    run(longer, tmp_path / "whole")
    damage(tmp_path / "damaged" / "checkpoints" / "12")
    capsys.readouterr()
    notes = run(longer, tmp_path / "damaged")
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert said.startswith(f"damaged: {tmp_path / 'damaged' / 'checkpoints' / '12'}: ")
    assert "going on from the one before, of step 8" in said
    assert notes.begun == 8
    files = [(tmp_path / name / "network.safetensors").read_bytes() for name in ("damaged", "whole")]
    assert files[0] == files[1]
    assert (tmp_path / "damaged" / "damaged-checkpoint-12").is_dir()
    assert {path.name for path in (tmp_path / "damaged" / "checkpoints").iterdir()} == {"8", "12", "16"}


def test_no_good_checkpoint_is_an_error_that_says_what_to_do(trained, tmp_path):
    recipe, workdir, _ = trained
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    for path in (tmp_path / "checkpoints").iterdir():
        damage(path)
    with pytest.raises(UserError) as caught:
        run(dataclasses.replace(recipe, epochs=EPOCHS + 1), tmp_path)
    assert str(caught.value).startswith("cannot read any checkpoint (")
    assert f"or move {tmp_path / 'checkpoints'} away to train from the start" in str(caught.value)


def damage(checkpoint):
    for path in (checkpoint / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"nonsense")


def test_a_full_disk_is_told_before_any_work(tmp_path, monkeypatch):
    recipe = quick()
    state = initial_state(recipe, make_optimizer(recipe, 4))
    usage = collections.namedtuple("usage", "total used free")(10**9, 10**9, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"expected \d+ MiB free in .*, got 1 MiB"):
        check_room(tmp_path, state, 3)


def test_a_checkpoint_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    """As Orbax tells it; a disk that is really full would keep its threads waiting for minutes."""
    recipe = quick()
    state = initial_state(recipe, make_optimizer(recipe, 4))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path, 3) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(UserError, match=r"cannot write a checkpoint into .*: .*No space left on device"):
            checkpoints.save(state, Progress(step=1))


def test_labels_beyond_the_classes_are_refused():
    recipe = quick()
    few = dataclasses.replace(recipe, architecture=dataclasses.replace(recipe.architecture, n_classes=5))
    with pytest.raises(UserError, match="n_classes: expected at least 10 for these data, got 5"):
        check_fit(few, DATA)

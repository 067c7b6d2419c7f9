"""Checkpoints come back to the bit, or the one before does, or nothing; never other numbers."""

import dataclasses
import functools
import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import tiny_recipe

from advx_jax.errors import UserError
from advx_jax.networks.resnet import ResNetArchitecture
from advx_jax.training.checkpoints import Checkpoints, Progress
from advx_jax.training.parallel import from_words, in_words
from advx_jax.training.state import initial_state, make_optimizer

FLIPS = 40
# Wide enough that Orbax keeps numbers where nothing else checks them.
RECIPE = tiny_recipe("all", architecture=ResNetArchitecture((1, 1), (16, 32), activation="half_huber"))


@functools.cache
def state_at(step, offset=0.0):
    """A state whose numbers tell its step."""
    state = initial_state(RECIPE, make_optimizer(RECIPE, 3))
    moved = jax.tree.map(lambda leaf: leaf + step + offset if leaf.dtype == np.float32 else leaf, state)
    return moved._replace(step=state.step + step)


def same(one, other):
    leaves = (jax.tree.leaves(jax.device_get(state)) for state in (one, other))
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(*leaves, strict=True))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp("saved")
    with Checkpoints(workdir, 3) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_at(step), Progress(step=step, loss_sum=0.5))
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def restored(workdir):
    with Checkpoints(workdir, 3) as checkpoints:
        return checkpoints.restore(state_at(0))


def change_progress(workdir, **fields):
    path = workdir / "checkpoints" / "2" / "progress" / "metadata"
    content = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


@pytest.mark.slow
def test_flipped_bits_never_give_another_network(workdir, capsys):
    rng, states = random.Random(5), {step: state_at(step) for step in (1, 2)}
    files = sorted(path for path in (workdir / "checkpoints" / "2").rglob("*") if path.is_file())
    # Here the numbers lie, and nothing but the digest checks them; all other files together are hit as often.
    largest = max(files, key=lambda path: path.stat().st_size)
    fell_back = 0
    for number in range(FLIPS):
        path = largest if number % 2 else rng.choice(files)
        good = path.read_bytes()
        flipped = bytearray(good)
        flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        state, progress = restored(workdir)
        assert same(state, states[progress.step]), path
        assert progress.loss_sum == 0.5
        said = capsys.readouterr().err
        if progress.step == 1:
            fell_back += 1
            assert said.startswith(f"damaged: {workdir / 'checkpoints' / '2'}: ")
            assert "going on from the one before, of step 1" in said
            assert said[:-1].isprintable()
        else:
            assert said == ""
        path.write_bytes(good)
    assert fell_back >= FLIPS // 2


def test_a_changed_number_is_found_by_the_digest_alone(workdir, tmp_path, capsys):
    other = tmp_path / "other"
    with Checkpoints(other, 3) as checkpoints:
        checkpoints.save(state_at(2, offset=0.5), Progress(step=2, loss_sum=0.5))
    # A checkpoint that is whole, but not the one that was written.
    shutil.rmtree(workdir / "checkpoints" / "2" / "state")
    shutil.copytree(other / "checkpoints" / "2" / "state", workdir / "checkpoints" / "2" / "state")
    assert restored(workdir).progress.step == 1
    assert "its numbers are not those that were written" in capsys.readouterr().err
    change_progress(workdir, sha256=...)
    assert same(restored(workdir).state, state_at(2, offset=0.5))
    assert "without a digest: that it is undamaged cannot be checked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"loss_sum": 0.25}, "its numbers are not those that were written"),
        ({"sha256": "0" * 64}, "its numbers are not those that were written"),
        ({"sha256": ..., "sha257": "0" * 64}, "its progress holds 'sha257'"),
        ({"sha256": ..., "n_correct": -0.5}, "its progress holds 'n_correct': -0.5"),
        ({"sha256": ..., "seconds": float("nan")}, "its progress holds 'seconds': nan"),
        ({"sha256": ..., "step": 3}, "it is of step 3"),
        ({"\x1b[31m": 1}, r"its progress holds '\x1b[31m': 1"),
    ],
)
def test_a_changed_progress_is_damage_too(fields, said, workdir, capsys):
    change_progress(workdir, **fields)
    assert restored(workdir).progress.step == 1
    assert said in capsys.readouterr().err


def test_numbers_that_no_network_has_are_refused_by_name(tmp_path):
    state = state_at(1)
    wrong = jax.tree.map(np.array, state.batch_stats)
    wrong["head_bn"]["var"][0] = -1
    with Checkpoints(tmp_path, 3) as checkpoints:
        checkpoints.save(state._replace(batch_stats=wrong), Progress(step=1))
    with pytest.raises(UserError) as caught:
        restored(tmp_path)
    assert "'batch_stats/head_bn/var' holds negative variances" in str(caught.value)
    assert "move" in str(caught.value)


def test_shapes_of_another_network_are_no_reason_for_another_error(workdir):
    architecture = dataclasses.replace(RECIPE.architecture, stage_widths=(16, 40))
    recipe = dataclasses.replace(RECIPE, architecture=architecture)
    with Checkpoints(workdir, 3) as checkpoints, pytest.raises(UserError, match="cannot read any checkpoint"):
        checkpoints.restore(initial_state(recipe, make_optimizer(recipe, 3)))


def test_reading_changes_nothing_and_the_next_checkpoint_sets_the_damaged_one_aside(workdir):
    change_progress(workdir, loss_sum=0.25)
    before = sorted(path.name for path in (workdir / "checkpoints").iterdir())
    with Checkpoints(workdir, 3) as checkpoints:
        assert checkpoints.restore(state_at(0)).progress.step == 1
        assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == before
        checkpoints.save(state_at(2), Progress(step=2, loss_sum=0.5))
    assert same(restored(workdir).state, state_at(2))
    assert (workdir / "damaged-checkpoint-2").is_dir()


def test_numbers_told_to_other_processes_keep_all_bits():
    numbers = np.array([1 / 3, 1e30, -(2.0**60) - 512, 0.0])
    assert (np.asarray(jnp.asarray(numbers), np.float64) != numbers).any(), "JAX is to round them"
    np.testing.assert_array_equal(from_words(jnp.asarray(in_words(numbers))), numbers)

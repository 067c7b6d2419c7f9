"""Which examples make which batch."""

import jax
import numpy as np
import pytest
from recipes import tiny_recipe

from advx_jax.data.image_set import ImageSet
from advx_jax.errors import UserError
from advx_jax.training.batches import Plan, hold_out, make_plan

# Four full batches and one of three.
SHORT = Plan(seed=3, n_examples=23, batch_size=5, epochs=4)
EVEN = Plan(seed=3, n_examples=20, batch_size=5, epochs=4)


def examples(batch):
    """Indices of the examples of a batch, without the padding, in their order."""
    indices = batch.indices.reshape(-1)
    return indices if batch.real is None else indices[batch.real.reshape(-1)]


def epoch_of(plan, epoch):
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    return np.concatenate([examples(plan.rows(step)) for step in steps])


def image_set(n):
    """Images that can be told apart, and whose labels belong to them."""
    images = np.zeros((n, 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(n)
    return ImageSet(images, np.arange(n, dtype=np.int64) * 2, ("a", "b"), "made")


@pytest.mark.parametrize("plan", [SHORT, EVEN], ids=["short", "even"])
def test_every_epoch_visits_every_example_once(plan):
    for epoch in range(plan.epochs):
        np.testing.assert_array_equal(np.sort(epoch_of(plan, epoch)), np.arange(plan.n_examples))


def test_every_epoch_has_another_order():
    orders = [tuple(epoch_of(EVEN, epoch)) for epoch in range(4)]
    assert len({*orders, tuple(range(20))}) == 5


def test_the_order_is_that_of_the_seed():
    def order(seed):
        plan = Plan(seed, n_examples=23, batch_size=5, epochs=4)
        return [tuple(examples(plan.rows(step))) for step in range(plan.n_steps)]

    assert order(3) == order(3)
    assert order(3) != order(4)
    assert order(0) != order(1)


def test_the_batch_of_a_step_does_not_depend_on_the_steps_before():
    forwards = [SHORT.rows(step) for step in range(SHORT.n_steps)]
    for step in (17, 4, 9, 0, 19):
        np.testing.assert_array_equal(SHORT.rows(step).indices, forwards[step].indices)


def test_the_order_does_not_depend_on_the_batch_size():
    other = Plan(SHORT.seed, SHORT.n_examples, batch_size=7, epochs=4)
    np.testing.assert_array_equal(epoch_of(other, 2), epoch_of(SHORT, 2))


def test_steps_are_counted_with_the_short_batch():
    assert (SHORT.steps_per_epoch, SHORT.n_steps) == (5, 20)
    assert (EVEN.steps_per_epoch, EVEN.n_steps) == (4, 16)
    assert [len(examples(SHORT.rows(step))) for step in range(10)] == [5, 5, 5, 5, 3] * 2
    assert [len(examples(EVEN.rows(step))) for step in range(8)] == [5] * 8


def test_full_batches_have_no_mask():
    for step in range(SHORT.n_steps):
        assert (SHORT.rows(step).real is None) == (step % 5 != 4)
    assert all(EVEN.rows(step).real is None for step in range(EVEN.n_steps))


def test_a_short_batch_is_padded_and_masked():
    batch = SHORT.rows(4)
    assert batch.indices.shape == batch.places.shape == batch.real.shape == (1, 5)
    np.testing.assert_array_equal(batch.real, [[True, True, True, False, False]])
    np.testing.assert_array_equal(batch.places, [[0, 1, 2, 3, 4]])
    # The padding points at examples too, so that nothing outside of the images is read.
    assert ((batch.indices >= 0) & (batch.indices < 23)).all()
    assert batch.indices.dtype == batch.places.dtype == np.int32


def test_a_batch_larger_than_the_data_is_one_short_batch():
    plan = Plan(seed=0, n_examples=3, batch_size=8, epochs=2)
    assert (plan.steps_per_epoch, plan.n_steps) == (1, 2)
    assert sorted(examples(plan.rows(1))) == [0, 1, 2]
    assert plan.rows(0).real.sum() == 3


@pytest.mark.parametrize("step", [0, 2])
def test_processes_and_their_devices_share_a_batch(step, monkeypatch):
    plan = Plan(seed=1, n_examples=29, batch_size=12, epochs=1)
    whole = plan.rows(step)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_device_count", lambda: 3)
    parts = []
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        parts.append(plan.rows(step))
    for field in ("indices", "places", "real"):
        expected = getattr(whole, field)
        shares = [getattr(part, field) for part in parts]
        if expected is None:
            assert shares == [None, None]
            continue
        # Two rows for each of the three devices of each process, in order.
        assert [share.shape for share in shares] == [(3, 2), (3, 2)]
        np.testing.assert_array_equal(np.concatenate([share.reshape(-1) for share in shares]), expected[0])


def test_the_plan_is_made_from_the_recipe():
    recipe = tiny_recipe("robust", seed=7, batch_size=12, epochs=5)
    assert make_plan(recipe, 40) == Plan(seed=7, n_examples=40, batch_size=12, epochs=5)


@pytest.mark.parametrize(("devices", "batch_size"), [(5, 12), (8, 4)])
def test_a_batch_that_devices_cannot_share_is_refused(devices, batch_size, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    with pytest.raises(UserError, match=rf"^config\.batch_size: .* {devices} devices .*, got {batch_size}$"):
        make_plan(tiny_recipe("robust", batch_size=batch_size), 40)
    assert make_plan(tiny_recipe("robust", batch_size=2 * devices), 40).batch_size == 2 * devices


def test_held_out_images_are_not_trained_on():
    data = image_set(50)
    kept, out = hold_out(data, 12, seed=1)
    assert (len(kept), len(out)) == (38, 12)
    identities = [part.images[:, 0, 0, 0] for part in (kept, out)]
    assert sorted(np.concatenate(identities)) == list(range(50))
    for part, identity in zip((kept, out), identities, strict=True):
        np.testing.assert_array_equal(part.labels, 2 * identity.astype(np.int64))
        assert (part.class_names, part.source) == (data.class_names, data.source)
    # Drawn at random: not simply the first or the last ones.
    assert len(set(np.diff(identities[1].astype(int)))) > 1


def test_what_is_held_out_is_that_of_the_seed():
    def held_out(seed):
        return tuple(hold_out(image_set(50), 12, seed)[1].labels)

    assert held_out(1) == held_out(1)
    assert len({held_out(seed) for seed in range(4)}) == 4


def test_nothing_is_held_out_unless_asked_for():
    data = image_set(5)
    kept, out = hold_out(data, 0, seed=1)
    assert kept is data
    assert out is None


@pytest.mark.parametrize("n_images", [5, 6])
def test_something_must_be_left_to_train_on(n_images):
    with pytest.raises(UserError, match=rf"^config\.held_out: expected fewer than the 5 .*, got {n_images}$"):
        hold_out(image_set(5), n_images, seed=1)
    kept, _ = hold_out(image_set(5), 4, seed=1)
    assert len(kept) == 1

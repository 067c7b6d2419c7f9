"""Sizes of chunks: little padding whatever the total, within the memory there is, and no more than is worth it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier

from advx_jax.analysis import chunks, memory
from advx_jax.analysis.chunks import chunk_rows
from advx_jax.analysis.memory import free_memory, lane_budget
from advx_jax.analysis.row_cost import classify, row_bytes
from advx_jax.attacks import APGD, EXPLANATION, FAB, PGD, AutoAttack, Square
from advx_jax.attacks.base import example_keys
from advx_jax.errors import UserError

RESNET44 = 3_400_000
GIB = 2**30


class Accelerator:
    platform = "gpu"

    def __init__(self, **stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats or None


@pytest.fixture
def on(monkeypatch):
    """Let there be so many lanes."""

    def put(n_lanes, accelerator=None):
        devices = [accelerator or jax.devices("cpu")[0]] * n_lanes
        monkeypatch.setattr(chunks, "lanes", lambda: devices)
        monkeypatch.setattr(chunks, "least_rows", lambda: 1 if accelerator else 2)
        monkeypatch.setattr(memory, "free_memory", lambda: 1024 * GIB)

    return put


TOTALS = sorted({*range(1, 130), *np.geomspace(130, 20_000, 150).astype(int).tolist(), 510, 10_000, 20_000})


@pytest.mark.parametrize("accelerator", [None, Accelerator(bytes_limit=60 * GIB)], ids=["cpu", "gpu"])
@pytest.mark.parametrize("n_lanes", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("cost", [10_000, RESNET44, 200 * RESNET44])
def test_little_is_padding_and_lanes_end_together(n_lanes, cost, accelerator, on):
    """Of all images, and of however many an attack leaves over for the next one."""
    on(n_lanes, accelerator)
    for total in TOTALS:
        rows = chunk_rows(total, cost)
        n_chunks = -(-total // rows)
        padding = n_chunks * rows - total
        if rows >= 10:
            assert padding <= 0.1 * n_chunks * rows, total
        else:
            # An image alone has company on a CPU, where it is rounded in another way without.
            assert padding < n_chunks or total == 1, total
        # As many rounds as with the largest chunks, so that smaller ones keep no lane waiting.
        largest = chunk_rows(20_000 * n_lanes, cost)
        assert -(-n_chunks // n_lanes) <= -(-total // (largest * n_lanes)), total


def test_sizes_are_few(on):
    """Work is compiled for each of them, and attacks leave ever fewer images."""
    on(1, Accelerator(bytes_limit=60 * GIB))
    assert len({chunk_rows(standing, RESNET44) for standing in range(500, 1001)}) <= 17


@pytest.mark.parametrize("total", [1, 2, 5, 16, 31, 32, 33, 100, 1000, 10_000])
@pytest.mark.parametrize("per_item", [1, 10, 1000])
def test_a_cpu_takes_as_many_images_as_it_computes_fastest(total, per_item, on):
    on(2)
    rows = chunk_rows(total, 1_000_000, per_item)
    most = max(1, 16 // per_item)
    # A row alone is rounded in another way than several: where there may be several, there is never one.
    assert min(2, most) <= rows <= most


def test_an_accelerator_takes_what_keeps_it_busy_or_fits(on):
    on(1, Accelerator(bytes_limit=60 * GIB))
    assert 0.9 * 4 * GIB <= chunk_rows(100_000, RESNET44) * RESNET44 <= 4 * GIB
    assert chunk_rows(2, RESNET44) == 2
    on(1, Accelerator(bytes_limit=3 * GIB, bytes_in_use=2 * GIB))
    assert 0.7 * GIB <= chunk_rows(100_000, RESNET44) * RESNET44 <= 0.8 * GIB
    assert 0.7 * GIB <= chunk_rows(100_000, RESNET44 // 10, per_item=10) * RESNET44 <= 0.8 * GIB
    on(1, Accelerator())
    assert chunk_rows(100_000, RESNET44) * RESNET44 <= 0.8 * 4 * GIB


def test_no_items_still_have_a_chunk_size(on):
    on(2)
    assert chunk_rows(0, 1000) == 2


@pytest.mark.parametrize(
    ("text", "rows"), [("1GiB", 16), ("40MB", 5), ("40 MB", 5), ("38.5MiB", 5), ("16MB", 2), ("0.000016TB", 2)]
)
def test_memory_can_be_given_for_all_lanes_of_a_cpu(text, rows, on, monkeypatch):
    on(2)
    monkeypatch.setenv("ADVX_MEMORY", text)
    assert chunk_rows(1000, 4_000_000) == rows


def test_memory_can_be_given_for_each_accelerator(on, monkeypatch):
    on(2, Accelerator(bytes_limit=60 * GIB))
    monkeypatch.setenv("ADVX_MEMORY", "40MB")
    assert chunk_rows(1000, 4_000_000) == 10


@pytest.mark.parametrize("text", ["4", "4G", "4gib", "-4GiB", "0GiB", "GiB", "4GiB each", "1e3MB", "٤GiB"])
def test_memory_that_is_no_size_is_refused(text, on, monkeypatch):
    on(2)
    monkeypatch.setenv("ADVX_MEMORY", text)
    with pytest.raises(UserError, match=f"expected ADVX_MEMORY to be a size such as 4GiB or 500MB, got '{text}'"):
        chunk_rows(1000, 4_000_000)


@pytest.mark.parametrize(
    ("accelerator", "per_item", "message"),
    [
        (
            None,
            1,
            "2 images at once, up to 1.86 GiB, .* in each of 2 lanes: give more by --memory or ADVX_MEMORY, or",
        ),
        (None, 1000, "1000 images at once, up to 931 GiB, got 512 MiB in each of 2 lanes"),
        (Accelerator(bytes_limit=60 * GIB), 1000, "1000 images at once, up to 931 GiB, got 1 GiB: give more by --mem"),
    ],
)
def test_what_does_not_fit_is_told_before_it_is_tried(accelerator, per_item, message, on, monkeypatch):
    on(2, accelerator)
    monkeypatch.setenv("ADVX_MEMORY", "1GiB")
    with pytest.raises(UserError, match=message):
        chunk_rows(1000, 1_000_000_000, per_item)


def kernel(root, **files):
    """Files of a kernel, by their paths."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal:       32000000 kB\nMemAvailable:   16000000 kB\n"


def test_free_memory_is_what_system_and_control_groups_leave(tmp_path):
    assert free_memory(kernel(tmp_path, proc__meminfo=MEMINFO)) == 16_000_000 * 1024
    # A job of a cluster: its own group has no limit, that of the job above has.
    kernel(tmp_path, proc__self__cgroup="1:cpu:/x\n0::/job/step\n")
    group = {"memory.max": "max\n", "memory.current": "100\n"}
    kernel(tmp_path, **{f"sys__fs__cgroup__job__step__{name}": text for name, text in group.items()})
    group = {"memory.max": "5000000\n", "memory.current": "3000000\n", "memory.stat": "anon 7\ninactive_file 500000\n"}
    kernel(tmp_path, **{f"sys__fs__cgroup__job__{name}": text for name, text in group.items()})
    assert free_memory(tmp_path) == 2_500_000


def test_free_memory_in_a_container_with_control_groups_of_the_first_kind(tmp_path):
    """It sees its own group at the top, under another name."""
    root = kernel(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="4:memory:/docker/abc\n")
    group = {"memory.limit_in_bytes": "9000000", "memory.usage_in_bytes": "9500000"}
    kernel(root, **{f"sys__fs__cgroup__memory__{name}": text for name, text in group.items()})
    assert free_memory(root) == 0
    kernel(root, **{"sys__fs__cgroup__memory__memory.stat": "inactive_file 1\ntotal_inactive_file 600000\n"})
    assert free_memory(root) == 100_000


def test_this_machine_has_memory():
    assert 2**26 < free_memory() < 2**50
    assert lane_budget(jax.devices("cpu")[:1] * 4) < free_memory()


IMAGES = jax.ShapeDtypeStruct((16, 32, 32, 3), np.float32)


@pytest.mark.parametrize(
    "attack",
    [
        EXPLANATION.replace(steps=6),
        pytest.param(APGD(eps=0.5, norm="L2", steps=6), marks=pytest.mark.slow),
        pytest.param(FAB(eps=0.5, norm="L2", steps=6), marks=pytest.mark.slow),
        Square(eps=0.5, norm="L2", steps=6),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_cost_is_no_less_than_what_compiled_code_takes_and_at_most_twice_that(attack):
    model, labels = random_classifier(), jax.ShapeDtypeStruct((16,), np.int32)
    keys = jax.eval_shape(lambda: example_keys(None, jnp.arange(16)))
    state = jax.eval_shape(attack.init, model, IMAGES, labels, keys)
    segment = jax.jit(lambda *arguments: attack.advance(*arguments, 6))
    found = segment.lower(model, IMAGES, labels, state).compile().memory_analysis()
    taken = found.temp_size_in_bytes + found.output_size_in_bytes
    assert taken <= 16 * row_bytes(model, IMAGES, attack) <= 2 * taken


def test_cost_is_that_of_the_work():
    model = random_classifier()
    forward, ball = row_bytes(model, IMAGES), {"eps": 0.5, "norm": "L2"}
    compiled = jax.jit(classify).lower(model, IMAGES).compile().memory_analysis().temp_size_in_bytes
    assert compiled <= 16 * forward <= 2 * compiled
    pgd = row_bytes(model, IMAGES, PGD(**ball))
    assert pgd > 1.5 * forward
    # FAB asks for a gradient of each class at once; an ensemble costs what its most expensive part does.
    dearest = row_bytes(model, IMAGES, FAB(**ball))
    assert dearest > pgd
    ensemble = row_bytes(model, IMAGES, AutoAttack(**ball))
    assert ensemble >= pgd


def test_cost_grows_with_the_image_and_needs_none():
    model = random_classifier()
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    assert row_bytes(model, pixels) == row_bytes(model, IMAGES)
    larger = jax.ShapeDtypeStruct((5, 64, 64, 3), np.float32)
    assert 3.9 < row_bytes(model, larger) / row_bytes(model, IMAGES) < 4.1


def test_cost_of_a_plain_function_and_of_what_loops_inside():
    def plain(images):
        return images.reshape(len(images), -1)[:, :10]

    assert row_bytes(plain, IMAGES) >= 32 * 32 * 3 * 4

    def loops(images):
        def body(carry, _):
            return carry * 2, carry

        _, piled = jax.lax.scan(body, images, length=8)
        return piled.sum((0, 2, 3))

    assert row_bytes(loops, IMAGES) >= 8 * 32 * 32 * 3 * 4

"""Fixtures that several test modules share."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

# As the commands have it, which find JAX imported and take this process for somebody else's; what is started from here
# is to find what a person's shell has.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import jax

del os.environ["TF_CPP_MIN_LOG_LEVEL"]

import jaxtyping
import numpy as np
import pytest
from compiling import as_people_do, compile_quickly

PUBLISHED_NAMES = ("resnet44-standard", "resnet44-adv-train", "resnet44-all", "resnet44-robust")

# Shapes in signatures are checked at run time while the tests run.
jaxtyping.install_import_hook("advx_jax", "beartype.beartype")

compile_quickly()

# Shells start what they put into the background with Ctrl-C ignored, and commands started from here would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# JAX makes many small objects while it traces, hardly any of them garbage: with Python's own thresholds, looking for it
# takes 3 to 19% of a module's time. Modules end with a search.
gc.set_threshold(50_000, 50, 100)


def pytest_collection_finish() -> None:
    """What is imported stays: no search needs to look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def compiled_code_is_released() -> Iterator[None]:
    """Compiled programs hold mappings of memory; Linux gives a process 65,530, and where none is left, XLA crashes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def compiled_as_people_do() -> Iterator[None]:
    """Programs are optimised, for comparisons with reference outputs."""
    with as_people_do():
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shapes in signatures are not checked for a while, which takes a hundred times as long as reading a file does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with the published networks and the reference outputs, which is no part of the project."""
    # Whole, as tests work in folders of their own.
    path = Path(os.environ.get("ADVX_SHARED", Path(__file__).parents[1].parent / "shared")).resolve()
    if not (path / "golden").is_dir():
        pytest.skip(f"needs the reference outputs: no folder golden/ in {path} (set $ADVX_SHARED)")
    return path


@pytest.fixture(scope="session")
def golden(shared_dir: Path):
    """Load a golden file by name: `golden("explain_all.npz")`."""

    def load(name: str):
        return np.load(shared_dir / "golden" / name)

    return load


@pytest.fixture(scope="session")
def published_pt(shared_dir: Path):
    """Path of a published network's `.pt` file by name: `published_pt("resnet44-all")`."""

    def path(name: str) -> Path:
        return shared_dir / "prebuilt" / f"{name}.pt"

    return path


@pytest.fixture(scope="session")
def ara_subset(golden):
    """The first 32 images of the published subset, on the [0,1] scale, and their labels."""
    images = golden("images_ara_first32.npz")
    return images["images_u8"].astype(np.float32) / np.float32(255), images["labels"].astype(np.int32)

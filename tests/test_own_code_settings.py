"""Results of a person's own code are told apart by what the code says, not by its name alone."""

import importlib
import sys
from pathlib import Path

import pytest

from advx_jax.analysis.attribution.named import METHODS
from advx_jax.analysis.faithfulness.named import METRICS
from advx_jax.attacks import BEST, DDN, Published
from advx_jax.importing import code_settings, import_by_name

CODE = """
from flax import struct

from advx_jax.analysis.attribution import Gradient
from advx_jax.attacks import DDN, FirstSuccess, Restarted

FACTOR = {factor}


@struct.dataclass
class Mine(DDN):
    pass


@struct.dataclass
class MyFirst(FirstSuccess):
    pass


@struct.dataclass
class MyRestarts(Restarted):
    pass


@struct.dataclass
class MyMethod(Gradient):
    pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Imports something of a module that says this."""
    monkeypatch.syspath_prepend(tmp_path)

    def imported(name, factor):
        (tmp_path / "own_code_of_settings.py").write_text(CODE.format(factor=factor))
        sys.modules.pop("own_code_of_settings", None)
        importlib.invalidate_caches()
        return import_by_name(f"own_code_of_settings:{name}", "attack", "an attack")

    yield imported
    sys.modules.pop("own_code_of_settings", None)


@pytest.mark.parametrize("name", ["Mine", "MyMethod"])
def test_a_change_of_the_module_is_another_setting(own, name):
    before, same, after = (own(name, factor)().settings() for factor in (1.0, 1.0, 23.0))
    assert before == same != after
    assert {key for key in before if before[key] != after[key]} == {"code_sha256"}


def test_parts_of_an_ensemble_count(own):
    with_own = BEST.replace(attacks=(DDN(), own("Mine", 1.0)()))
    assert {name for name in with_own.settings() if "code" in name} == {"2.code_sha256"}


@pytest.mark.parametrize(
    ("name", "arguments", "setting"),
    [
        ("MyFirst", {"attacks": (DDN(),)}, "code_sha256"),
        ("MyRestarts", {"attack": DDN(), "restarts": 2}, "restarted_code_sha256"),
    ],
)
def test_ensembles_of_ones_own_count(own, name, arguments, setting):
    before, after = (own(name, factor)(**arguments).settings() for factor in (1.0, 2.0))
    assert {key for key in before if before[key] != after[key]} == {setting}


def test_what_runs_counts_and_not_what_a_file_says_now(own):
    mine = own("Mine", 1.0)()
    before = mine.settings()
    path = Path(sys.modules["own_code_of_settings"].__file__)
    path.write_text(path.read_text() + "# more\n")
    assert mine.settings() == before


def test_what_is_here_has_no_code_of_its_own(own):
    for thing in (Published(), BEST, *METHODS.values(), *METRICS.values()):
        assert "code" not in str(thing.settings())
    # Of what has no source nothing can be said.
    assert code_settings(type("Made", (DDN,), {"__module__": "nowhere"})()) == {}

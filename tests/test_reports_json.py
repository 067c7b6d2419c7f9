import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from networks import random_classifier

import advx_jax
from advx_jax.errors import UserError
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.registry import OwnModel, computed_in
from advx_jax.reports.results_json import environment, fingerprint, head, network_record, read_json, write_json


def strict(path: Path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_everything_that_results_hold_becomes_plain_json(tmp_path):
    path = tmp_path / "results.json"
    results = {
        "z_first": np.float32(0.1),
        "a_second": [np.int64(3), np.bool_(True), None],
        "nested": {"array": np.arange(4, dtype=np.int32).reshape(2, 2), "jax": jnp.ones(2), "path": Path("a/b")},
        "tuple": (1, 2.5),
        "text": 'é " \ud800',
    }
    write_json(path, results)
    assert strict(path) == {
        "z_first": float(np.float32(0.1)),
        "a_second": [3, True, None],
        "nested": {"array": [[0, 1], [2, 3]], "jax": [1.0, 1.0], "path": "a/b"},
        "tuple": [1, 2.5],
        "text": 'é " \ud800',
    }
    assert list(strict(path)) == list(results)
    assert path.read_text().startswith('{\n  "z_first"')


def test_every_float32_is_read_back_with_its_value(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    write_json(tmp_path / "values.json", {"values": values})
    np.testing.assert_array_equal(np.array(read_json(tmp_path / "values.json")["values"], np.float32), values)


def test_what_is_not_finite_becomes_null(tmp_path):
    write_json(tmp_path / "r.json", {"a": float("nan"), "b": np.array([1, np.inf, -np.inf]), "c": np.float32("nan")})
    assert strict(tmp_path / "r.json") == {"a": None, "b": [1.0, None, None], "c": None}


@pytest.mark.parametrize("results", [{"a": object()}, {"a": b"bytes"}, {"a": {2: 3}}, {"a": {1, 2}}])
def test_what_has_no_form_in_json_is_refused_and_the_old_file_stays(tmp_path, results):
    path = tmp_path / "results.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError, match="expected"):
        write_json(path, results)
    assert read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"[1]",
        b"3",
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"a": 1%s}' % (b"0" * 400),
    ],
    ids=["empty", "cut off", "NaN", "Infinity", "list", "number", "no text", "deep", "long number", "large number"],
)
def test_broken_files_are_one_line_errors(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.json") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_another_format_are_errors(tmp_path):
    with pytest.raises(UserError, match=r"missing\.json"):
        read_json(tmp_path / "missing.json")
    write_json(tmp_path / "r.json", {"format": 1})
    assert read_json(tmp_path / "r.json", 1) == {"format": 1}
    with pytest.raises(UserError, match="expected results of format 2"):
        read_json(tmp_path / "r.json", 2)


def test_fingerprint_depends_on_settings_and_not_on_their_order():
    settings = {"eps": 0.1, "steps": 35, "model": "m"}
    assert fingerprint(settings) == fingerprint(dict(reversed(settings.items())))
    assert fingerprint(settings) == fingerprint({**settings, "steps": np.int64(35)})
    others = [{**settings, "eps": 0.1000001}, {**settings, "more": None}, {**settings, "model": "n"}, {}]
    assert len({fingerprint(s) for s in [settings, *others]}) == 5
    # The digest must be the same in every later process and release, or no run could be resumed.
    assert fingerprint({"a": 1}) == "f9d86028c6e0d64e225186f96acb69338b2c59764df79162107f5c4bb34d1310"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_settings_that_are_not_finite_have_no_fingerprint(value):
    with pytest.raises(UserError, match="expected finite numbers"):
        fingerprint({"eps": value})


def test_head_tells_how_results_came_about(tmp_path):
    write_json(tmp_path / "r.json", head("explain", 3, {"eps": 0.1}) | {"answer": 42})
    results = read_json(tmp_path / "r.json", 3)
    assert list(results) == ["format", "command", "settings", "fingerprint", "environment", "answer"]
    assert results["command"] == "explain"
    assert results["fingerprint"] == fingerprint(results["settings"])


def test_environment_names_versions_and_device():
    found = environment()
    assert set(found) == {"advx_jax", "jax", "jaxlib", "flax", "numpy", "python", "device"}
    assert found["advx_jax"] == advx_jax.__version__
    assert found["numpy"] == np.__version__
    assert set(found["device"]) == {"platform", "kind", "count"}
    assert found["device"]["count"] >= 1


def test_what_a_network_is_computed_in_is_a_setting_of_its_results():
    network = OwnModel(random_classifier(), Provenance(name="tiny"))
    exact, rounded = (network_record(computed_in(network, name)) for name in ("float32", "tensorfloat32"))
    assert exact == network_record(network)
    assert rounded == {**exact, "compute_dtype": "tensorfloat32"}

"""The same work twice, and in any number of lanes, gives the same files, byte for byte."""

import re
from pathlib import Path

import pytest
from networks import random_classifier

from advx_jax.analysis.accuracy import predict
from advx_jax.attacks import APGD, EXPLANATION, FMN
from advx_jax.data.image_set import ImageSet, unit_images
from advx_jax.data.sample import load_sample
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.files import save_network
from advx_jax.networks.registry import resolve_network
from advx_jax.networks.resnet import ResNetArchitecture
from advx_jax.runs.ara import RobustnessAreas
from advx_jax.runs.explain import given_images, write_explanations
from advx_jax.runs.measurement import measure
from advx_jax.runs.robustness import RobustAccuracy

# Widths as the published networks have them, and so their convolutions.
ARCHITECTURE = ResNetArchitecture((1, 1, 1), (16, 32, 64), activation="half_huber")
# In one lane and in several, chunks of so many images are of other sizes.
N_IMAGES = 4
# The same two lanes twice, one, and more than there may be cores.
RUNS = {"first": 2, "second": 2, "one": 1, "four": 4}
# Of robustness: what a clock says is never the same twice.
SECONDS = re.compile(rb'"seconds": (\{[^}]*\}|[0-9.e-]+)')


def explain(network, images, output):
    settings = EXPLANATION.replace(steps=6)
    write_explanations(network, given_images(images, range(N_IMAGES)), settings, output, False, False)


def ara(network, images, output):
    measure(RobustnessAreas(network, images, N_IMAGES, FMN(steps=12), output))


def robustness(network, images, output):
    members = (APGD(eps=1.0, norm="L2", steps=6),)
    measure(RobustAccuracy(network, images, N_IMAGES, "apgd-ce", members, 0, output))


def files(folder: Path) -> dict[str, bytes]:
    """All but the logs, in which chunks stand as they were finished."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
    return {str(path.relative_to(folder)): SECONDS.sub(b"", path.read_bytes()) for path in paths}


@pytest.mark.parametrize("work", [explain, *(pytest.param(work, marks=pytest.mark.slow) for work in (ara, robustness))])
def test_files_are_the_same_twice_and_in_any_number_of_lanes(work, tmp_path, monkeypatch):
    save_network(tmp_path / "small.safetensors", random_classifier(architecture=ARCHITECTURE), Provenance(name="small"))
    network = resolve_network(str(tmp_path / "small.safetensors"))
    sample = load_sample()
    pixels = sample.images[:N_IMAGES]
    # Classified correctly, so that all are attacked.
    labels = predict(network.classifier, unit_images(pixels)).classes
    images = ImageSet(pixels, labels, sample.class_names, sample.source)
    found = {}
    for name, lanes in RUNS.items():
        monkeypatch.setenv("ADVX_LANES", str(lanes))
        work(network, images, tmp_path / name)
        found[name] = files(tmp_path / name)
    assert len(found["first"]) > 1
    for name in ("second", "one", "four"):
        assert found[name].keys() == found["first"].keys()
        differ = [path for path, content in found["first"].items() if found[name][path] != content]
        assert not differ, name

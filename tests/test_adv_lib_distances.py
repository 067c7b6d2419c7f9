"""adv-lib's distances as a measurement of a network's twin."""

import json

import numpy as np
import pytest
from networks import random_classifier

from advx_jax.analysis.accuracy import predict
from advx_jax.data.image_set import CIFAR10_CLASSES, ImageSet, unit_images
from advx_jax.networks.classifier import Provenance
from advx_jax.networks.registry import ResolvedNetwork
from advx_jax.runs.measurement import measure

pytestmark = pytest.mark.slow

pytest.importorskip("torch")
pytest.importorskip("adv_lib", reason="needs adv-lib: pip install --no-deps adv-lib==0.2.8")

from benchmarks.adv_lib_distances import PeerDistances

N, BUDGET = 5, 20


# PyTorch's compiler warns of PyTorch itself and of points that attacks go on from.
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_twin_finds_the_same_distances(tmp_path):
    classifier = random_classifier()
    network = ResolvedNetwork(classifier, Provenance(name="tiny"), tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), np.uint8)
    data = ImageSet(
        images, predict(classifier, unit_images(images)).classes.astype(np.int64), CIFAR10_CLASSES, "a test"
    )
    found = {}
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        measure(PeerDistances(network, data, range(N), "Linf", BUDGET, folder, N, compiled))
        results = json.loads((folder / "adv-lib-Linf.json").read_text())
        assert results["settings"]["torch_compiled"] == compiled
        found[compiled] = {attack["name"]: attack["distances"] for attack in results["attacks"]}
    assert found[False].keys() == found[True].keys()
    for name, distances in found[False].items():
        assert any(distances), name
        np.testing.assert_allclose(np.array(found[True][name], float), np.array(distances, float), rtol=1e-3)

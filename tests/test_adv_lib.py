"""What adv-lib's attacks are scored by: passes counted in the network, the nearest misclassified point that it saw."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]
# The benchmarks are no part of what is installed.
sys.path.insert(0, str(ROOT))

from advx_jax.attacks.projections import NORMS
from advx_jax.reports.results_json import fingerprint
from benchmarks.adv_lib import peers, smallest_seen


class Threshold(torch.nn.Module):
    """Class 1 where the first value is above a half; counts its passes."""

    def __init__(self):
        super().__init__()
        self.forward_passes = 0

    def forward(self, points):
        self.forward_passes += 1
        above = points.flatten(1)[:, 0] - 0.5
        return torch.stack([-above, above], 1)


IMAGES = torch.tensor([[0.4, 0.2], [0.1, 0.2]]).reshape(2, 2, 1, 1)
LABELS = torch.tensor([0, 0])


def walk(network, images, labels, step=0.15, steps=5, gradients=True):
    """Towards the other class, beyond the box at last."""
    del labels
    points = images
    for _ in range(steps):
        points = (points + torch.tensor([step, 0.0]).reshape(2, 1, 1)).requires_grad_(gradients)
        logits = network(points)
        if gradients:
            logits.sum().backward()
        points = points.detach()
    return points


def test_nearest_misclassified_point_in_the_box_counts():
    found = smallest_seen(walk, Threshold(), IMAGES, LABELS, "L2", 100)
    np.testing.assert_allclose(found, [0.15, 0.45], rtol=1e-6)


@pytest.mark.parametrize(("norm", "expected"), [("L0", 1), ("L1", 0.15), ("Linf", 0.15)])
def test_distances_are_in_the_norm(norm, expected):
    assert smallest_seen(walk, Threshold(), IMAGES, LABELS, norm, 100)[0] == pytest.approx(expected)


def test_points_beside_the_box_do_not_count():
    found = smallest_seen(lambda *given: walk(*given, step=0.7), Threshold(), IMAGES, LABELS, "L2", 100)
    assert found[0] == math.inf
    assert found[1] == pytest.approx(0.7)


@pytest.mark.parametrize(("gradients", "budget", "forward"), [(True, 4, 2), (True, 5, 3), (False, 4, 4)])
def test_forward_and_backward_passes_count_until_the_budget_is_spent(gradients, budget, forward):
    network = Threshold()
    found = smallest_seen(lambda *given: walk(*given, gradients=gradients), network, IMAGES, LABELS, "L2", budget)
    assert network.forward_passes == forward
    # The second image is crossed in the third step.
    assert np.isfinite(found).tolist() == [True, forward >= 3]


def test_an_attack_that_attacks_some_images_only_cannot_be_counted():
    with pytest.raises(RuntimeError, match="all 2 images, got 1"):
        smallest_seen(lambda network, x, y: network(x[:1]), Threshold(), IMAGES, LABELS, "L2", 10)


def test_the_point_that_is_returned_counts():
    found = smallest_seen(lambda network, x, y: x + 0.2, Threshold(), IMAGES, LABELS, "Linf", 10)
    assert found.tolist() == [pytest.approx(0.2), math.inf]


@pytest.mark.parametrize("norm", NORMS)
def test_settings_tell_attacks_apart(norm):
    settings = [fingerprint(peer.settings(2000)) for peer in peers(norm)]
    assert len(set(settings)) == len(settings)
    assert len({peer.name for peer in peers(norm)}) == len(settings)

"""What kept results depend on: as earlier releases wrote it, or their files could not be gone on from."""

from advx_jax.attacks import Published
from advx_jax.attacks.named import MINIMUM_NORM
from advx_jax.reports.results_json import fingerprint

# As in a distances.json of version 0.1.0, but for these stand-ins of network and images.
NETWORK = {"model": "resnet44-all", "network_sha256": "4d12"}
PUBLISHED_FINGERPRINT = "d8ac2c8330c9a6787c0e8e2e99e190c43ea97fc3be8984210a0a619b08b782f6"


def test_published_attack_is_recorded_as_it_always_was():
    assert Published().settings() == {
        "eps": 20.0,
        "steps": 450,
        "overshoot": 1.0,
        "momentum": 0.9,
        "direction": "cross_entropy",
        "stay_in_range": False,
    }
    assert fingerprint(NETWORK | Published().settings()) == PUBLISHED_FINGERPRINT


def test_attacks_are_told_apart():
    assert len({fingerprint(attack.settings()) for attack in MINIMUM_NORM.values()}) == len(MINIMUM_NORM)

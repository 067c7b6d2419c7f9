"""What kept results depend on: as earlier releases wrote it, or their files could not be gone on from."""

from advx_jax.analysis.robustness_area import PUBLISHED_ATTACK, SEARCHES
from advx_jax.reports.results_json import fingerprint

# As in a distances.json of version 0.1.0, but for these stand-ins of network and images.
NETWORK = {"model": "resnet44-all", "network_sha256": "4d12"}
PUBLISHED_FINGERPRINT = "d8ac2c8330c9a6787c0e8e2e99e190c43ea97fc3be8984210a0a619b08b782f6"


def test_published_attack_is_recorded_as_it_always_was():
    assert PUBLISHED_ATTACK.record() == {
        "eps": 20.0,
        "steps": 450,
        "overshoot": 1.0,
        "momentum": 0.9,
        "direction": "cross_entropy",
        "stay_in_range": False,
    }
    assert fingerprint(NETWORK | PUBLISHED_ATTACK.record()) == PUBLISHED_FINGERPRINT


def test_attacks_are_told_apart():
    attacks = (PUBLISHED_ATTACK, *SEARCHES.values())
    assert len({fingerprint(attack.record()) for attack in attacks}) == len(attacks)

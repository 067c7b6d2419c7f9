"""resnet44-standard: nothing special.

python -m advx_jax.train --config=configs/standard.py

Running time: 200 epochs of 5.5 to 10 minutes on 2 CPU cores, by the processor, or of 3.3 seconds on one H100.
Expected: test accuracy near 0.938 (published 0.9384), train loss 0.0075, attack ARA 0.0013, BTR ARA 0.0015.
"""

from ml_collections import ConfigDict

from advx_jax.configs.published import published


def get_config() -> ConfigDict:
    """The published recipe."""
    return published("resnet44-standard")

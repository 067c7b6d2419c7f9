"""Training recipes for `python -m advx_jax.train --config=configs/NAME.py`."""

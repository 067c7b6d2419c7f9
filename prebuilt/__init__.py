"""Networks that can be asked for by name: the manifest, our own networks, and what is converted or put here.

The published networks are not part of the package; `manifest.json` says where they come from and
what their sha256 is, and `advx_jax.networks.registry` finds or fetches them.
"""

"""CIFAR-10 from wherever it is; `python -m advx_jax.data.cifar10 --help` tells how to get the full set."""

from advx_jax.data.sources import load_cifar10

__all__ = ["load_cifar10"]

if __name__ == "__main__":
    # Here and not at the top: whoever loads images wants no command's flags.
    from advx_jax.cli.data import main

    main()

"""`python -m advx_jax`, which is `advx` where that is not on the path."""

from advx_jax.cli.door import main

if __name__ == "__main__":
    main()

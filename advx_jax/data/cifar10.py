"""`python -m advx_jax.data.cifar10 --help` tells how to get the full CIFAR-10."""

if __name__ == "__main__":
    # Here and not at the top: whoever imports this wants no command's flags.
    from advx_jax.cli.data import main

    main()

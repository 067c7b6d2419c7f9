"""A PyTorch twin of the method, written from its specification: what the JAX code is compared and timed with.

Images are NCHW float tensors on the [0,1] scale; a network's mode (`train()`, `eval()`) is the caller's choice.
"""

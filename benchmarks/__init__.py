"""Side-by-side timings of the JAX code and the PyTorch twin: one run, one machine, the same work."""

"""What `benchmarks.train_step` times: training with JAX, with PyTorch, and on several devices."""

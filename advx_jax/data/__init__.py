"""Data: CIFAR-10 from wherever it is, the small sample that ships, and a person's own image files."""

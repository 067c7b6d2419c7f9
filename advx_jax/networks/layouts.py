"""The order of axes that every convolution has: images with channels last, kernels with spatial axes first."""

LAYOUT = ("NHWC", "HWIO", "NHWC")

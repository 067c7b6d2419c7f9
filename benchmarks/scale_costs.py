"""The arithmetic of `benchmarks.scale`."""

import math
from typing import NamedTuple


class Measured(NamedTuple):
    """Of this machine, in seconds.

    Attributes:
        forward: images to logits, an image.
        gradient: the same and back, an image.
        decoding: of a photograph, on one core.
        compiling: of the gradient.
        row_bytes: memory that an image takes in an attack.
    """

    forward: float
    gradient: float
    decoding: float
    compiling: float
    row_bytes: int


class Job(NamedTuple):
    """Something to measure.

    Attributes:
        name: what it is.
        forward: passes, the mean over all images.
        backward: passes back.
    """

    name: str
    forward: float
    backward: float


def seconds_an_image(job: Job, measured: Measured, speed: float) -> float:
    """On one device that is so many times as fast as what was measured."""
    return (job.forward * measured.forward + job.backward * (measured.gradient - measured.forward)) / speed


def seconds_on(n_devices: int, n_images: int, each: float) -> float:
    """Of so many devices that divide images evenly, as `analysis.chunks` does up to a tenth of padding."""
    return math.ceil(n_images / n_devices) * each

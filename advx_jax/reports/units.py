"""Units of distances, in words."""

RMS = "RMS"
"""The paper's: root mean square of the change over all values of an image."""

UNITS = {
    RMS: "RMS on the [0, 1] scale",
    "L0": "number of values changed",
    "L1": "L1 norm on the [0, 1] scale",
    "L2": "L2 norm on the [0, 1] scale",
    "Linf": "L∞ norm on the [0, 1] scale",
}
"""By the name of the norm."""


def area_text(area: float, unit: str) -> str:
    """An area as tables have it; those in other units than RMS may be of any size."""
    return f"{area:.4f}" if unit == RMS else f"{area:.4g}"

"""What pip would install on other Pythons than this one: the jaxlib that is right there, and no PyTorch.

No second environment is made: pip resolves for another Python, whose markers are evaluated here, since pip
itself takes those of the Python that runs it.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

# Of Python and jaxlib: what must be chosen at least.
EXPECTED = {"3.12": Version("0.12.0.1"), "3.13": Version("0.12.0.1")}
# It needs a package without a wheel, which cannot be resolved for another Python.
NO_WHEELS = {"tensorflow-datasets"}


def resolved(python: str) -> dict[str, Version]:
    """Versions that pip chooses of this project's dependencies, those of its tests included."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    wanted = []
    for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            requirement.marker = None
            wanted += [str(requirement)] * (requirement.name not in NO_WHEELS)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"]
        command += ["--target", folder, "--only-binary=:all:", "--python-version", python, "--report", str(report)]
        subprocess.run([*command, *wanted], check=True)  # noqa: S603 (pip, with this project's requirements)
        chosen = json.loads(report.read_text())["install"]
    return {entry["metadata"]["name"].lower(): Version(entry["metadata"]["version"]) for entry in chosen}


for python, least in EXPECTED.items():
    found = resolved(python)
    print(f"Python {python}: jax {found['jax']}, jaxlib {found['jaxlib']}, flax {found['flax']}, {len(found)} packages")
    if min(found["jax"], found["jaxlib"]) < least or "torch" in found:
        sys.exit(f"expected jax and jaxlib {least} or later on Python {python}, and no torch, got {found}")

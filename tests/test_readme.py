"""What the README shows must run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_own_classifier_example_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(code, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=240, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("towards every class (10, 32, 32, 3)") == 4
    area = float(re.search(r"attack ARA: ([\d.e-]+)", run.stdout)[1])
    assert 0 < area < 0.1


def test_files_that_the_readme_names_are_there():
    text = README.read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:advx_jax|convert|tests|benchmarks)/[a-z_/]*)`", text))
    paths |= set(re.findall(r"\]\(((?!http)[^)]+)\)", text))
    assert len(paths) >= 8
    for path in paths:
        assert (README.parent / path.partition("#")[0]).exists(), path

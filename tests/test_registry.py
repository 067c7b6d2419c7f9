"""Networks by name or path."""

import dataclasses
import functools
import gc
import hashlib
import http.server
import importlib.resources
import json
import re
import threading
from pathlib import Path

import pytest
from pt_files import ROBUST, as_zip, flat, make_content, make_network

from advx_jax.cache import cache_dir
from advx_jax.convert import read_pt
from advx_jax.errors import UserError
from advx_jax.networks import registry
from advx_jax.networks.files import save_network
from advx_jax.networks.registry import ManifestEntry, find_by_name, manifest, resolve_network
from advx_jax.networks.resnet import ResNetArchitecture

PUBLISHED = ["resnet44-standard", "resnet44-adv-train", "resnet44-all", "resnet44-robust"]
NOBODY = "http://127.0.0.1:9"  # the discard port: refused at once


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path, monkeypatch):
    """An empty working folder and cache, no $ADVX_PREBUILT, and no network outside this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADVX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ADVX_PREBUILT", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, NOBODY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def entry(tmp_path):
    """A small network, known by name, whose published file lies in the folder `home`."""
    (tmp_path / "home").mkdir()
    content = as_zip(make_content())
    (tmp_path / "home" / "tiny-robust.pt").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return ManifestEntry("tiny-robust", "tiny-robust.pt", sha256, f"{NOBODY}/tiny-robust.pt")


@pytest.fixture
def server(tmp_path):
    """A web server for the folder `home`; gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=tmp_path / "home")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def refusal(function, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_the_manifest_tells_what_is_published():
    content = json.loads((importlib.resources.files("advx_jax.prebuilt") / "manifest.json").read_text())
    assert content["format"] == "advx_jax manifest 1"
    for name, fields in content["networks"].items():
        assert re.fullmatch("[0-9a-f]{64}", fields["sha256"])
        assert fields["file"].startswith(name)
        assert fields["licence"]
        assert fields["training"]
        ResNetArchitecture(**{key: tuple(v) if isinstance(v, list) else v for key, v in fields["architecture"].items()})
        if name in PUBLISHED:
            assert fields["url"].endswith(f"/e2e7ceddc5292593ef9c217779210273fd3cd8a0/prebuilt/{name}.pt")
            assert {"test_accuracy", "attack_ara", "btr_ara"} <= fields["published"].keys()
    assert [name for name in manifest() if name in PUBLISHED] == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_manifest_fits_the_published_files(name, published_pt, monkeypatch):
    monkeypatch.setenv("ADVX_PREBUILT", str(published_pt(name).parent))
    network = resolve_network(name)
    # A converted file in the clone's own prebuilt/ is found first, and is as good.
    assert network.path.stem == name
    assert network.provenance.name == name
    assert network.provenance.source_sha256 == manifest()[name].sha256
    content = (importlib.resources.files("advx_jax.prebuilt") / "manifest.json").read_text()
    fields = json.loads(content)["networks"][name]
    expected = {key: tuple(v) if isinstance(v, list) else v for key, v in fields["architecture"].items()}
    assert network.classifier.architecture == ResNetArchitecture(**expected)


@pytest.mark.parametrize("folder", ["prebuilt", "chosen", "cache"])
@pytest.mark.parametrize("converted", [True, False])
def test_a_name_is_looked_for_in_every_folder(folder, converted, entry, tmp_path, monkeypatch):
    monkeypatch.setenv("ADVX_PREBUILT", "chosen")
    (tmp_path / folder).mkdir()
    published = tmp_path / "home" / entry.file
    if converted:
        save_network(tmp_path / folder / "tiny-robust.safetensors", *read_pt(published))
    else:
        (tmp_path / folder / entry.file).write_bytes(published.read_bytes())
    classifier, provenance, path = find_by_name(entry)
    assert path.absolute().parent == tmp_path / folder
    assert classifier.architecture == ROBUST
    assert provenance.name == "tiny-robust"


def test_the_first_folder_and_the_converted_file_win(entry, tmp_path, monkeypatch):
    monkeypatch.setenv("ADVX_PREBUILT", "chosen")
    for folder in ("prebuilt", "chosen"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / entry.file).write_bytes((tmp_path / "home" / entry.file).read_bytes())
    assert find_by_name(entry).path == Path("prebuilt/tiny-robust.pt")
    save_network(tmp_path / "prebuilt" / "tiny-robust.safetensors", *read_pt(tmp_path / "home" / entry.file))
    assert find_by_name(entry).path == Path("prebuilt/tiny-robust.safetensors")


def test_a_wrong_file_of_the_right_name_is_refused(entry, tmp_path):
    wrong = tmp_path / "prebuilt" / entry.file
    wrong.parent.mkdir()
    wrong.write_bytes(b"half a download")
    sha256 = hashlib.sha256(b"half a download").hexdigest()
    message = refusal(find_by_name, entry)
    assert message == f"prebuilt/tiny-robust.pt is not tiny-robust: expected sha256 {entry.sha256}, got {sha256}"


@pytest.mark.parametrize("origin", [None, "0" * 64])
def test_a_converted_file_of_other_origin_is_refused(origin, entry, tmp_path):
    classifier, provenance = make_network()
    provenance = dataclasses.replace(provenance, source_sha256=origin)
    save_network(tmp_path / "prebuilt" / "tiny-robust.safetensors", classifier, provenance)
    message = refusal(find_by_name, entry)
    assert "prebuilt/tiny-robust.safetensors is not tiny-robust" in message
    assert f"expected sha256 of the tiny-robust.pt that it was converted from {entry.sha256}" in message
    assert message.endswith(f"got {origin or 'none'}")


def test_a_network_that_ships_as_safetensors_is_known_by_its_own_sha256(tmp_path):
    path = tmp_path / "prebuilt" / "ours.safetensors"
    save_network(path, *make_network())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = ManifestEntry("ours", "ours.safetensors", sha256, None)
    assert find_by_name(entry).provenance.name == "ours"
    message = refusal(find_by_name, entry._replace(sha256="0" * 64))
    assert message == f"prebuilt/ours.safetensors is not ours: expected sha256 {'0' * 64}, got {sha256}"
    path.unlink()
    assert f"cannot find the network ours: put ours.safetensors with sha256 {sha256} into" in refusal(
        find_by_name, entry
    )


def test_a_missing_network_is_downloaded_once(entry, server, tmp_path):
    entry = entry._replace(url=f"{server}/tiny-robust.pt")
    first = find_by_name(entry)
    assert first.path == tmp_path / "cache" / "tiny-robust.pt"
    (tmp_path / "home" / entry.file).unlink()
    again = find_by_name(entry)
    assert again.path == first.path
    assert flat(again.classifier.variables).keys() == flat(first.classifier.variables).keys()


def test_a_download_with_another_sha256_is_refused_and_not_kept(entry, server, tmp_path):
    entry = entry._replace(url=f"{server}/tiny-robust.pt", sha256="0" * 64)
    message = refusal(find_by_name, entry)
    assert "cannot download the network tiny-robust" in message
    assert "does not match the known hash" in message
    assert list((tmp_path / "cache").iterdir()) == []


# pooch leaves the connection of a "404 Not Found" to the garbage collector, called here at the end.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("missing", ["server", "file"])
def test_a_failed_download_says_what_to_put_where(missing, entry, server, tmp_path):
    if missing == "file":
        entry = entry._replace(url=f"{server}/elsewhere.pt")
    message = refusal(find_by_name, entry)
    assert message.startswith("cannot download the network tiny-robust (")
    remedy = f"put tiny-robust.pt with sha256 {entry.sha256} into ./prebuilt, $ADVX_PREBUILT or {tmp_path / 'cache'}"
    assert message.endswith(remedy)
    gc.collect()


def test_a_published_name_without_its_file_or_internet():
    # Converted or downloaded files in the clone's own prebuilt/ would be found.
    folder = Path(str(importlib.resources.files("advx_jax.prebuilt")))
    if list(folder.glob("resnet44-all.*")):
        pytest.skip(f"{folder} holds resnet44-all")
    message = refusal(resolve_network, "resnet44-all")
    assert "put resnet44-all.pt with sha256 ff8609712e0c" in message


def test_paths_of_every_kind(tmp_path):
    save_network(tmp_path / "run" / "network.safetensors", *make_network())
    (tmp_path / "saved.pt").write_bytes(as_zip(make_content()))
    (tmp_path / "saved.pth").write_bytes(as_zip(make_content()))
    expected = flat(make_network()[0].variables)
    for model, path in {
        "run": "run/network.safetensors",
        "run/": "run/network.safetensors",
        str(tmp_path / "run"): tmp_path / "run/network.safetensors",
        "run/network.safetensors": "run/network.safetensors",
        "saved.pt": "saved.pt",
        "saved.pth": "saved.pth",
    }.items():
        network = resolve_network(model)
        assert network.path == Path(path)
        found = flat(network.classifier.variables)
        assert all(found[name].tobytes() == value.tobytes() for name, value in expected.items())


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("resnet44-robst", "got 'resnet44-robst'; did you mean resnet44-robust?"),
        ("resnet44_all", "did you mean resnet44-all?"),
        ("vgg", "a .safetensors or .pt file, a training workdir, robustbench:NAME or package.module:name, got 'vgg'"),
        ("", "got ''"),
        ("missing.safetensors", "cannot read the network missing.safetensors"),
        ("missing.pt", "cannot read the network missing.pt: no such file"),
        (".", "cannot read the network network.safetensors"),
        ("x" * 5000 + ".safetensors", "cannot read the network xxx"),
        ("x" * 5000 + ".pt", "File name too long"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_what_is_no_network_is_explained(model, said):
    assert said in refusal(resolve_network, model)


def test_the_cache_folder_can_be_chosen(tmp_path, monkeypatch):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("ADVX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "advx_jax"


def test_a_damaged_file_that_ships_is_refused_also_by_its_path(tmp_path, monkeypatch):
    shipped = Path(str(importlib.resources.files("advx_jax.prebuilt"))) / "resnet20-quick-robust.safetensors"
    assert resolve_network(str(shipped)).provenance.name == "resnet20-quick-robust"
    damaged = bytearray(shipped.read_bytes())
    damaged[-1] ^= 1
    path = tmp_path / "shipped" / shipped.name
    path.parent.mkdir()
    path.write_bytes(damaged)
    # Elsewhere, a file of that name may be anybody's own.
    resolve_network(str(path))
    monkeypatch.setattr(registry, "shipped_folder", lambda: path.parent)
    assert "is not resnet20-quick-robust: expected sha256" in refusal(resolve_network, str(path))

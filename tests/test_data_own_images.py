import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from advx_jax.data.image_set import CIFAR10_CLASSES
from advx_jax.data.own_images import OwnImages
from advx_jax.data.own_images import load_own_images as load_for_a_network
from advx_jax.errors import UserError

WHITE, BLACK, RED, GREEN = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0)
# JPEG is lossy and LANCZOS overshoots a little at edges.
COLOUR_TOLERANCE = 8


def load_own_images(names, labels=None, strict=False) -> OwnImages:
    return load_for_a_network(names, CIFAR10_CLASSES, (32, 32, 3), labels, strict)


def _noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def _load(path):
    (own,) = load_own_images([str(path)]).images
    assert own.path == path
    assert own.pixels.shape == (32, 32, 3)
    assert own.pixels.dtype == np.uint8
    return own


def test_a_colour_image_of_the_right_size_is_untouched(tmp_path):
    pixels = _noise(32, 32)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    own = _load(tmp_path / "a.png")
    np.testing.assert_array_equal(own.pixels, pixels)
    assert own.treatment == ""


def test_the_middle_square_is_taken_and_resized(tmp_path):
    # Red bars at the sides of a landscape picture must go, and nothing of the rest.
    pixels = np.zeros((480, 640, 3), np.uint8)
    pixels[:, :80] = pixels[:, 560:] = RED
    pixels[:, 80:320] = GREEN
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    own = _load(tmp_path / "photo.png")
    assert own.treatment == "photo.png: 640x480, centre-cropped to 480x480 and resized to 32x32"
    assert own.pixels[..., 0].max() <= COLOUR_TOLERANCE
    assert own.pixels[:, :15, 1].min() >= 255 - COLOUR_TOLERANCE
    assert own.pixels[:, 17:, 1].max() <= COLOUR_TOLERANCE


def test_a_portrait_picture_is_cropped_above_and_below(tmp_path):
    pixels = np.zeros((64, 32, 3), np.uint8)
    pixels[:16] = pixels[48:] = RED
    pixels[16:48] = _noise(32, 32)
    Image.fromarray(pixels).save(tmp_path / "tall.bmp")
    own = _load(tmp_path / "tall.bmp")
    np.testing.assert_array_equal(own.pixels, pixels[16:48])
    assert own.treatment == "tall.bmp: 32x64, centre-cropped to 32x32"


def test_shrinking_averages(tmp_path):
    # A fine chequerboard becomes grey; picking single pixels would keep it black and white.
    rows, columns = np.indices((320, 320))
    board = ((rows + columns) % 2 * 255).astype(np.uint8)
    Image.fromarray(np.stack([board] * 3, -1)).save(tmp_path / "board.png")
    own = _load(tmp_path / "board.png")
    assert np.abs(own.pixels.astype(int) - 127).max() <= COLOUR_TOLERANCE


def test_a_tiny_image_is_enlarged(tmp_path):
    Image.new("RGB", (1, 1), GREEN).save(tmp_path / "dot.png")
    own = _load(tmp_path / "dot.png")
    assert (own.pixels == GREEN).all()
    assert own.treatment == "dot.png: 1x1, resized to 32x32"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white(tmp_path, mode):
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 16, 32))
    path = tmp_path / "see-through.png"
    if mode == "P":
        palette = Image.new("P", (32, 32), 1)
        palette.putpalette([0, 0, 0, 9, 9, 9])
        palette.paste(0, (0, 0, 16, 32))
        palette.save(path, transparency=1)
    else:
        image.convert(mode).save(path)
    own = _load(path)
    assert (own.pixels[:, :16] == BLACK).all()
    assert (own.pixels[:, 16:] == WHITE).all()
    assert own.treatment == "see-through.png: 32x32, transparent parts laid over white"


def test_half_transparent_parts_are_mixed_with_white(tmp_path):
    Image.new("RGBA", (32, 32), (0, 0, 0, 128)).save(tmp_path / "veil.png")
    assert (_load(tmp_path / "veil.png").pixels == 127).all()


def test_grey_palette_and_black_and_white_become_rgb(tmp_path):
    ramp = np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    own = _load(tmp_path / "grey.png")
    np.testing.assert_array_equal(own.pixels, np.stack([ramp] * 3, -1))
    assert own.treatment == "grey.png: 32x32, grey turned into RGB"

    Image.fromarray(ramp > 100).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(_load(tmp_path / "bits.png").pixels[..., 2], (ramp > 100) * np.uint8(255))

    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, *GREEN])
    palette.save(tmp_path / "palette.gif")
    own = _load(tmp_path / "palette.gif")
    assert (own.pixels == GREEN).all()
    assert own.treatment.endswith("turned into RGB")


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    own = _load(tmp_path / "deep.png")
    np.testing.assert_array_equal(own.pixels[..., 0], np.round(ramp / 257).astype(np.uint8))
    assert "16-bit grey turned into RGB" in own.treatment


def _pgm(values: np.ndarray, largest: int) -> bytes:
    height, width = values.shape
    return f"P5 {width} {height} {largest}\n".encode() + values.astype(">u2").tobytes()


@pytest.mark.parametrize("largest", [65535, 1023])
def test_sixteen_bit_pgm_keeps_its_range(tmp_path, largest):
    ramp = np.linspace(0, largest, 32 * 32).reshape(32, 32).astype(np.uint16)
    (tmp_path / "deep.pgm").write_bytes(_pgm(ramp, largest))
    own = _load(tmp_path / "deep.pgm")
    # Pillow rounds to 16 bits before we round to 8: a value halfway between two may go either way.
    np.testing.assert_allclose(own.pixels[..., 0], ramp / largest * 255, atol=0.51)
    assert "16-bit grey turned into RGB" in own.treatment
    text = f"P2 32 32 {largest}\n" + " ".join(map(str, ramp.ravel()))
    (tmp_path / "text.pgm").write_text(text)
    np.testing.assert_array_equal(_load(tmp_path / "text.pgm").pixels, own.pixels)


def test_sixteen_bit_tiff_keeps_its_range_in_either_byte_order(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "little.tiff")
    Image.fromarray(ramp.astype(">u2")).save(tmp_path / "big.tiff")
    for name in ("little.tiff", "big.tiff"):
        np.testing.assert_array_equal(_load(tmp_path / name).pixels[..., 1], np.round(ramp / 257).astype(np.uint8))


def _tiff(values: np.ndarray, bits: int, photometric: int) -> bytes:
    """A grey TIFF; 12 bits are packed, 16 are little-endian."""
    packed = np.unpackbits(values.astype(">u2")[..., None].view(np.uint8), axis=-1)[..., -bits:]
    data = values.astype("<u2").tobytes() if bits == 16 else np.packbits(packed.ravel()).tobytes()
    (height, width), (long, n_tags) = values.shape, (4, 9)
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    directory = b"".join(struct.pack("<HHII", tag, long, 1, value) for tag, value in [*tags, (279, len(data))])
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", n_tags) + directory + bytes(4)


@pytest.mark.parametrize(("bits", "photometric"), [(16, 1), (16, 0), (12, 1)])
def test_deep_grey_tiff_is_scaled_and_turned_round_as_it_says(tmp_path, bits, photometric):
    largest = 2**bits - 1
    ramp = np.linspace(0, largest, 32 * 32).reshape(32, 32).astype(np.uint16)
    (tmp_path / "deep.tiff").write_bytes(_tiff(ramp, bits, photometric))
    own = _load(tmp_path / "deep.tiff")
    brightness = ramp / largest if photometric else 1 - ramp / largest
    np.testing.assert_array_equal(own.pixels[..., 0], np.round(brightness * 255))
    assert f"{bits}-bit grey turned into RGB" in own.treatment


def test_print_colours_become_rgb(tmp_path):
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "print.tiff")
    own = _load(tmp_path / "print.tiff")
    assert (own.pixels == RED).all()
    assert own.treatment == "print.tiff: 32x32, CMYK turned into RGB"


@pytest.mark.skipif(not features.check_module("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path):
    Image.new("RGB", (32, 32), RED).save(tmp_path / "photo.avif", quality=100)
    assert np.abs(_load(tmp_path / "photo.avif").pixels.astype(int) - RED).max() <= COLOUR_TOLERANCE


def _iso_media(*brands: bytes) -> bytes:
    box = b"ftyp" + brands[0] + bytes(4) + b"".join(brands)
    return (len(box) + 4).to_bytes(4) + box + bytes(64)


@pytest.mark.parametrize("brands", [(b"heic", b"mif1"), (b"mif1", b"heic")])
def test_heic_names_what_reads_it(tmp_path, brands, monkeypatch):
    (tmp_path / "phone.heic").write_bytes(_iso_media(*brands))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "HEIC needs the package pillow-heif (pip install pillow-heif)" in _refused(tmp_path / "phone.heic")


def test_avif_names_what_reads_it(tmp_path, monkeypatch):
    (tmp_path / "photo.avif").write_bytes(_iso_media(b"mif1", b"avif"))
    monkeypatch.delitem(features.modules, "avif", raising=False)
    assert "AVIF needs Pillow 11.3 or newer" in _refused(tmp_path / "photo.avif")


def test_heic_is_read_where_the_package_is(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 64), RED)).save(tmp_path / "phone.heic", quality=100)
    assert np.abs(_load(tmp_path / "phone.heic").pixels.astype(int) - RED).max() <= COLOUR_TOLERANCE


def test_floating_point_images_are_refused(tmp_path):
    Image.fromarray(np.ones((32, 32), np.float32)).save(tmp_path / "float.tiff")
    assert "float.tiff: expected 8 or 16 bits a channel, got 32" in _refused(tmp_path / "float.tiff")
    Image.fromarray(np.full((32, 32), 70_000, np.int32)).save(tmp_path / "long.tiff")
    assert "long.tiff: expected 8 or 16 bits a channel, got 32" in _refused(tmp_path / "long.tiff")


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_a_photo_lying_on_its_side_is_turned(tmp_path, suffix):
    # Orientation 6: the camera was turned; the stored left edge is the top.
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32] = RED
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / f"phone.{suffix}", exif=exif, quality=95)
    own = _load(tmp_path / f"phone.{suffix}")
    assert own.treatment == f"phone.{suffix}: 64x64, turned upright as its EXIF data says, resized to 32x32"
    assert own.pixels[:12, :, 0].min() > 200
    assert own.pixels[20:, :, 0].max() < 50


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    first, second = Image.new("RGB", (32, 32), RED), Image.new("RGB", (32, 32), GREEN)
    first.save(tmp_path / "moving.webp", save_all=True, append_images=[second], lossless=True)
    own = _load(tmp_path / "moving.webp")
    assert (own.pixels == RED).all()
    assert "the first of 2 frames" in own.treatment


def test_a_name_with_brackets_is_a_name(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "cat [1].png")
    assert _load(tmp_path / "cat [1].png").treatment == ""


def test_good_files_are_taken_and_bad_ones_named_with_the_reason(tmp_path):
    Image.new("RGB", (32, 32), RED).save(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    own = load_own_images([str(tmp_path), str(tmp_path / "gone.png")])
    assert [image.path.name for image in own.images] == ["good.png"]
    assert {Path(name).name: reason for name, reason in own.left_out} == {
        "folder.png": "it is a folder",
        "gone.png": "there is no such file",
        "empty.png": "expected an image, got an empty file",
        "text.png": "expected an image (PNG, JPEG, GIF, BMP, TIFF, WEBP, PPM), got something else",
    }
    with pytest.raises(
        UserError, match=r"\(strict\), got 4 other: .*folder\.png: it is a folder; .*gone\.png: there is no such file"
    ):
        load_own_images([str(tmp_path), str(tmp_path / "gone.png")], strict=True)
    (tmp_path / "good.png").unlink()
    with pytest.raises(UserError, match=r"expected image files, got none that can be read: .*folder"):
        load_own_images([str(tmp_path)])


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "got a folder or a device" in _refused(tmp_path / "pipe.png")


def test_class_folders_label_their_images(tmp_path):
    for name in ("dog", "Cat"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "1.png")
    own = load_own_images([str(tmp_path)]).images
    assert [(image.path.parent.name, image.label) for image in own] == [("Cat", 3), ("dog", 5)]


def test_a_table_labels_images_and_may_choose_them(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    table = tmp_path / "labels.csv"
    table.write_text("file,label\nb.png,frog\na.png,8\ngone.png,cat\n")
    own = load_own_images([], table)
    assert [(image.path.name, image.label) for image in own.images] == [("b.png", 6), ("a.png", 8)]
    assert own.left_out == [(str(tmp_path / "gone.png"), "cannot be read: No such file or directory")]
    own = load_own_images([str(tmp_path / "a.png")], table)
    assert [(image.path.name, image.label) for image in own.images] == [("a.png", 8)]
    Image.new("RGB", (32, 32)).save(tmp_path / "c.png")
    with pytest.raises(UserError, match=r"expected a row for each image in .*labels\.csv, got none for .*c\.png$"):
        load_own_images([str(tmp_path)], table)


def _refused(path) -> str:
    with pytest.raises(UserError) as caught:
        load_own_images([str(path)])
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_file_that_is_no_image_is_an_error(tmp_path):
    path = tmp_path / "text.png"
    path.write_text("no image")
    assert "got something else" in _refused(path)
    path.write_bytes(b"")
    assert "got an empty file" in _refused(path)


def test_postscript_is_not_handed_to_a_program(tmp_path):
    path = tmp_path / "drawing.eps"
    Image.new("RGB", (32, 32)).save(path)
    assert "got something else" in _refused(path)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_truncated_and_mutated_files_are_read_or_refused_in_one_line(tmp_path, form):
    stream = io.BytesIO()
    Image.fromarray(_noise(40, 40)).save(stream, form)
    whole = stream.getvalue()
    path = tmp_path / f"image.{form.lower()}"
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in _refused(path)

    rng = np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 200), 3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            _load(path)
        except UserError as error:
            assert "\n" not in str(error), error  # noqa: PT017 (either outcome is right)


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_header(side, side))
    assert "expected an image of at most 89478485 pixels" in _refused(path)

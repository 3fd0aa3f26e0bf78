"""What files mean is what is read: depths, byte orders, layers, pyramids, gamma, profiles, and levels for nothing."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from gpukmeans import ImageError, quantize
from gpukmeans.cli.main import main
from gpukmeans.image.files.read import read

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (30, 40, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (30, 40, 4)).astype(np.uint16)
SHARES = (DEEP / np.float64(65535)).astype(np.float32)


def run(*argv):
    return main(["quantize", *map(str, argv)])


def levels_of(data, **options):
    return read(data, **options).levels


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, depth, color, row, *extra, rows=2):
    """One that is written by hand; color: PNG's type."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, rows, depth, color, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress((b"\0" + row) * rows))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*each) for each in extra) + body + chunk(b"IEND", b"")


# ---------------------------------------------------------------- TIFF


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 7}])
def test_sixteen_bits_of_either_byte_order(order, how):
    """Of grey all of them, as Pillow reads them; of colors the upper eight."""
    assert (levels_of(tiff(DEEP[..., 0].copy(), byteorder=order, **how))[..., 0] == DEEP[..., 0]).all()
    found = levels_of(tiff(DEEP[..., :3].copy(), byteorder=order, photometric="rgb", **how))
    assert (found == DEEP[..., :3] >> 8).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_floats_from_zero_to_one(order, dtype, channels):
    values = SHARES[..., :channels].astype(dtype)
    how = {} if channels == 1 else {"photometric": "rgb"}
    if channels == 4:
        how["extrasamples"] = ["unassalpha"]
        values[..., 3] = 1
    found = levels_of(tiff(values.squeeze(), byteorder=order, **how))
    assert (found == np.rint(values.astype(np.float64) * 65535)[..., : found.shape[2]]).all()
    assert found.shape[2] == min(channels, 3)


def test_tiffs_of_any_layout():
    planes = np.moveaxis(DEEP[..., :3], -1, 0).copy()
    assert (levels_of(tiff(planes, photometric="rgb", planarconfig="separate")) == DEEP[..., :3]).all()
    planes = np.moveaxis(COLORS, -1, 0).copy()
    assert (levels_of(tiff(planes, photometric="rgb", planarconfig="separate")) == COLORS).all()
    white_is_zero = {"photometric": "miniswhite"}
    assert (levels_of(tiff(DEEP[..., 0].copy(), **white_is_zero))[..., 0] == 65535 - DEEP[..., 0]).all()
    assert (levels_of(tiff(COLORS[..., 0].copy(), **white_is_zero))[..., 0] == 255 - COLORS[..., 0]).all()
    grey_and_alpha = levels_of(tiff(DEEP[..., :2].copy(), photometric="minisblack", extrasamples=["unassalpha"]))
    seen = DEEP[..., 1:2] > 0
    assert (grey_and_alpha == np.where(seen, DEEP[..., [0, 0, 0, 1]], 0)).all()


def test_floats_of_another_range(tmp_path, capsys):
    """As the file says, or as the caller does, who has the last word; or it is said what they are."""
    values = (SHARES[..., 0] * 200 - 50).astype(np.float32)
    (tmp_path / "a.tif").write_bytes(tiff(values))
    assert run(tmp_path / "a.tif", tmp_path / "b.png") == 1
    said = capsys.readouterr().err
    assert "values in [0, 1], these are from -4" in said
    assert "--range" in said
    assert run(tmp_path / "a.tif", tmp_path / "b.png", "--range", "-50", "150", "-k", "65536") == 0
    expected = np.rint((values.astype(np.float64) + 50) / 200 * 65535)
    assert (levels_of(tmp_path / "a.tif", value_range=(-50, 150))[..., 0] == expected).all()
    tags = [(340, 11, 1, -50.0, True), (341, 11, 1, 150.0, True)]
    assert (levels_of(tiff(values, extratags=tags))[..., 0] == expected).all()
    assert (levels_of(tiff(values, extratags=tags), value_range=(0, 100)).max()) == 65535
    integers = (SHARES[..., 0] * 2**20).astype(np.int32)
    with pytest.raises(ImageError, match="do not fit 16 bits: say what black and white are with --range"):
        read(tiff(integers))
    assert (levels_of(tiff(integers), value_range=(0, 2**20))[..., 0] == np.rint(integers / 2**20 * 65535)).all()
    with pytest.raises(ImageError, match="no numbers"):
        read(tiff(np.full((4, 4), np.nan, np.float32)), value_range=(0, 1))


@pytest.mark.parametrize("tagged", [True, False])
def test_of_a_pyramid_the_largest_level(tagged, tmp_path):
    """Its other levels are tagged as such, or half as large each time."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for i, step in enumerate((1, 2, 4)):
            part = np.ascontiguousarray(COLORS[::step][: 30 // step, ::step])
            file.write(part, photometric="rgb", subfiletype=1 if tagged and i else 0)
    assert (levels_of(buffer.getvalue()) == COLORS).all()
    assert (levels_of(buffer.getvalue(), page=2) == COLORS[::2, ::2]).all()


def test_a_page_is_chosen_or_asked_for(tmp_path, capsys):
    pages = [Image.fromarray(COLORS), Image.fromarray(255 - COLORS)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert run(tmp_path / "a.tif", tmp_path / "b.png") == 1
    assert "holds 2 pictures: choose one with --page (from 1 to 2)" in capsys.readouterr().err
    assert run(tmp_path / "a.tif", tmp_path / "b.png", "--page", "3") == 1
    assert "has 2 pages, and no page 3" in capsys.readouterr().err
    for page, colors in ((1, COLORS), (2, 255 - COLORS)):
        assert run(tmp_path / "a.tif", tmp_path / "b.png", "--page", page, "-k", "9") == 0
        with Image.open(tmp_path / "b.png") as image:
            assert (np.asarray(image.convert("RGB")) == quantize(colors, 9).to_array()).all()


# ---------------------------------------------------------------- PSD


def layered_psd():
    """Written by hand: two layers of one pixel each, and the composite, which is something else."""
    h, w = COLORS.shape[:2]
    layers = struct.pack(">h", 2)
    for i in range(2):
        layers += struct.pack(">4i", i, i, i + 1, i + 1) + struct.pack(">H", 3)
        layers += b"".join(struct.pack(">hI", c, 3) for c in range(3))
        name = b"\1x\0\0"
        extra = struct.pack(">II", 0, 0) + name
        layers += b"8BIMnorm" + bytes([255, 0, 0, 0]) + struct.pack(">I", len(extra)) + extra
    layers += b"".join(struct.pack(">HB", 0, 77) for _ in range(6))
    layers += b"\0" * (len(layers) % 2)
    section = struct.pack(">I", len(layers)) + layers
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, h, w, 8, 3) + struct.pack(">II", 0, 0)
    return head + struct.pack(">I", len(section)) + section + b"\0\0" + np.moveaxis(COLORS, -1, 0).tobytes()


def test_of_layers_the_composite():
    with Image.open(io.BytesIO(layered_psd())) as image:
        assert image.n_frames == 2
    assert (levels_of(layered_psd()) == COLORS).all()


# ---------------------------------------------------------------- levels for nothing


@pytest.mark.parametrize(
    ("depth", "row", "clear", "levels"),
    [
        (1, b"\xa0", 1, [255, 0, 255, 0, 0, 0, 0, 0]),
        (2, b"\x1b", 2, [0, 85, 170, 255]),
        (4, b"\x1b\xf0", 11, [17, 187, 255, 0]),
        (8, b"\x1b\xf0\0", 0x1B, [27, 240, 0]),
        (16, struct.pack(">4H", 0, 257, 256, 65535), 257, [0, 257, 256, 65535]),
    ],
)
def test_a_level_for_nothing_in_any_depth(depth, row, clear, levels):
    found = levels_of(png(len(levels), depth, 0, row, (b"tRNS", struct.pack(">H", clear))))
    scaled = clear * {1: 255, 2: 85, 4: 17}.get(depth, 1)
    top = 65535 if depth == 16 else 255
    assert found[0].tolist() == [[0] * 4 if level == scaled else [level] * 3 + [top] for level in levels]


@pytest.mark.parametrize("depth", [8, 16])
def test_a_color_for_nothing(depth):
    kind, top = (">6B", 255) if depth == 8 else (">6H", 65535)
    row = struct.pack(kind, 0x12 * (257 if depth == 16 else 1), 0, 7, top, 0, 7)
    first = struct.unpack(">3B" if depth == 8 else ">3H", row[: len(row) // 2])
    found = levels_of(png(2, depth, 2, row, (b"tRNS", struct.pack(">3H", *first))))
    assert found[0].tolist() == [[0, 0, 0, 0], [255, 0, 7 if depth == 8 else 0, 255]]


# ---------------------------------------------------------------- gamma and profiles


def srgb_of(linear):
    """sRGB's definition."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("gamma", [1.0, 0.55, 0.45455, 0.45])
@pytest.mark.parametrize("kind", ["grey", "grey16", "rgb", "rgba", "indexed"])
def test_gamma_is_heeded(gamma, kind):
    """Unless it is about sRGB's, of 1 / 2.2."""
    info = (b"gAMA", struct.pack(">I", round(gamma * 100000)))
    row = {
        "grey": bytes(range(256)),
        "grey16": b"".join(struct.pack(">H", 257 * i) for i in range(256)),
        "rgb": bytes(range(256)) * 3,
        "rgba": b"".join(bytes([i, i, i, 200]) for i in range(256)),
        "indexed": bytes(range(256)),
    }[kind]
    depth, color = (16 if kind == "grey16" else 8), {"grey": 0, "grey16": 0, "rgb": 2, "rgba": 6, "indexed": 3}[kind]
    extra = [info, *([(b"PLTE", np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())] if kind == "indexed" else [])]
    found = levels_of(png(256, depth, color, row, *extra))[0]
    given = np.frombuffer(row, np.uint8) if kind == "rgb" else np.arange(256)
    top = 65535 if depth == 16 else 255
    share = srgb_of((given / 255) ** (1 / gamma)) if abs(gamma * 2.2 - 1) > 0.05 else given / 255
    colors = found[..., :3].reshape(-1) if kind == "rgb" else found[..., 0]
    assert (colors == np.rint(share * top)).all()
    if kind == "rgba":
        assert (found[..., 3] == 200).all()


def test_a_picture_that_says_it_is_srgb_is_left_as_it_is():
    linear = (b"gAMA", struct.pack(">I", 100000))
    data = png(4, 8, 0, b"\0\x40\x80\xff", (b"sRGB", b"\0"), linear)
    assert levels_of(data)[0, :, 0].tolist() == [0, 64, 128, 255]


def grey_profile(gamma):
    """ICC's, of grey, version 2: a curve, and the white point of D50."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    text = b"text" + bytes(4) + b"none\0" + bytes(3)
    desc = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(78) + bytes(1)
    parts, tags, at = b"", [], 128 + 4 + 12 * 4
    for name, data in ((b"kTRC", curve), (b"wtpt", white), (b"cprt", text), (b"desc", desc)):
        data += b"\0" * (-len(data) % 4)
        tags.append(name + struct.pack(">II", at + len(parts), len(data)))
        parts += data
    size = 128 + 4 + 12 * 4 + len(parts)
    head = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(24) + bytes(4)
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", 4) + b"".join(tags) + parts


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "deep", "alpha"])
def test_a_profile_of_grey_is_heeded(kind, tmp_path):
    """A picture in linear light looks as it says, and none is written with a profile that does not fit."""
    ImageCms.ImageCmsProfile(io.BytesIO(grey_profile(1.0)))
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    path = tmp_path / f"a.{'png' if kind in ('deep', 'alpha') else kind}"
    if kind == "alpha":
        Image.merge("LA", [Image.fromarray(ramp), Image.new("L", (256, 4), 99)]).save(
            path, icc_profile=grey_profile(1.0)
        )
    elif kind == "deep":
        Image.fromarray(ramp.astype(np.uint16) * 257).save(path, icc_profile=grey_profile(1.0))
    else:
        how = {"quality": 100} if kind == "jpg" else {}
        Image.fromarray(ramp).save(path, icc_profile=grey_profile(1.0), **how)
    with Image.open(path) as image:
        given = np.asarray(image)[0].reshape(256, -1)[:, 0] / (65535 if kind == "deep" else 255)
    found = levels_of(path)[0]
    top = 65535 if kind == "deep" else 255
    assert np.abs(found[:, 0] - srgb_of(given) * top).max() <= (600 if kind == "deep" else 1)
    if kind == "alpha":
        assert (found[:, 3] == 99).all()
    quantize(path, 9).save(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.info.get("icc_profile") is None


# ---------------------------------------------------------------- what else a file says


def adobe_like():
    """A profile of red, green and blue that is not sRGB: its curves are straight."""
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", srgb, 128)
    for i in range(count):
        name, at, size = struct.unpack_from(">4sII", srgb, 132 + 12 * i)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            srgb[at : at + size] = (b"curv" + bytes(4) + struct.pack(">I", 0)).ljust(size, b"\0")
    return bytes(srgb)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_strip_drops_all_and_changes_no_look(orientation, tmp_path):
    """The picture is turned, and its colors are sRGB's."""
    profile, exif = adobe_like(), Image.Exif()
    exif[274], exif[271] = orientation, "camera"
    exif.get_ifd(0x8825)[1] = "N"
    flat = COLORS // 64 * 64
    Image.fromarray(flat).save(tmp_path / "a.png", icc_profile=profile, exif=exif, dpi=(300, 300))
    assert run(tmp_path / "a.png", tmp_path / "b.png", "-k", "256", "--strip") == 0
    with Image.open(tmp_path / "b.png") as image:
        assert not {"icc_profile", "exif", "dpi"} & {*image.info}
        found = np.asarray(image.convert("RGB"))
    upright = {
        1: flat,
        2: flat[:, ::-1],
        3: flat[::-1, ::-1],
        4: flat[::-1],
        5: flat.swapaxes(0, 1),
        6: np.rot90(flat, -1),
        7: np.rot90(flat)[:, ::-1],
        8: np.rot90(flat),
    }[orientation]
    assert found.shape == upright.shape
    assert np.abs(found - srgb_of(upright / 255) * 255).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "gif"])
def test_what_is_kept_and_what_is_dropped(suffix, tmp_path):
    """Profile, orientation and resolution are kept where the format has room; GPS and the rest are not."""
    profile, exif = adobe_like(), Image.Exif()
    exif[274], exif[271] = 6, "camera"
    exif.get_ifd(0x8825)[1] = "N"
    Image.fromarray(COLORS).save(tmp_path / "a.jpg", icc_profile=profile, exif=exif, dpi=(300, 300), comment=b"hello")
    assert run(tmp_path / "a.jpg", tmp_path / f"b.{suffix}", "-k", "9") == 0
    with Image.open(tmp_path / f"b.{suffix}") as image:
        found = image.getexif()
        assert dict(found.get_ifd(0x8825)) == {}
        assert 271 not in found
        assert "comment" not in image.info
        assert "xmp" not in image.info
        if suffix == "gif":
            assert image.size == COLORS.shape[:2], "turned, since it cannot say so"
        else:
            assert image.info["icc_profile"] == profile

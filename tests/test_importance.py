"""Maps of importance: which pixels a palette is for, and that the others are not lost."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gpukmeans import ImageError, quantize
from gpukmeans.cli.main import main
from gpukmeans.image import weighting

RNG = np.random.default_rng(0)
# Noise of blue left, of red right.
PICTURE = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
PICTURE[:, :15, 0] = 0
PICTURE[:, 15:, 2] = 0
LEFT = np.zeros((20, 30), np.uint8)
LEFT[:, :15] = 255


def error(result, columns):
    return ((result.to_array()[:, columns].astype(int) - PICTURE[:, columns]) ** 2).sum()


@pytest.mark.parametrize("dither", ["none", "floyd-steinberg", "bayer"])
def test_the_palette_is_for_what_is_white(dither):
    plain = quantize(PICTURE, 8, space="rgb", dither=dither)
    found = quantize(PICTURE, 8, space="rgb", dither=dither, importance=LEFT)
    assert error(found, slice(0, 15)) < error(plain, slice(0, 15))
    assert error(found, slice(15, 30)) > error(plain, slice(15, 30))
    assert (found.palette[:, 0] <= 128).all()


def test_a_map_is_weights():
    grey = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
    found = quantize(PICTURE, 8, importance=grey)
    expected = quantize(PICTURE, 8, weights=grey / 255)
    assert (found.palette == expected.palette).all()
    assert (found.indices == expected.indices).all()
    both = quantize(PICTURE, 8, importance=grey, weights=grey)
    assert (both.palette == quantize(PICTURE, 8, weights=grey / 255 * grey).palette).all()


def test_all_white_is_no_map():
    found, expected = quantize(PICTURE, 8, importance=np.full((20, 30), 255, np.uint8)), quantize(PICTURE, 8)
    assert (found.palette == expected.palette).all()
    assert (found.indices == expected.indices).all()
    assert found.psnr == expected.psnr


def test_a_map_of_any_kind_is_the_same(tmp_path):
    expected = quantize(PICTURE, 8, importance=LEFT)
    Image.fromarray(LEFT).save(tmp_path / "grey.png")
    Image.fromarray(LEFT).convert("1").save(tmp_path / "bits.png")
    Image.fromarray(LEFT).convert("RGB").save(tmp_path / "rgb.bmp")
    Image.fromarray(LEFT).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(LEFT.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    maps = [tmp_path / name for name in ("grey.png", "bits.png", "rgb.bmp", "palette.png", "deep.png")]
    maps += [(tmp_path / "grey.png").read_bytes(), Image.fromarray(LEFT), LEFT > 0, LEFT / 255.0]
    for each in maps:
        found = quantize(PICTURE, 8, importance=each)
        assert (found.palette == expected.palette).all()
        assert (found.indices == expected.indices).all()


def test_what_is_black_has_the_colors_that_are_left_over():
    """All colors of the left are in the palette; what room there is is the right's, and none is empty."""
    picture = PICTURE.copy()
    picture[:, :15] = picture[0, :4].repeat([4, 4, 4, 3], axis=0)
    found = quantize(picture, 12, importance=LEFT)
    assert (found.to_array()[:, :15] == picture[:, :15]).all()
    assert len(found.palette) == 12
    assert (found.palette[:, 0] > 0).sum() == 8
    alone = quantize(picture, 4, importance=LEFT)
    assert found.psnr > alone.psnr + 3
    every = quantize(np.array([[[1, 2, 3], [200, 3, 4], [9, 9, 200]]], np.uint8), 4, importance=[[1.0, 0.0, 0.0]])
    assert every.psnr == np.inf


@pytest.mark.parametrize("k", [2, 5, 256])
def test_what_is_transparent_stays_so_under_black(k):
    picture = np.dstack([PICTURE, np.where(np.arange(30) < 20, 255, 0).astype(np.uint8).repeat(20).reshape(30, 20).T])
    found = quantize(picture, k, importance=LEFT).to_array()
    assert ((found[..., 3] == 0) == (picture[..., 3] == 0)).all()


def test_what_is_opaque_and_black_never_becomes_transparent():
    picture = np.zeros((4, 6, 4), np.uint8)
    picture[:, :2, 3] = 255  # black, and nothing else that is opaque counts
    picture[:, 2:4] = [250, 250, 250, 255]
    importance = np.zeros((4, 6), np.uint8)
    importance[:, :2] = 255
    for k in (2, 3):
        found = quantize(picture, k, importance=importance).to_array()
        assert (found[..., 3] == picture[..., 3]).all()


def test_kept_colors_stay_beside_a_map():
    found = quantize(PICTURE, 5, keep=np.array([[255, 255, 255]], np.uint8), importance=LEFT)
    assert found.palette[0].tolist() == [255, 255, 255]
    assert (found.palette[1:, 0] <= 128).all()


def test_a_map_is_for_all_frames_or_has_as_many():
    film = np.stack([PICTURE, PICTURE[::-1], PICTURE])
    one, three = quantize(film, 8, importance=LEFT), quantize(film, 8, importance=np.stack([LEFT] * 3)[..., None])
    assert (one.palette == three.palette).all()
    assert (one.palette == quantize(film, 8, weights=np.stack([LEFT] * 3)).palette).all()


def test_a_map_is_laid_over_the_picture_as_it_is_seen(tmp_path):
    """A camera's pictures lie on their side, and say so; their map does not."""
    exif = Image.Exif()
    seen = np.swapaxes(PICTURE, 0, 1)[:, ::-1]  # turned to the right
    exif[0x0112] = 6
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif)
    map = np.swapaxes(LEFT, 0, 1)[:, ::-1]
    expected = quantize(seen, 8, importance=map)
    found = quantize(tmp_path / "a.png", 8, importance=map)
    assert (found.palette == expected.palette).all()
    Image.fromarray(LEFT).save(tmp_path / "map.png", exif=exif)
    assert (quantize(tmp_path / "a.png", 8, importance=tmp_path / "map.png").palette == expected.palette).all()
    exif[0x0112] = 3
    Image.fromarray(PICTURE).save(tmp_path / "b.png", exif=exif)
    turned = quantize(tmp_path / "b.png", 8, importance=LEFT[::-1, ::-1])
    assert (turned.palette == quantize(PICTURE, 8, importance=LEFT).palette).all()


@pytest.mark.parametrize(
    ("map", "message"),
    [
        (LEFT.T, "as large as the picture, 30 x 20 pixels, and this one has 20 x 30"),
        (LEFT[:-1], "30 x 20 pixels, and this one has 30 x 19"),
        (np.stack([LEFT] * 2)[..., None], "30 x 20 pixels, and this one has 30 x 20, 2 frames of them"),
        (PICTURE, "is grey, .* has colors"),
        (np.dstack([LEFT] * 4), "has transparent pixels"),
        (np.zeros((20, 30), np.uint8), "no pixel counts"),
        (LEFT - 1.0, r"values in \[0, 1\]"),
        ("missing", "missing"),
    ],
)
def test_what_is_no_map(map, message):
    with pytest.raises(OSError if isinstance(map, str) else ImageError, match=message):
        quantize(PICTURE, 8, importance=map)


# ---------------------------------------------------------------- the command


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "in.png")
    Image.fromarray(LEFT).save(tmp_path / "map.png")
    return tmp_path


def run(*argv):
    return main(["quantize", *map(str, argv)])


def test_the_command_takes_a_map(folder):
    assert run(folder / "in.png", folder / "out.png", "-k", 8, "--importance", folder / "map.png") == 0
    with Image.open(folder / "out.png") as image:
        found = np.asarray(image.convert("RGB"))
    assert (found == quantize(PICTURE, 8, importance=LEFT).to_array()).all()
    np.save(folder / "map.npy", LEFT)
    assert run(folder / "in.png", folder / "b.png", "-k", 8, "--importance", folder / "map.npy") == 0
    assert (folder / "b.png").read_bytes() == (folder / "out.png").read_bytes()


def test_bands_with_a_map_or_kept_colors_are_the_whole_picture(folder):
    for name, more in ("map", ["--importance", folder / "map.png"]), ("keep", ["--keep", "#fff", "--keep", "#000"]):
        for bands in [], ["--bands"]:
            target = folder / f"{name}{len(bands)}.tif"
            assert run(folder / "in.png", target, "-k", 8, *more, *bands) == 0
        assert (folder / f"{name}0.tif").read_bytes() == (folder / f"{name}1.tif").read_bytes()


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--importance", "small.png"], 1, "in.png: a map of importance is as large as the picture, 30 x 20 pixels"),
        (["--importance", "in.png"], 1, "in.png: a map of importance is grey"),
        (["--importance", "none.png"], 1, "none.png: No such file"),
        (["--importance", "out.png"], 1, "would be written over out.png, which is read"),
        (["--importance", "map.png", "--shared-palette"], 2, "need a palette for each picture"),
        (["--importance", "map.png", "--palette", "in.png"], 2, "need a palette for each picture"),
    ],
)
def test_what_the_command_says_of_no_map(more, status, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    Image.fromarray(LEFT[:9]).save("small.png")
    Image.fromarray(LEFT).save("out.png")
    try:
        found = run("in.png", "out.png", *more)
    except SystemExit as error:
        found = error.code
    assert found == status
    assert message in capsys.readouterr().err
    with Image.open("out.png") as image:
        assert image.mode == "L", "nothing was written"


def few_far_pixels():
    """Greenish noise, and 14 pixels of a red that a palette of eight colors has no use for."""
    rng = np.random.default_rng(0)
    picture = rng.normal(0, 1, (80, 90, 1)) * 30 + 120 + rng.normal(0, 12, (80, 90, 3))
    picture = picture.clip(0, 255).astype(np.uint8)
    picture[rng.random((80, 90)) < 0.002] = 230, 60, 40
    return picture


def stray_dots(picture, **how):
    """How many pixels are 80 levels of 8 bits or more from what they were in eight diffused colors, and these."""
    found = quantize(picture, 8, dither="floyd-steinberg", device="cpu", **how)
    assert found.converged
    apart = np.abs(found.palette[found.indices].astype(int) - picture).max(axis=2)
    return np.count_nonzero(apart >= 80 * (np.iinfo(picture.dtype).max // 255)), found.palette


@pytest.mark.parametrize("level", [np.uint8(1), np.uint16(257)])
def test_a_palette_that_is_diffused_reaches_out_for_stray_dots(monkeypatch, level):
    picture = few_far_pixels() * level
    assert stray_dots(picture)[0] < 5
    monkeypatch.setattr(weighting, "_MOST_COLORS", 0)
    assert stray_dots(picture)[0] > 10


def test_the_other_pixels_do_not_pay_for_stray_dots(monkeypatch):
    picture = few_far_pixels()
    with monkeypatch.context() as patch:
        patch.setattr(weighting, "_MOST_COLORS", 0)
        _, first = stray_dots(picture)
    assert (stray_dots(picture)[1] != first).any()
    monkeypatch.setattr(weighting, "_DEARER", -1)
    assert (stray_dots(picture)[1] == first).all()


def test_a_palette_that_reaches_out_keeps_what_it_is_to_keep():
    """Kept colors stay first, and what is transparent stays so."""
    picture = few_far_pixels()
    kept = np.array([[255, 255, 255], [0, 0, 255]], np.uint8)
    assert (stray_dots(picture, keep=kept)[1][:2] == kept).all()
    alpha = np.full((80, 90, 1), 255, np.uint8)
    alpha[:20] = 0
    found = quantize(np.dstack([picture, alpha]), 8, dither="floyd-steinberg", device="cpu")
    assert (found.to_array()[..., 3] == alpha[..., 0]).all()
    assert len(found.palette) == 8
    # All grey, of which a few are far from all others.
    levels = np.concatenate([np.random.default_rng(0).integers(0, 100, 20000), [255] * 4]).astype(np.uint8)
    grey = quantize(levels[:, None], 8, dither="floyd-steinberg", device="cpu")
    assert (grey.palette == grey.palette[:, :1]).all()
    assert 255 in grey.palette

"""Animations: each frame as it is seen, for as long, as often; one palette, and still ground that does not flicker."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gpukmeans import ImageError, quantize, remap
from gpukmeans.cli.main import main
from gpukmeans.image.files.read import read

FORMATS = {"gif": "GIF", "png": "PNG", "webp": "WEBP"}
TIMES = (40, 80, 120, 500, 70, 90)


def run(*argv):
    return main(["quantize", *map(str, argv)])


def moving(alpha=False):
    """(6, 30, 44, 4): a square that moves over a ramp, with a hole that moves if alpha; the last two are equal."""
    y, x = np.mgrid[:30, :44]
    frames = []
    for i in range(5):
        frame = np.dstack([x * 5, y * 8, (x + y) * 3, np.full_like(x, 255)]).astype(np.uint8)
        frame[4:12, 3 + 6 * i : 11 + 6 * i] = [250, 10, 10, 255]
        if alpha:
            frame[16:26, 3 + 6 * i : 13 + 6 * i] = 0
        frames.append(frame)
    return np.stack([*frames, frames[-1]])


def seen(source):
    """The frames (t, h, w, 4) as Pillow shows them, with zeros for nothing, their times, and the loop."""
    with Image.open(source) as image:
        frames, times = [], []
        for i in range(image.n_frames):
            image.seek(i)
            image.load()
            frame = np.asarray(image.convert("RGBA"))
            frames.append(np.where(frame[..., 3:] > 0, frame, 0))
            times.append(image.info.get("duration"))
        return np.stack(frames), times, image.info.get("loop")


def saved(frames, path, loop=0, **options):
    """By Pillow, from frames without two that are equal, which it would make one."""
    images = [Image.fromarray(frame) for frame in frames]
    if path.suffix == ".webp":
        options["lossless"] = True
    times = [*TIMES[: len(frames)]]
    more = {} if loop is None else {"loop": loop}
    images[0].save(path, save_all=True, append_images=images[1:], duration=times, **more, **options)


def rgba(array):
    full = np.full((*array.shape[:-1], 4), 255, np.uint8)
    full[..., : array.shape[-1]] = array
    return full


@pytest.mark.parametrize("into", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("alpha", [False, True])
def test_from_any_format_into_any(source, into, alpha, tmp_path):
    frames = (moving(alpha)[:5] // 64 * 64) | (moving(alpha)[:5] == 255) * np.uint8(255)  # few colors, for GIF
    path = tmp_path / f"a.{source}"
    saved(frames, path)
    given, times, _ = seen(path)
    assert run(path, tmp_path / f"b.{into}", "-k", "9") == 0
    found, after, loop = seen(tmp_path / f"b.{into}")
    expected = rgba(quantize(given, 9).to_array())
    assert (found == expected).all()
    assert after == times
    assert loop == 0


@pytest.mark.parametrize("dither", ["none", "floyd-steinberg", "bayer", "blue-noise"])
@pytest.mark.parametrize("format", FORMATS.values())
@pytest.mark.parametrize("alpha", [False, True])
def test_arrays_of_frames(dither, format, alpha):
    """Also two that are equal: each has a time of its own."""
    result = quantize(moving(alpha), 12, dither=dither)
    assert result.indices.shape == (6, 30, 44)
    assert result.to_array().shape == (6, 30, 44, 4)
    buffer = io.BytesIO()
    result.save(buffer, format)
    found, times, loop = seen(buffer)
    assert (found == result.to_array()).all()
    assert times == [100] * 6
    assert loop == 0


def test_one_palette_is_that_of_the_frames_side_by_side():
    frames = moving()[..., :3]
    together = quantize(frames.reshape(-1, 44, 3), 12)
    result = quantize(frames, 12)
    assert result.palette.tobytes() == together.palette.tobytes()
    assert (result.indices.reshape(-1, 44) == together.indices).all()
    assert result.psnr == together.psnr
    weights = np.ones(frames.shape[:3])
    assert quantize(frames, 12, weights=weights).palette.tobytes() == result.palette.tobytes()


@pytest.mark.parametrize("dither", ["none", "floyd-steinberg", "bayer", "blue-noise"])
def test_still_ground_does_not_flicker(dither):
    frames = moving(alpha=True)
    for result in (quantize(frames, 8, dither=dither), remap(frames, quantize(frames, 8).palette, dither=dither)):
        still = (frames[1:] == frames[:-1]).all(axis=-1)
        assert still.mean() > 0.5
        assert (result.indices[1:] == result.indices[:-1])[still].all()


@pytest.mark.parametrize("dither", ["bayer", "blue-noise"])
def test_a_pattern_stays_where_it_is(dither):
    """Each frame is dithered as a picture of its own, although its height is no multiple of the pattern's."""
    frames = moving()[..., :3]
    result = quantize(frames, 8, dither=dither)
    for frame, indices in zip(frames, result.indices, strict=True):
        assert (remap(frame, result.palette, dither=dither).indices == indices).all()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("plays", [0, 1, 3])
def test_it_is_shown_as_often(suffix, plays, tmp_path):
    """A GIF says how often it is repeated."""
    loop = (None if plays == 1 else plays and plays - 1) if suffix == "gif" else plays
    saved(moving()[:3], tmp_path / f"a.{suffix}", loop=loop)
    assert read(tmp_path / f"a.{suffix}").metadata.plays == plays
    for into in FORMATS:
        assert run(tmp_path / f"a.{suffix}", tmp_path / f"b.{into}", "-k", "8") == 0
        assert read(tmp_path / f"b.{into}").metadata.plays == plays


def test_times_that_a_format_rounds_add_up_all_the_same(tmp_path):
    """GIF has hundredths of a second."""
    images = [Image.fromarray(frame) for frame in moving()[:5]]
    images[0].save(tmp_path / "a.png", save_all=True, append_images=images[1:], duration=33)
    assert run(tmp_path / "a.png", tmp_path / "b.gif", "-k", "8") == 0
    assert seen(tmp_path / "b.gif")[1] == [30, 40, 30, 30, 30]
    assert run(tmp_path / "a.png", tmp_path / "b.webp", "-k", "8") == 0
    assert seen(tmp_path / "b.webp")[1] == [33] * 5


@pytest.mark.parametrize("disposal", [1, 2, 3])
def test_frames_are_seen_after_what_their_disposal_left(disposal, tmp_path):
    frames = moving(alpha=True)[:5]
    few = [Image.fromarray(frame).quantize(16) for frame in frames]
    few[0].save(tmp_path / "a.gif", save_all=True, append_images=few[1:], duration=100, disposal=disposal, loop=0)
    given, times, _ = seen(tmp_path / "a.gif")
    for into in FORMATS:
        assert run(tmp_path / "a.gif", tmp_path / f"b.{into}", "-k", "64") == 0
        found, after, _ = seen(tmp_path / f"b.{into}")
        assert (found == given).all()
        assert after == times


def test_a_picture_that_stands_for_the_animation_is_no_frame(tmp_path):
    images = [Image.fromarray(frame) for frame in moving()[:3]]
    still = Image.new("RGBA", images[0].size, (0, 255, 0, 255))
    still.save(tmp_path / "a.png", save_all=True, append_images=images, default_image=True, duration=100)
    assert (read(tmp_path / "a.png").levels.reshape(3, 30, 44, -1) == moving()[:3, ..., :3]).all()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_palette_for_each_frame(suffix, tmp_path, capsys):
    saved(moving()[:5], tmp_path / "a.webp")
    assert run(tmp_path / "a.webp", tmp_path / f"b.{suffix}", "-k", "8", "--palette-per-frame") == 0
    found, times, _ = seen(tmp_path / f"b.{suffix}")
    assert times == [*TIMES[:5]]
    for frame, shown in zip(moving(), found, strict=False):
        assert (shown[..., :3] == quantize(frame[..., :3], 8).to_array()).all()


def test_soft_edges_and_many_colors(tmp_path, capsys):
    frames = moving()[:4].copy()
    frames[:, 20:, :, 3] = 100
    saved(frames, tmp_path / "a.webp", exact=True)
    assert run(tmp_path / "a.webp", tmp_path / "b.gif", "-k", "16") == 0
    assert "soft edges are over #ffffff" in capsys.readouterr().err
    assert (seen(tmp_path / "b.gif")[0][..., 3] == 255).all()
    assert run(tmp_path / "a.webp", tmp_path / "b.png", "-k", "400") == 0
    assert run(tmp_path / "a.webp", tmp_path / "c.gif", "-k", "400") == 1
    assert "GIF holds at most 256 colors" in capsys.readouterr().err
    assert not (tmp_path / "c.gif").exists()


def test_what_holds_no_animation_says_so(tmp_path, capsys):
    saved(moving()[:3], tmp_path / "a.gif")
    assert run(tmp_path / "a.gif", tmp_path / "b.tif") == 1
    assert "TIFF holds no animation: write GIF, PNG or WebP, or choose a frame with --page." in capsys.readouterr().err
    assert run(tmp_path / "a.gif", tmp_path / "b.tif", "--page", "2", "-k", "9") == 0
    with pytest.raises(ImageError, match="no single image"):
        quantize(tmp_path / "a.gif").to_pil()
    with pytest.raises(ImageError, match="TIFF holds no animation"):
        quantize(tmp_path / "a.gif").save(tmp_path / "c.tif")


def test_it_is_turned_and_stripped_as_pictures_are(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    saved(moving()[:3], tmp_path / "a.webp", exif=exif.tobytes())
    assert run(tmp_path / "a.webp", tmp_path / "b.png", "-k", "64", "--strip") == 0
    assert seen(tmp_path / "b.png")[0].shape[1:3] == (44, 30)


def test_bands_and_a_shared_palette(tmp_path, capsys):
    """An animation is no picture in bands; beside a picture it may have one palette with that."""
    saved(moving()[:3], tmp_path / "a.gif")
    Image.fromarray(moving()[0]).save(tmp_path / "b.png")
    assert run(tmp_path / "a.gif", tmp_path / "c.tif", "--bands") == 1
    assert "TIFF holds no animation" in capsys.readouterr().err
    both = [tmp_path / "a.gif", tmp_path / "b.png", "--out-dir", tmp_path / "out", "--shared-palette", "-k", "9"]
    assert run(*both) == 0
    first, _, _ = seen(tmp_path / "out" / "a.png")
    second, _, _ = seen(tmp_path / "out" / "b.png")
    colors = {tuple(color) for color in np.concatenate([first.reshape(-1, 4), second.reshape(-1, 4)]).tolist()}
    assert len(first) == 3
    assert len(colors) <= 9

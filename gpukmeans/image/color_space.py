"""Colors as points to cluster, and centers as colors again.

A point is what k-means measures distances in; of a color's levels it makes one of three spaces:

- "rgb": the levels themselves, which makes the inertia the squared error of the picture.
- "oklab": Oklab, in which equal distances look about equally far (Bjorn Ottosson, "A perceptual color space for
  image processing", 2020; the matrices are his), for levels in sRGB (IEC 61966-2-1). Its a and b count twice, since
  their distances look larger than those of L: palettes of six photographs then erred by a tenth less in deltaE 2000.
- "ycbcr": lightness and two differences of color, of the levels as they are (JFIF's, which are ITU-R BT.601's), in
  whole numbers. Between the two others, and meant for error diffusion: the eye evens out color over a larger area
  than lightness, so that dithering makes up for errors of color better; they need less of the palette than in Oklab.

Colors with alpha are as they look over black and over white, of which the squared distances are added: a color that is
hardly seen hardly counts, and is as near to nothing as it looks. Over black a coordinate p, with A for the share of
alpha, is p, and over white p + 1 - A; of two colors |dp|^2 + |dp - dA|^2 = (|2 dp - dA|^2 + |dA|^2) / 2. So a point has
2 p - A for each coordinate that white has, and A as often: of rgb's three levels the root of 3 times, of the others
once, white being L or Y alone (and compositing taken for linear there, which it is nearly). All of it is doubled.

The bits of a point do not depend on the machine: roots are Newton's iteration in single IEEE operations, and no power,
exponential or cube root of a C library takes part. Nor do those of a color: a level is found among the linear lights
half way between levels, so that nothing has to be raised to 1/2.4.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.exact.distance import Floats
from gpukmeans.image.levels import Levels, largest_level
from gpukmeans.thread_limits import thread_count
from gpukmeans.threads import run

SPACES = ("oklab", "rgb", "ycbcr")

# What may be asked for: "auto" is what serves best, which dithering changes.
SPACE_CHOICES = ("auto", *SPACES)

# From linear red, green, blue to the responses of the eye's three cones, and from their cube roots to L, a, b.
_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
# What a and b are multiplied by; a power of two, so that it rounds nothing.
_CHROMA = 2.0

# How often the share of alpha counts in rgb, see above: as the distance has it, not its square.
_ROOT_3 = 3.0**0.5

# The inverses of both, as he gives them.
_FROM_LAB = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
_FROM_CONES = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)

# Thousandths of Y, and of 1.25 Cb and 1.25 Cr, that red, green and blue make. Those of a difference add up to zero, so
# that greys have none.
_TO_YCBCR = ((299, 587, 114), (-211, -414, 625), (625, -523, -102))


# Numbers of colors of which palettes for error diffusion are best found in Oklab: of these the errors of smooth colors
# are what is seen most; fewer have to keep structure, and more take too many bytes so (docs/quantization.md).
_DIFFUSED_IN_OKLAB = range(48, 193)


def space_for(space: str, dither: str, n_colors: int) -> str:
    """The space that one of SPACE_CHOICES stands for, by how there is dithering, with so many colors.

    Examples
    --------
    >>> [space_for("auto", "floyd-steinberg", k) for k in (16, 64, 256)], space_for("auto", "none", 16)
    (['ycbcr', 'oklab', 'ycbcr'], 'oklab')
    """
    if space != "auto":
        return space
    return "ycbcr" if dither == "floyd-steinberg" and n_colors not in _DIFFUSED_IN_OKLAB else "oklab"


# Colors at a time: what a conversion holds of them stays in a core's second-level cache.
_PIECE = 2**14


def to_points(colors: Levels, space: str) -> NDArray[Any]:
    """Colors (m, c) as points (m, c): levels as they are, or of a dtype that holds the point.

    Examples
    --------
    >>> to_points(np.array([[255, 255, 255], [255, 0, 0]], np.uint8), "oklab").astype(float).round(3).tolist()
    [[1.0, 0.0, 0.0], [0.628, 0.45, 0.252]]
    """
    if len(colors) > _PIECE:
        pieces = [colors[a : a + _PIECE] for a in range(0, len(colors), _PIECE)]
        return np.concatenate(run(lambda piece: to_points(piece, space), pieces, thread_count()))
    top = largest_level(colors.dtype)
    opaque = colors if colors.shape[1] != 4 else colors[:, :3]
    if space == "rgb" or (space == "ycbcr" and colors.shape[1] == 1):
        points: NDArray[Any] = opaque if top == 255 else opaque.astype(np.float32)
    elif space == "ycbcr":
        # Whole numbers up to 255,000, or 65,535,000, which need 26 bits
        # (test_quantize.test_points_of_ycbcr_are_whole_numbers fails of float32).
        points = (opaque.astype(np.int64) @ ycbcr_factors().T).astype(np.float32 if top == 255 else np.float64)
    else:
        lab = _oklab(opaque) if opaque.shape[1] == 3 else [_root(_linear_table(top)[opaque[:, 0]], 3)]
        points = np.stack(lab, axis=1).astype(np.float32)
    if colors.shape[1] != 4:
        return points
    # In rgb all four are multiplied by `top`, so that products of levels stay whole.
    alpha = colors[:, 3:].astype(np.float64)
    full = {"rgb": alpha * top, "ycbcr": alpha * 1000}.get(space, alpha / top)
    seen = 2.0 * (points * (alpha if space == "rgb" else alpha / top))
    if space == "rgb":
        seen, full = seen - full, full * _ROOT_3
    else:
        seen[:, :1] -= full
    # 65535**2 needs 32 bits
    # (test_quantize.test_points_with_alpha_are_colors_over_black_and_over_white fails of float32).
    dtype = np.float32 if top == 255 or space == "oklab" else np.float64
    return np.concatenate([seen, full], axis=1).astype(dtype)


def to_colors(centers: Floats, space: str, dtype: Any) -> Levels:
    """Centers (k, c) as the colors nearest to them, of that dtype: the levels that round to them."""
    top = largest_level(dtype)
    if centers.shape[1] == 4:
        full = centers[:, 3:] / _ROOT_3 if space == "rgb" else centers[:, 3:]
        white = np.array([1.0, 1.0, 1.0] if space == "rgb" else [1.0, 0.0, 0.0])
        opaque = (centers[:, :3] + white * full) / (2.0 * np.maximum(full, np.finfo(np.float64).tiny))
        alpha = {"rgb": full / top, "ycbcr": full / 1000}.get(space, full * top)
        levels = to_colors(opaque * {"rgb": top, "ycbcr": 1000.0 * top}.get(space, 1.0), space, dtype)
        return np.concatenate([levels, _rounded(alpha, dtype)], axis=1)
    if space == "rgb" or (space == "ycbcr" and centers.shape[1] == 1):
        return _rounded(centers, dtype)
    if space == "ycbcr":
        columns = centers[:, 0], centers[:, 1], centers[:, 2]
        adjugate, determinant = _from_ycbcr()
        return _rounded(np.stack([_dot(row, columns) / determinant for row in adjugate], axis=1), dtype)
    if centers.shape[1] == 1:
        return encoded(centers * centers * centers, dtype)
    lab = centers[:, 0], centers[:, 1] / _CHROMA, centers[:, 2] / _CHROMA
    cones = [_dot(row, lab) for row in _FROM_LAB]
    cubes = [cone * cone * cone for cone in cones]
    return np.stack([encoded(_dot(row, cubes), dtype) for row in _FROM_CONES], axis=1)


def ycbcr_factors() -> NDArray[np.int64]:
    """(3, 3): what each of Y, Cb and Cr is made of."""
    return np.array(_TO_YCBCR, np.int64)


@cache
def _from_ycbcr() -> tuple[list[tuple[float, float, float]], float]:
    """The adjugate of the factors, a row for each of red, green and blue, and their determinant: whole numbers."""
    m = _TO_YCBCR

    def cofactor(i: int, j: int) -> int:
        (a, b), (c, d) = ([m[p % 3][q % 3] for q in (j + 1, j + 2)] for p in (i + 1, i + 2))
        return a * d - b * c

    rows = [(float(cofactor(0, j)), float(cofactor(1, j)), float(cofactor(2, j))) for j in range(3)]
    return rows, float(sum(m[0][j] * cofactor(0, j) for j in range(3)))


def _oklab(colors: Levels) -> list[Floats]:
    """L and twice a and b of colors (m, 3)."""
    table = _linear_table(largest_level(colors.dtype))
    linear = [table[colors[:, j]] for j in range(3)]
    cones = [_root(_dot(row, linear), 3) for row in _TO_CONES]
    lightness, a, b = (_dot(row, cones) for row in _TO_LAB)
    return [lightness, _CHROMA * a, _CHROMA * b]


def oklab_tables(top: int) -> Floats:
    """The numbers that L and twice a and b of levels up to top are made of, one after another: the linear light of each
    level; of each cone the factors of red, green and blue; of L, a and b those of the cones' roots."""
    lab = np.array(_TO_LAB) * np.array([[1.0], [_CHROMA], [_CHROMA]])
    return np.concatenate([_linear_table(top), np.ravel(_TO_CONES), lab.ravel()])


def _dot(row: tuple[float, ...], columns: Any) -> Floats:
    """The sum of products, each operation rounded on its own; BLAS would fuse some on some machines."""
    return row[0] * columns[0] + row[1] * columns[1] + row[2] * columns[2]


@cache
def _linear_table(top: int) -> Floats:
    """The linear light of each level from 0 to top."""
    return linear_light(np.arange(top + 1) / top)


@cache
def _between(top: int) -> Floats:
    """The linear light half way between each level and the next."""
    return linear_light((np.arange(top) + 0.5) / top)


def linear_light(encoded: Floats) -> Floats:
    """sRGB's decoding of values in [0, 1]: x / 12.92 for the darkest, else ((x + 0.055) / 1.055)**2.4."""
    fifth = _root((encoded + 0.055) / 1.055, 5)
    cubed = fifth * fifth * fifth
    sixth = cubed * cubed
    return np.where(encoded <= 0.04045, encoded / 12.92, sixth * sixth)


def encoded(linear: Floats, dtype: Any) -> Levels:
    """The level of each linear light, the nearest as encoded; beyond the ends, the ends."""
    return np.searchsorted(_between(largest_level(dtype)), linear).astype(dtype)


def _rounded(levels: Floats, dtype: Any) -> Levels:
    return np.clip(np.rint(levels), 0, largest_level(dtype)).astype(dtype)


def _root(x: Floats, n: int) -> Floats:
    """The n-th root, n being 3 or 5, of numbers from 0 on, to within a few roundings: Newton's iteration."""
    mantissa, exponent = np.frexp(x)
    # x = mantissa * 2**exponent with a mantissa in [1/2, 1), so this is within a factor of two of the root.
    y = np.ldexp(1.0, -(-exponent // n))
    x = np.where(mantissa > 0, x, 1.0)
    # A relative error e becomes (n - 1) / 2 * e**2 once it is small; from a factor of two, 6 and 8 steps suffice
    # (test_quantize.test_roots fails of fewer, or if zero is not left out).
    for _ in range(n + 3):
        power = y * y if n == 3 else y * y * (y * y)
        y = y - (y - x / power) / n
    return np.where(mantissa > 0, y, 0.0)

"""TIFFs that Pillow does not read, or not rightly: floats of any size and channels, and planes of 16 bits."""

from __future__ import annotations

import logging
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gpukmeans.image.files.damaged_tiff import first_directory
from gpukmeans.image.picture import ImageError

MISSING = "which Pillow does not read, and tifffile does: pip install 'gpukmeans[large]'"

# The least and the largest value of a sample, if the file says so.
LEAST, LARGEST = 340, 341

_SAMPLES, _BITS, _PLANES, _PHOTOMETRIC, _COMPRESSION, _FORMAT = 277, 258, 284, 262, 259, 339
_FLOATS = 3
_WHITE_IS_ZERO = 0


def serves(file: IO[bytes]) -> bool:
    """Whether the first directory of a TIFF says that it is one of these, of a compression that tifffile undoes by
    itself, with nothing in it that could not be so: it takes a damaged one for what it might have been."""
    try:
        tags = first_directory(file)
        samples = int(tags.get(_SAMPLES, 1))
        bits = {int(value) for value in np.ravel(tags[_BITS])}
        kinds = {int(value) for value in np.ravel(tags.get(_FORMAT, 1))}
        plain = tags.get(_COMPRESSION, 1) in (1, 8, 32946) and tags.get(_PLANES, 1) in (1, 2)
        known = plain and 1 <= samples <= 4 and int(tags[_PHOTOMETRIC]) in (0, 1, 2)
    except Exception:
        return False
    return (
        known and len(bits) == 1 and ((kinds == {_FLOATS} and bits <= {16, 32, 64}) or (kinds == {1} and bits == {16}))
    )


def is_misread(image: Any) -> bool:
    """Whether Pillow takes planes of 16 bits for something else (test_reading.test_tiffs_of_any_layout fails of it)."""
    tags = image.tag_v2
    bits = tags.get(_BITS, (1,))
    return (
        tags.get(_PLANES, 1) == 2
        and tags.get(_SAMPLES, 1) > 1
        and max(bits if isinstance(bits, tuple) else (bits,)) > 8
    )


def white_is_zero(image: Any) -> bool:
    """Whether levels of 16 bits, which Pillow leaves as they are, go from white to black."""
    return image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def stated_range(image: Any) -> tuple[float, float] | None:
    """The least and the largest value, as a TIFF's tags say."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    return _range(tags.get(LEAST), tags.get(LARGEST))


def _range(low: Any, high: Any) -> tuple[float, float] | None:
    try:
        least, largest = (float(np.ravel(value)[0]) for value in (low, high))
    except (TypeError, ValueError, IndexError):
        return None
    return (least, largest) if least < largest else None


def read_array(
    file: IO[bytes], name: str, page: int | None, check_size: Any
) -> tuple[NDArray[Any], tuple[float, float] | None]:
    """The levels or floats (h, w) or (h, w, c) of a page, the first unless told, and their range if that is stated."""
    try:
        import tifffile
    except ImportError:
        raise ImageError(f"{name} is a TIFF of a kind {MISSING}") from None
    file.seek(0)
    log = logging.getLogger("tifffile")
    before, log.disabled = log.disabled, True  # what is wrong is said in one line
    try:
        with tifffile.TiffFile(file) as tiff:
            chosen: Any = tiff.pages[(page or 1) - 1]
            if chosen.samplesperpixel > 4:
                raise ImageError(f"{name} has {chosen.samplesperpixel} channels; 1 to 4 are known.")
            check_size(chosen.imagewidth, chosen.imagelength, name)
            array = np.asarray(chosen.asarray())
            tags = {tag: chosen.tags.valueof(tag) for tag in (LEAST, LARGEST, _PHOTOMETRIC)}
    except ImageError:
        raise
    except Exception as error:  # whatever broken data leads it to
        raise ImageError(f"{name} cannot be decoded, it may be damaged: {error or type(error).__name__}") from None
    finally:
        log.disabled = before
    array = array.squeeze()
    if array.ndim == 3 and array.shape[0] in (2, 3, 4) and array.shape[2] not in (2, 3, 4):
        array = np.moveaxis(array, 0, -1)  # planes
    if array.ndim == 3 and array.shape[2] == 2:
        array = array[..., [0, 0, 0, 1]]  # grey with alpha
    stated = _range(tags[LEAST], tags[LARGEST])
    if tags[_PHOTOMETRIC] == _WHITE_IS_ZERO and array.dtype.kind == "u":
        array = np.iinfo(array.dtype).max - array
    return array, stated

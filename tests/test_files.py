"""Files are written whole or not at all, are as open as those they replace, and say what kept them from it."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpukmeans import atomic_write
from gpukmeans.atomic_write import atomic

POSIX = pytest.mark.skipif(os.name != "posix", reason="modes, groups and limits are POSIX'")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def put(path: Path, data: bytes = b"new") -> None:
    with atomic(path) as file:
        file.write(data)


# ---------------------------------------------------------------- as open as before


@POSIX
@pytest.mark.parametrize("before", [0o600, 0o640, 0o644, 0o666, 0o444, 0o755])
def test_a_file_keeps_its_mode(before: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(before)
    put(path)
    assert (path.read_bytes(), mode(path)) == (b"new", before)


@POSIX
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        put(tmp_path / "file")
    finally:
        os.umask(old)
    assert mode(tmp_path / "file") == 0o666 & ~umask


@POSIX
@pytest.mark.parametrize("before", [None, 0o600, 0o640, 0o666])
def test_nobody_reads_what_is_begun_who_may_not_read_the_result(before: int | None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.touch()
        path.chmod(before)
    old = os.umask(0o027)
    try:
        with atomic(path) as file:
            file.write(b"new")
            file.flush()
            begun = {mode(each) for each in tmp_path.glob(".gpukmeans-*")}
    finally:
        os.umask(old)
    assert len(begun) == 1
    assert begun.pop() & ~mode(path) == 0
    assert names(tmp_path) == ["file"]


@POSIX
def test_a_file_keeps_its_owner_and_group_where_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    ids = (1234, 2345) if os.geteuid() == 0 else (os.geteuid(), os.getgroups()[-1])
    os.chown(path, *ids)
    path.chmod(0o640)
    put(path)
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (*ids, 0o640)


@POSIX
def test_another_group_may_do_no_more_than_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    path = tmp_path / "file"
    path.touch()
    path.chmod(0o664)
    if os.geteuid() == 0:
        os.chown(path, -1, 2345)
        monkeypatch.setattr(os, "fchown", refuse)
        put(path)
        assert (mode(path), path.stat().st_gid) == (0o644, os.getegid())
    else:
        put(path)
        assert mode(path) == 0o664


@pytest.mark.skipif(sys.platform != "linux", reason="access lists are attributes there")
def test_an_access_list_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    nobody = 0xFFFFFFFF
    entries = [(1, 6, nobody), (2, 4, 1234), (4, 0, nobody), (16, 4, nobody), (32, 0, nobody)]
    access = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", access)
    put(path)
    assert os.getxattr(path, "system.posix_acl_access") == access


# ---------------------------------------------------------------- what is said, and what is left


def test_an_error_names_the_file_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device: 'file'$") as caught, atomic("file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == "file"
    with pytest.raises(OSError, match="10 requested and 5 written: 'file'") as caught, atomic("file"):
        raise OSError("10 requested and 5 written")
    with pytest.raises(FileNotFoundError, match=r"none/file'$"):
        put(Path("none/file"))
    with pytest.raises(FileNotFoundError, match=r"'other'$"), atomic("file"):
        os.stat("other")
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_whatever_goes_wrong_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def half() -> None:
        with atomic(tmp_path / "file") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        half()
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_what_is_begun_can_be_discarded(tmp_path: Path) -> None:

    def discarded() -> None:
        with atomic(tmp_path / "file"):
            atomic_write.discard()
            assert names(tmp_path) == []

    with pytest.raises(FileNotFoundError, match=r"file'$"):
        discarded()
    put(tmp_path / "file")
    atomic_write.discard()
    assert names(tmp_path) == ["file"]


# A file may have this many bytes, as on a disk that is full: EFBIG, since the signal is ignored.
LIMIT = 1024
WRITERS = """
import json, resource, signal, sys
import numpy as np
import gpukmeans
from gpukmeans import atomic_write
from gpukmeans.cli.main import main
from gpukmeans.image.files.comparison import write_comparison
from gpukmeans.image.files.read import read
from gpukmeans.image.streaming import quantize_file
folder = sys.argv[1]
rng = np.random.default_rng(0)
noise = rng.integers(0, 256, (64, 64, 3), np.uint8)
result = gpukmeans.quantize(noise, 64)
picture = read(noise)
model = gpukmeans.KMeans(64, n_init=1, max_iter=2).fit(rng.normal(size=(200, 20)))
np.save(folder + "/noise.npy", noise)
writers = {f"a.{end}": lambda path: result.save(path) for end in ("png", "gif", "tif", "tiff", "webp")}
writers |= {
    "many.png": gpukmeans.quantize(noise, 300).save,
    "many.tif": gpukmeans.quantize(noise, 300).save,
    "compare.png": lambda path: write_comparison(picture, result.palette, result.indices, path),
    "bands.tif": lambda path: quantize_file(noise, path, 64),
    "model.npz": model.save,
}
atomic_write.write(folder + "/a.png", lambda file: file.write(b"old"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
said = {}
for name, write in writers.items():
    try:
        write(folder + "/" + name)
        said[name] = "written"
    except OSError as error:
        said[name] = [error.errno, error.filename, type(error).__name__]
with open(folder + "/own.tif", "wb", buffering=0) as file:
    try:
        result.save(file, "TIFF")
    except OSError as error:
        said["own file"] = error.errno
for argv in (["noise.npy", "b.tif"], ["noise.npy", "c.tif", "--bands"]):
    main(["quantize", folder + "/" + argv[0], folder + "/" + argv[1], *argv[2:]])
main(["demo", "--out", folder, "--device", "cpu"])
print(json.dumps(said))
"""


@POSIX
def test_a_full_disk_is_named_by_every_writer_and_nothing_is_left(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WRITERS, str(tmp_path), str(LIMIT)]
    done = subprocess.run(argv, capture_output=True, text=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.pop("own file") == errno.EFBIG
    assert set(said) == {
        *("a.png", "a.gif", "a.tif", "a.tiff", "a.webp", "many.png", "many.tif", "compare.png"),
        *("bands.tif", "model.npz"),
    }
    for name, what in said.items():
        assert what == [errno.EFBIG, str(tmp_path / name), "OSError"], name
    assert done.stderr.splitlines() == [
        f"gpukmeans: error: cannot write {tmp_path}/b.tif: File too large",
        f"gpukmeans: error: cannot write {tmp_path}/c.tif: File too large",
        f"gpukmeans: error: cannot write to {tmp_path}: File too large",
    ]
    assert names(tmp_path) == ["a.png", "noise.npy", "own.tif"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("format", ["PNG", "GIF", "TIFF", "WEBP"])
def test_a_file_of_ones_own_that_is_full_says_so(format: str) -> None:
    from gpukmeans import quantize

    result = quantize(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8), 9)
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left on device"):
        result.save(full, format)


def test_written_files_are_what_pillow_writes(tmp_path: Path) -> None:
    picture = Image.new("RGB", (5, 4), (1, 2, 3))
    atomic_write.write(tmp_path / "a.tif", lambda file: picture.save(file, format="TIFF"))
    with Image.open(tmp_path / "a.tif") as image:
        assert np.array_equal(np.asarray(image), np.asarray(picture))

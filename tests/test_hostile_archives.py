"""Archives and arrays that are not what they say: refused by name, in the time and memory of what is really there."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import X, archive, files, loaded, members, npy, path, used, with_metadata
from test_hostile import STATE, key, parameters

import gpukmeans
from gpukmeans import KMeans
from gpukmeans.saving import archive as archives

__all__ = ["files", "path"]  # fixtures


# ---------------------------------------------------------------- arrays that are not what they say


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text.encode("latin1")


def claim(descr: str = "'<f8'", order: str = "False", shape: str = "(3, 3)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


NINE = X[:3].tobytes()
CLAIMS = {
    "800 GB": header(claim(shape="(100_000_000_000,)")) + NINE,
    "more than all": header(claim(shape=f"({10**400}, 3)")) + NINE,
    "less than there is": header(claim(shape="(3, 2)")) + NINE,
    "more than there is": header(claim(shape="(3, 4)")) + NINE,
    "negative": header(claim(shape="(-3, -3)")) + NINE,
    "minus one": header(claim(shape="(-1, 3)")) + NINE,
    "overflow to nine": header(claim(shape=f"({2**32}, {2**32}, 9)")) + NINE,
    "100 dimensions": header(claim(shape=f"(3, 3, {'1, ' * 98})")) + NINE,
    "no tuple": header(claim(shape="[3, 3]")) + NINE,
    "floats": header(claim(shape="(3.0, 3.0)")) + NINE,
    "endless nothing": header(claim(descr="'V0'", shape=f"({10**12},)")),
    "endless empty strings": header(claim(descr="'S0'", shape=f"({10**12}, 3)")),
    "objects": header(claim(descr="'|O'")) + NINE,
    "fields of objects": header(claim(descr="[('a', '|O')]")) + NINE,
    "strings of Python": header(claim(descr="'T'")) + NINE,
    "no dtype": header(claim(descr="'flat'")) + NINE,
    "no such dtype": header(claim(descr="'<f7'")) + NINE,
    "code": header(claim(descr="__import__('os').abort()")) + NINE,
    "order": header(claim(order="3")) + NINE,
    "keys": header("{'descr': '<f8'}\n") + NINE,
    "depth": header("-" * 9000 + "1"),
    "brackets": header("(" * 9000),
    "length": header("", (2, 0))[:-4] + b"\xff\xff\xff\xff" + NINE,
    "long": header(claim() + " " * 20_000) + NINE,
    "version 0.9": header(claim(), (0, 9)) + NINE,
    "version 255.255": header(claim(), (255, 255)) + NINE,
    "nothing": b"",
    "magic": b"\x93NUMPY",
    "more behind": npy(X[:3]) + b"more",
    "pickle": b"\x80\x04\x95.",
}


@pytest.mark.parametrize("content", CLAIMS.values(), ids=CLAIMS)
@pytest.mark.parametrize("where", ["cluster_centers_", "labels_", STATE])
def test_arrays_that_are_not_what_they_say_are_refused(
    content: bytes, where: str, files: dict[str, bytes], path: Path, peak: Callable[..., int]
) -> None:
    content = archive(members(files["everything"]) | {f"{where}.npy": content})
    assert peak(lambda: loaded(path, content)) < 2**24
    assert loaded(path, content) is None


@pytest.mark.parametrize("form", [((1, 0), "'<f8'", "C"), ((2, 0), "'<f8'", "C"), ((3, 0), "'<f8'", "C"),
                                  ((1, 0), "'>f8'", "C"), ((1, 0), "'<f8'", "F")])  # fmt: skip
def test_other_headers_of_the_same_array_are_read(form: Any, files: dict[str, bytes], path: Path) -> None:
    version, descr, order = form
    centers = loaded(path, files["everything"]).cluster_centers_
    data = centers.astype(np.dtype(descr.strip("'"))).tobytes(order)
    content = header(claim(descr, str(order == "F")), version) + data
    model = loaded(path, archive(members(files["everything"]) | {"cluster_centers_.npy": content}))
    assert model.cluster_centers_.tolist() == centers.tolist()
    assert used(model)[0] == used(loaded(path, files["everything"]))[0]


@pytest.mark.parametrize(
    ("descr", "shape", "data"),
    [
        ("'|b1'", "(3,)", b"\x00\x01\x02"),  # which indexing by a mask would count as two and copy as one
        ("'|b1'", "()", b"\xff"),
        ("[('a', '|b1'), ('b', '<i8')]", "(1,)", b"\x07" + bytes(8)),
        ("'<U2'", "(1,)", b"a\0\0\0\xff\xff\xff\x7f"),
        ("'>U1'", "()", b"\x00\x11\x00\x00"),
    ],
)
def test_bytes_that_are_no_values_are_refused(
    descr: str, shape: str, data: bytes, files: dict[str, bytes], path: Path
) -> None:
    def content(data: bytes) -> bytes:
        changed = with_metadata(files["unfitted"], parameters(tol={"array": "tol"}))
        return archive({**members(changed), "tol.npy": header(claim(descr, shape=shape)) + data})

    path.write_bytes(content(data))
    with pytest.raises(ValueError, match=r"tol\.npy has bytes that are no values"):
        gpukmeans.load(path)
    assert loaded(path, content(bytes(len(data)))) is not None


def test_values_without_bytes_have_an_end(files: dict[str, bytes], path: Path) -> None:
    def content(shape: str) -> bytes:
        changed = with_metadata(files["unfitted"], parameters(tol={"array": "tol"}))
        return archive({**members(changed), "tol.npy": header(claim("'V0'", shape=shape))})

    assert loaded(path, content("(3,)")).tol.shape == (3,)
    for shape in ("(10**12,)", f"({10**12},)", "(1000, 1000)"):
        assert loaded(path, content(shape)) is None


# ---------------------------------------------------------------- archives that are not what they say


def patched(content: bytes, name: str, offset: int, fmt: str, *values: int) -> bytes:
    """With other values in a member's entry of the directory."""
    changed = bytearray(content)
    struct.pack_into(fmt, changed, content.rindex(name.encode()) - 46 + offset, *values)
    return bytes(changed)


def test_members_are_as_large_as_they_are(files: dict[str, bytes], path: Path) -> None:
    whole = files["everything"]
    size = len(members(whole)["labels_.npy"])
    assert loaded(path, patched(whole, "labels_.npy", 20, "<II", size, size)) is not None
    for claimed in (0, size - 1, size + 1, 2**30, 2**32 - 2):
        assert loaded(path, patched(whole, "labels_.npy", 20, "<II", claimed, claimed)) is None
        assert loaded(path, patched(whole, "labels_.npy", 20, "<II", size, claimed)) is None


def test_members_do_not_overlap(files: dict[str, bytes], path: Path) -> None:
    parts = members(files["everything"])
    inner = archive({"cluster_centers_.npy": parts["cluster_centers_.npy"]})
    whole = archive(parts | {"labels_.npy": parts["labels_.npy"] + inner})
    path.write_bytes(patched(whole, "cluster_centers_.npy", 42, "<I", whole.index(inner)))
    with pytest.raises(ValueError, match=r"'labels_.npy' in it goes beyond its place"):
        gpukmeans.load(path)


def test_members_have_names_of_their_own(files: dict[str, bytes], path: Path) -> None:
    file = io.BytesIO(files["everything"])
    with zipfile.ZipFile(file, "a") as made, pytest.warns(UserWarning, match="Duplicate name"):
        made.writestr("labels_.npy", npy(np.zeros(40, np.int32)))
    path.write_bytes(file.getvalue())
    with pytest.raises(ValueError, match="several members of one name"):
        gpukmeans.load(path)


def test_members_are_referred_to_once(files: dict[str, bytes], path: Path) -> None:
    path.write_bytes(archive(members(files["batches"]) | {"more.npy": npy(X)}))
    with pytest.raises(ValueError, match=r"it holds \['more.npy'\], which its metadata do not refer to"):
        gpukmeans.load(path)
    path.write_bytes(with_metadata(files["batches"], parameters(init={"array": "cluster_centers_"})))
    with pytest.raises(ValueError, match="an array 'cluster_centers_', which is not there, or not for them alone"):
        gpukmeans.load(path)


def test_names_in_the_metadata_stand_once(files: dict[str, bytes], path: Path) -> None:
    parts = members(files["batches"])
    text = parts["metadata.json"].replace(b'"tol": 0.0', b'"tol": 0.0, "tol": 1.0')
    path.write_bytes(archive(parts | {"metadata.json": text}))
    with pytest.raises(ValueError, match="two things under one name"):
        gpukmeans.load(path)


def test_nothing_is_compressed(files: dict[str, bytes], path: Path) -> None:
    """Or a megabyte would be a gigabyte, of labels that no other value bounds."""
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path.write_bytes(archive(members(files["batches"]), compression))
        with pytest.raises(ValueError, match=r"in it is compressed"):
            gpukmeans.load(path)


def many(**parts: Any) -> Callable[[dict[str, bytes]], bytes]:
    return lambda files: with_metadata(files["unfitted"], parameters(**parts))


def text(old: bytes, new: bytes) -> Callable[[dict[str, bytes]], bytes]:
    def changed(files: dict[str, bytes]) -> bytes:
        parts = members(files["batches"])
        assert old in parts["metadata.json"]
        return archive(parts | {"metadata.json": parts["metadata.json"].replace(old, new)})

    return changed


def compressed(name: str, content: bytes) -> Callable[[dict[str, bytes]], bytes]:
    return lambda files: archive(members(files["batches"]) | {name: content}, zipfile.ZIP_DEFLATED)


BOMBS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "labels": compressed("labels_.npy", header(claim("'<i4'", shape=f"({2**25},)")) + bytes(2**27)),
    "metadata": compressed("metadata.json", b" " * 2**27),
    "800 GB": lambda files: archive(members(files["batches"]) | {"labels_.npy": CLAIMS["800 GB"]}),
    "long list": many(tol=[0] * 4_000_000),
    "one array, many times": many(tol=[{"array": "init.0"}] * 10**6),
    "lists": many(tol=[[]] * 500_000),
    "empty values": text(b'"tol": 0.0', b'"tol": [' + b'{"dict": {}}, ' * 170_000 + b"0]"),
    "letters": many(device="\U0001f600" + "a" * (2**23 - 2000)),
    "requests": many(tol=[{"requests": {}}] * 100_000),
    "generators": many(tol=[{"RandomState": {"dict": {}}}] * 100_000),
    "depth": text(b'"tol": 0.0', b'"tol": ' + b"[" * 10**6),
    "depth that JSON reads": text(b'"tol": 0.0', b'"tol": ' + b"[" * 200 + b"]" * 200),
    "digits": text(b'"tol": 0.0', b'"tol": ' + b"1" * 10**6),
    "fraction": text(b'"tol": 0.0', b'"tol": 0.' + b"1" * 10**6),
    "members": lambda files: archive(members(files["batches"]) | {f"{i}.npy": b"" for i in range(9_000)}),
}
# A gigabyte of files would show less than these limits do.
PROGRAM = """
import resource, sys
from pathlib import Path
import gpukmeans, numpy as np
X = np.random.default_rng(0).normal(size=(40, 3))
np.sort(X.astype(np.float32) @ X.T.astype(np.float32)[:, :1])
gpukmeans.KMeans(3, device="cpu", random_state=0).fit(X).predict(X)
for path in sorted(Path(sys.argv[1]).iterdir()):
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**27, resource.RLIM_INFINITY))
    print(path.name, end=": ", flush=True)
    try:
        model = gpukmeans.load(path)
    except ValueError as error:
        print("refused" if path.name in str(error) else error)
    else:
        try:
            model.fit(X).predict(X)
            print("used")
        except (ValueError, TypeError, gpukmeans.DeviceError):
            print("not fitted")
"""


def outcomes(folder: Path) -> dict[str, str]:
    """What comes of the files in a process that 128 MB and a minute suffice."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    program = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
def test_no_file_takes_much_memory_or_ends_the_process(files: dict[str, bytes], tmp_path: Path) -> None:
    expected = dict.fromkeys(BOMBS, "refused")
    expected |= {"empty values": "not fitted", "letters": "not fitted", "fraction": "used"}
    for name, bomb in BOMBS.items():
        (tmp_path / name).write_bytes(bomb(files))
    for pos in (-(2**31), -5, -1, 625, 1000, 10**6, 2**31 - 1):
        (tmp_path / f"pos {pos}").write_bytes(with_metadata(files["everything"], key(pos=pos)))
        expected[f"pos {pos}"] = "refused"
    for pos in (0, 1, 623, 624):
        (tmp_path / f"pos {pos}").write_bytes(with_metadata(files["everything"], key(pos=pos)))
        expected[f"pos {pos}"] = "used"
    assert outcomes(tmp_path) == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"model\.npz cannot be loaded: it is a pipe"):
        gpukmeans.load(path)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero")
def test_what_has_no_end_is_not_read_to_it() -> None:
    with pytest.raises(ValueError, match="/dev/zero cannot be loaded"):
        gpukmeans.load("/dev/zero")


def test_the_limits_of_a_file_are_those_of_saving(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = KMeans(init=[X, X])
    model.save(path)
    assert len(gpukmeans.load(path).init) == 2
    for limit, value in (
        ("MAX_ARRAYS", 1),
        ("MAX_METADATA_BYTES", 300),
        ("MAX_METADATA_VALUES", 20),
        ("MAX_DIRECTORY_BYTES", 100),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(archives, limit, value)
            with pytest.raises(ValueError, match="cannot be loaded"):
                gpukmeans.load(path)

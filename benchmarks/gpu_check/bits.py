"""Whether a GPU gives NumPy's bits: in each family of kernels, in batches, of other libraries' arrays, of pictures.

    python benchmarks/gpu_check/bits.py GROUP ...               every case of these groups
    python benchmarks/gpu_check/bits.py --rows 3000 GROUP ...   with so many rows at most

Each case has a line as soon as it is known: OK or FAIL, the data, seconds, what differs, and which kernels ran. A case
fails as well if the kernel that it is for did not run. The exit status is 1 if any case failed.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import cupy as cp
import numpy as np
from numpy.typing import NDArray

from gpukmeans import BatchedKMeans, KMeans, datasets, quantize
from gpukmeans.array_interop import to_numpy
from gpukmeans.engine.cuda import seeding_bytes, stacks
from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.known_products import compute_as_known
from gpukmeans.engine.cuda.launch_plans import OWN_PRODUCTS, own_products
from gpukmeans.engine.numpy.tuning import tuned
from gpukmeans.image.cuda import diffusion

DTYPES = ("uint8", "float16", "float32", "float64")

Answer = dict[str, Any]


class Case(NamedTuple):
    """answers: NumPy's first, then a GPU's, as many times as it was asked. kernels: all of these must have run."""

    name: str
    answers: Callable[[], list[Answer]]
    kernels: tuple[str, ...] = ()


# ---------------------------------------------------------------- data


class Data:
    """Rows (n, d) from a seed, never more than `most_rows` of them."""

    def __init__(self, most_rows: int | None = None) -> None:
        self.rng = np.random.default_rng(7)
        self._most = sys.maxsize if most_rows is None else most_rows

    def rows(self, n: int) -> int:
        return min(n, self._most)

    def blobs(self, n: int, d: int, dtype: str, offset: float = 0.0) -> NDArray[Any]:
        """Forty round clusters whose centers have the spread of a normal distribution."""
        places = self.rng.normal(0, 1, (40, d))
        n = self.rows(n)
        return self._cast(places[self.rng.integers(0, 40, n)] + self.rng.normal(0, 0.5, (n, d)), dtype, offset)

    def noise(self, n: int, d: int, dtype: str) -> NDArray[Any]:
        return self._cast(self.rng.standard_normal((self.rows(n), d)), dtype, 0.0)

    def lattice(self, n: int, d: int, dtype: str) -> NDArray[Any]:
        """Small integers: many rows are exactly as far from two centers."""
        return self._cast(self.rng.integers(-3, 4, (self.rows(n), d)).astype(np.float64), dtype, 0.0)

    @staticmethod
    def _cast(x: NDArray[Any], dtype: str, offset: float) -> NDArray[Any]:
        return np.clip(x * 30 + 128, 0, 255).astype(np.uint8) if dtype == "uint8" else (x + offset).astype(dtype)


# ---------------------------------------------------------------- cases


def fit(X: Any, k: int, device: str, weights: Any, parameters: dict[str, Any]) -> Answer:
    parameters = {"random_state": 0, "n_init": 1, "max_iter": 8, **parameters}
    model = KMeans(k, device=device, **parameters).fit(X, sample_weight=weights)
    return {
        "centers": to_numpy(model.cluster_centers_).tobytes(),
        "labels": to_numpy(model.labels_).tobytes(),
        "inertia": model.inertia_,
        "n_iter": model.n_iter_,
        "predict": to_numpy(model.predict(X[-999:])).tobytes(),
        "transform": to_numpy(model.transform(X[:50])).tobytes(),
    }


def fits(
    name: str,
    X: NDArray[Any],
    k: int,
    *kernels: str,
    weights: Any = None,
    give: Callable[[NDArray[Any]], Any] = lambda X: X,
    whole: bool = False,
    **parameters: Any,
) -> Case:
    """give: the array that the GPU's fits get, of NumPy's. whole: whether a block may fit what is small."""

    def answers() -> list[Answer]:
        given = give(X)
        with tuned(whole=None if whole else False):
            twice = [fit(given, k, "cuda", weights, parameters) for _ in range(2)]
        return [fit(X, k, "cpu", weights, parameters), *twice]

    return Case(f"{name}, {len(X):,} x {X.shape[1]} {X.dtype}, k={k}", answers, kernels)


def far(data: Data, d: int, k: int, of_center: str, of_row: str) -> Iterator[Case]:
    """A center far from all rows, and a row far from all others, and the kernels for these."""
    X = data.noise(30_000, d, "float32")
    init = X[:k].astype(np.float64)
    init[0] = 1e4
    yield fits("a far center", X, k, of_center, init=init)
    X = X.copy()
    X[-1, 0] = -9999
    yield fits("a far row", X, k, of_row)


def low_dim(data: Data) -> Iterator[Case]:
    """Up to 16 features."""
    for dtype in DTYPES:
        for d, k in ((1, 5), (3, 64), (8, 30), (9, 33), (16, 100)):
            yield fits("few features", data.blobs(60_000, d, dtype), k, "assign_low_dim")
    yield fits("many rows", data.blobs(1_300_000, 3, "uint8"), 40, "assign_low_dim", max_iter=4)
    yield fits("ties", data.lattice(40_000, 3, "float32"), 30, "assign_low_dim")
    yield from far(data, 8, 30, "assign_low_dim", "assign_low_dim")


def tiled(data: Data) -> Iterator[Case]:
    """More features, but too few centers for tensor cores."""
    for dtype in DTYPES:
        for d, k in ((17, 3), (64, 20), (33, 32)):
            yield fits("many features", data.blobs(30_000, d, dtype, offset=3), k, "assign_tiled")
    yield from far(data, 64, 20, "assign_tiled", "assign_tiled")


def groups(data: Data) -> Iterator[Case]:
    """Far apart, so that scores leave half of the rows in doubt, or more."""
    for dtype, apart in (("float32", 1e4), ("float64", 1e6)):
        for d, k in ((8, 150), (40, 30), (40, 60)):
            X = data.noise(60_000, d, dtype)
            X += (apart * (np.arange(len(X)) % 4)[:, None]).astype(dtype)
            yield fits("groups far apart", X, k, "assign_close", max_iter=6)


def tensor(data: Data) -> Iterator[Case]:
    """More than 16 features and 32 centers: on the GPUs that launch_plans.py names, tensor cores. On H100, H200 and
    B200 from 33 features on by their own instructions, if a known product is right; those of others with fewer."""
    gpu = Gpu(cp, ("-DX_KIND=2",))
    if gpu.own_products:
        known = [{"right": True}, {"right": compute_as_known(gpu, OWN_PRODUCTS[gpu.own_products])}]
        yield Case(f"the known product of {gpu.own_products}", lambda: known)

    def halves(d: int) -> tuple[str, str]:
        own = own_products(gpu.own_products, d)
        return (own.kernel if own else "assign_half"), "assign_tensor"

    for dtype in DTYPES:
        for d, k in ((17, 33), (64, 129), (200, 300), (12, 120)):
            yield fits("tensor cores", data.blobs(30_000, d, dtype, offset=3), k, *halves(d))
    yield fits("about zero", data.blobs(30_000, 64, "float16"), 129, *halves(64))
    for d in (300, 650):  # 128 rows a block, in more shared memory than is given unasked, and 64
        yield fits("many features in one product", data.blobs(10_000, d, "float32"), 60, *halves(d))
    yield fits("too many features for one product", data.blobs(5_000, 1300, "float32"), 60, "assign_tensor")
    yield fits("noise", data.noise(300_000, 24, "float32"), 150, *halves(24), max_iter=4)
    yield fits("noise", data.noise(100_000, 128, "float32"), 300, *halves(128), max_iter=4)
    yield fits("ties", data.lattice(20_000, 20, "float32"), 60, *halves(20))
    yield fits("cosine", data.noise(20_000, 40, "float32"), 60, *halves(40), metric="cosine")
    yield from far(data, 64, 129, "assign_tensor", "assign_tiled")  # which leaves the other rows too short


def seeding(data: Data) -> Iterator[Case]:
    """Each way to begin, without weights, with integers, and with fractions; and centers that no row is left for."""
    X = data.blobs(50_000, 20, "float32")
    for weights in (None, data.rng.integers(0, 5, len(X)).astype(np.float64), data.rng.random(len(X))):
        yield fits("k-means++", X, 50, "filtered_potentials", weights=weights, max_iter=3)
        for init in ("random", "k-means||"):
            yield fits(init, X, 50, weights=weights, init=init, max_iter=3)
    for dtype, d, k in (("uint8", 3, 200), ("float16", 130, 20), ("float64", 9, 1200)):
        yield fits("k-means++", data.blobs(20_000, d, dtype), k, "filtered_potentials", max_iter=2)
    with bytes_of_few():
        for dtype, d, k in (("uint8", 40, 60), ("float16", 130, 40), ("float64", 24, 1200), ("float32", 16, 300)):
            X = data.blobs(20_000, d, dtype)
            yield fits("k-means++ by bytes", X, k, "byte_rows", "byte_doubts", max_iter=2)
            yield fits("k-means++ by bytes", X, k, "byte_doubts", weights=data.rng.random(len(X)), max_iter=2)
    # Four bands, which wait for each other.
    yield quantized(data.rng.integers(0, 256, (100, 90, 3), dtype=np.uint8), 9, "rgb", "floyd-steinberg")
    yield fits("empty clusters", np.repeat(data.noise(40, 3, "float64"), 50, axis=0), 60)


@contextmanager
def bytes_of_few() -> Iterator[None]:
    """Within this context k-means++ reads rows in bytes also where they are so few that it does not pay."""
    kept, seeding_bytes.SAVED = seeding_bytes.SAVED, -(2**62)
    try:
        yield
    finally:
        seeding_bytes.SAVED = kept


def many(X: NDArray[Any], k: int) -> Case:
    """Problems (b, n, d), all fitted in one launch."""

    def fit(X: Any, device: str) -> Answer:
        model = BatchedKMeans(k, random_state=0, device=device).fit(X)
        return {
            "centers": to_numpy(model.cluster_centers_).tobytes(),
            "labels": to_numpy(model.labels_).tobytes(),
            "inertia": model.inertia_.tobytes(),
            "n_iter": model.n_iter_.tobytes(),
        }

    def answers() -> list[Answer]:
        return [fit(X, "cpu"), fit(X, "cuda"), fit(cp.asarray(X), "cuda")]

    name = " x ".join(map(str, X.shape))
    return Case(f"problems, {name} {X.dtype}, k={k}", answers, ("problem_ranges", "fit_problems", "publish_problems"))


def inputs(data: Data) -> Iterator[Case]:
    """Arrays of CuPy, in place: in either order of memory, and from an address that is no multiple of 16; and problems
    that are fitted together, as are starts of one."""
    rows = data.blobs(40_000, 16, "float32")
    yield many(rows[: len(rows) // 4 * 4].reshape(4, -1, 16), 16)
    yield fits("starts", datasets.digits().X[: data.rows(1797)], 10, "fit_problems", whole=True, n_init=20)
    X = data.blobs(40_000, 21, "float32")
    yield fits("CuPy", X, 40, give=cp.asarray)
    yield fits("CuPy, by columns", X, 40, give=lambda X: cp.asfortranarray(cp.asarray(X)))
    yield fits("CuPy, shifted", X, 40, give=lambda X: cp.asarray(np.pad(X, ((1, 0), (0, 0))))[1:])


def torch(data: Data) -> Iterator[Case]:
    import torch

    yield fits("torch", data.blobs(40_000, 20, "float32"), 40, give=lambda X: torch.from_numpy(X).cuda())


def batches(data: Data) -> Iterator[Case]:
    """Rows for which CuPy's pool has too little memory: they go through in two batches, or in four and more."""
    X = data.blobs(300_000, 64, "float32")
    pool = cp.get_default_memory_pool()
    for share in (0.8, 0.3):
        pool.free_all_blocks()
        pool.set_limit(size=int(share * X.nbytes))
        try:
            yield fits(f"memory for {share:.0%} of the rows", X, 40, max_iter=4)
        finally:
            pool.set_limit(size=0)


def big(data: Data) -> Iterator[Case]:
    """More than 2^31 values; NumPy labels the last rows by the GPU's centers."""
    X = data.rng.integers(0, 256, (data.rows(17_000_000), 128), dtype=np.uint8)

    def answers() -> list[Answer]:
        model = KMeans(64, init=X[:64].astype(np.float64), n_init=1, max_iter=2, device="cuda").fit(cp.asarray(X))
        host = KMeans(64, device="cpu")
        host.cluster_centers_, host.n_features_in_ = to_numpy(model.cluster_centers_), X.shape[1]
        return [{"labels": host.predict(X[-3000:]).tobytes()}, {"labels": to_numpy(model.labels_)[-3000:].tobytes()}]

    yield Case(f"many values, {len(X):,} x {X.shape[1]} uint8, k=64", answers)


def images(data: Data) -> Iterator[Case]:
    """A photograph of 2.5 megapixels, from the host and from the device, without dithering and with either kind."""
    china = datasets.china()
    picture = (china.X * 255).round().astype(np.uint8).reshape(china.shape)
    if data.rows(china.X.shape[0]) < len(china.X):
        picture = np.ascontiguousarray(picture[::40, ::40])
    else:
        larger = picture.repeat(3, axis=0).repeat(3, axis=1)
        picture = np.clip(larger + data.rng.integers(-6, 7, larger.shape), 0, 255).astype(np.uint8)

    for k in (16, 256):
        for space in ("rgb", "oklab"):
            for dither in ("none", "bayer", "floyd-steinberg"):
                yield quantized(picture, k, space, dither)


def quantized(picture: NDArray[np.uint8], k: int, space: str, dither: str) -> Case:
    """A picture from the host and from the device."""

    def answers() -> list[Answer]:
        results = [
            quantize(picture, k, space=space, dither=dither, device="cpu"),
            quantize(picture, k, space=space, dither=dither, device="cuda"),
            quantize(cp.asarray(picture), k, space=space, dither=dither),
        ]
        return [{"palette": r.palette.tobytes(), "indices": to_numpy(r.indices).tobytes()} for r in results]

    shape = " x ".join(map(str, picture.shape))
    # Where the host is sooner done, as of the few pixels of a test, no kernel diffuses.
    diffused = dither == "floyd-steinberg" and diffusion.serves(*picture.shape[:2])
    return Case(f"picture, {shape}, {space}, {dither}, k={k}", answers, ("diffuse",) if diffused else ())


def sanitizer(data: Data) -> Iterator[Case]:
    """Each family once, small enough for compute-sanitizer, which takes a hundred times as long."""
    small = (("uint8", 3, 64), ("float16", 9, 33), ("float64", 33, 32), ("uint8", 40, 129), ("float32", 130, 200))
    for dtype, d, k in small:
        yield fits("small", data.blobs(3000, d, dtype), k, max_iter=4)
    X = data.blobs(3000, 64, "float16")
    yield fits("small, weighted", X, 129, weights=data.rng.random(len(X)), max_iter=4)
    with bytes_of_few():
        yield fits("small, by bytes", data.blobs(3000, 70, "float32"), 20, "byte_doubts", max_iter=1)
    yield many(data.blobs(600, 8, "float32").reshape(2, -1, 8), 5)
    yield fits("small, whole", data.blobs(600, 40, "float64"), 6, "fit_problems", whole=True, n_init=2)
    # Four bands, which wait for each other.
    yield quantized(data.rng.integers(0, 256, (100, 90, 3), dtype=np.uint8), 9, "rgb", "floyd-steinberg")
    yield fits("empty clusters", np.repeat(data.noise(40, 3, "float64"), 50, axis=0), 60)


GROUPS = {
    group.__name__: group
    for group in (low_dim, tiled, groups, tensor, seeding, inputs, torch, batches, big, images, sanitizer)
}


# ---------------------------------------------------------------- checking


@contextmanager
def kernels_named() -> Iterator[set[str]]:
    """The names of kernels that are launched within this context."""
    names: set[str] = set()
    run = Gpu.run

    def watched(self: Gpu, family: str, name: str, *args: Any, **rest: Any) -> None:
        names.add(name)
        run(self, family, name, *args, **rest)

    Gpu.run = watched  # type: ignore[method-assign]
    try:
        yield names
    finally:
        Gpu.run = run  # type: ignore[method-assign]


def check(case: Case) -> bool:
    """Whether all answers are NumPy's; prints the case's line."""
    start = time.perf_counter()
    with kernels_named() as ran:
        try:
            expected, *found = case.answers()
            wrong = [
                f"{name} of answer {i}"
                for i, answer in enumerate(found, 1)
                for name in expected
                if answer[name] != expected[name]
            ]
            wrong += [f"{name} did not run" for name in case.kernels if name not in ran]
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            wrong = [f"{error!r:.400} at {where.name}, line {where.lineno}"]
    seconds = f"{time.perf_counter() - start:.1f} s"
    print("FAIL" if wrong else "OK  ", case.name, seconds, *wrong, " ".join(sorted(ran)), sep="; ", flush=True)
    return not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", choices=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--rows", type=int, metavar="N", help="so many rows at most")
    parser.add_argument(
        "--own-allocations", action="store_true", help="no pool of memory, for tools that watch where arrays end"
    )
    args = parser.parse_args()
    stacks.WORTH_COMPILING = 0  # whatever was compiled before
    warnings.simplefilter("ignore")
    if args.own_allocations:
        cp.cuda.set_allocator(None)
        cp.cuda.set_pinned_memory_allocator(None)
    passed = []
    for name in args.groups:
        start = time.perf_counter()
        try:
            passed += [check(case) for case in GROUPS[name](Data(args.rows))]
        except Exception as error:  # data could not be made
            print(f"FAIL; {name}; {error!r:.400}", flush=True)
            passed.append(False)
        print(f"---- {name} {time.perf_counter() - start:.1f} s", flush=True)
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()

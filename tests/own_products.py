"""What tests of products by a GPU's own instructions share: devices with changed kernels, and the known product."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from host_cuda.runtime import HostCuda

from gpukmeans.engine.cuda.device import Gpu
from gpukmeans.engine.cuda.known_products import compute_as_known
from gpukmeans.engine.cuda.launch_plans import OWN_PRODUCTS, OwnProducts


@dataclass(frozen=True)
class Instructions:
    """Of one compute capability. known: the kernel of the known product."""

    name: str
    capability: str
    known: str

    @property
    def kernel(self) -> str:
        return f"assign_{self.name}"

    @property
    def own(self) -> OwnProducts:
        return OWN_PRODUCTS[self.kernel]

    def device(self, build: str = "fast", seed: int = 1) -> HostCuda:
        return HostCuda(build=build, seed=seed, capability=self.capability)

    def changed(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: list[tuple[str, str]] | None = None
    ) -> HostCuda:
        """A device whose kernels are compiled with these changes; each text that is changed stands there, or in
        ring.cuh."""
        monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))  # so that nobody finds these kernels
        cp = self.device()
        compile_here = cp.compile
        ring = (Path(str(files("gpukmeans.kernels"))) / "ring.cuh").read_text(encoding="utf-8")

        def otherwise(source: str, *more: Any, **how: Any) -> Any:
            if f"{self.known}(" in source:
                source = source.replace('#include "ring.cuh"\n', ring)
                for before, after in changes or []:
                    assert before in source
                    source = source.replace(before, after)
            return compile_here(source, *more, **how)

        monkeypatch.setattr(cp, "compile", otherwise)
        return cp

    def right(self, cp: HostCuda) -> bool:
        """Whether the known product is."""
        return compute_as_known(Gpu(cp, ("-DX_KIND=2",)), self.own)


WGMMA = Instructions("wgmma", "90", "known_product")
TCGEN05 = Instructions("tcgen05", "100", "known_sums")

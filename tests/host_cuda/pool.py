"""CuPy's pool of device memory, as far as it decides what fits."""

from __future__ import annotations

from dataclasses import dataclass

UNIT = 512  # bytes; all sizes are multiples of it


@dataclass
class Chunk:
    """Part of a block that CUDA gave."""

    size: int
    free: bool = False


class Pool:
    """cupy.cuda.MemoryPool: what is given back stays here, and serves what is asked for next if it is large enough,
    split if it is larger. Where CUDA has no more, it gets back the blocks of which nothing is in use."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._blocks: list[list[Chunk]] = []

    @property
    def used(self) -> int:
        return sum(chunk.size for block in self._blocks for chunk in block if not chunk.free)

    def take(self, size: int) -> Chunk | None:
        """None if there is none."""
        size = max(UNIT, size + -size % UNIT)
        fitting = [(chunk.size, b, c) for b, block in enumerate(self._blocks) for c, chunk in enumerate(block)
                   if chunk.free and chunk.size >= size]  # fmt: skip
        if fitting:
            _, b, c = min(fitting)
            chunk, block = self._blocks[b][c], self._blocks[b]
            if chunk.size > size:
                block.insert(c + 1, Chunk(chunk.size - size, free=True))
            chunk.size, chunk.free = size, False
            return chunk
        if self.total_bytes() + size > self.total:
            self.free_all_blocks()
        if self.total_bytes() + size > self.total:
            return None
        self._blocks.append([Chunk(size)])
        return self._blocks[-1][0]

    def give_back(self, chunk: Chunk) -> None:
        chunk.free = True
        block = next(block for block in self._blocks if any(other is chunk for other in block))
        joined: list[Chunk] = []
        for part in block:
            if joined and joined[-1].free and part.free:
                joined[-1].size += part.size
            else:
                joined.append(part)
        block[:] = joined

    def free_all_blocks(self) -> None:
        self._blocks = [block for block in self._blocks if not (len(block) == 1 and block[0].free)]

    def total_bytes(self) -> int:
        return sum(chunk.size for block in self._blocks for chunk in block)

"""What the known sums of compute capability 10.0's own instructions find; the rest is in test_own_products.py.

On a CPU these are tests/host_cuda/tcgen05.h, which has layouts, fences and waits from the PTX ISA, and refuses what a
device would answer with anything; so what is missing is found here.
"""

from __future__ import annotations

import pytest
from own_products import TCGEN05
from test_kernels import same, values

pytestmark = pytest.mark.kernels

WRONG = {
    "strides of rows": ("PIECES_OF_ROWS, 128)", "128, PIECES_OF_ROWS)"),
    "strides of centers": ("PIECES_OF_CENTERS, 128)", "PIECES_OF_CENTERS, 256)"),
    "the version of descriptors": ("PIECES_OF_ROWS, 128) | VERSION", "PIECES_OF_ROWS, 128)"),
    "where the next features of rows are": ("at * 2 * PIECES_OF_ROWS", "at * PIECES_OF_ROWS"),
    "where the next features of centers are": ("at * 2 * PIECES_OF_CENTERS", "at * 4 * PIECES_OF_CENTERS"),
    "where the other rows are": ("part * (ROWS / 2 * 16)", "part * (ROWS * 16)"),
    "the product's shape": ("PRODUCT_128_128,", "PRODUCT_128_128 ^ 1u << 16,"),
    "what the first product is added to": ("first > 0 || at > 0", "true"),
    "what the next is added to": ("first > 0 || at > 0", "first > 0"),
    "another warp's lanes": ("warp % 4 * 32 * ONE_LANE", "warp / 2 * 32 * ONE_LANE"),
    "the other rows' columns": ("warp / 4 * CENTERS", "warp % 2 * CENTERS"),
    "where sums are": ("i / 2 % 2 * 8 + lane / 4", "i % 2 * 8 + lane / 4"),
    "bytes that are announced": ("full[turn.slot], SLOT)", "full[turn.slot], SLOT + 16)"),
    "a phase": ("turn.parity ^ 1, patience)", "turn.parity, patience)"),
    "no waiting for centers": ("wait_for(&ring.slots.full[turn.slot], turn.parity, patience);", ""),
    "no waiting for rows": ("wait_for(&ring.rows, block & 1, patience);", ""),
    "no waiting for products": ("wait_for(&ring.done[now.half], now.parity, patience);", ""),
    "no waiting for who reads": ("wait_for(&ring.read[now.half], now.parity ^ 1, patience);", ""),
    "no waiting for sums": ("            wait_for_sums(sums);\n", ""),
    "no slot is given back": ("arrive_after_products(&ring.slots.empty[turn.slot]);", ""),
    "a slot is given back too soon": (
        "arrive_after_products(&ring.slots.empty[turn.slot]);",
        "arrive(&ring.slots.empty[turn.slot]);",
    ),
    "products are told of too soon": ("arrive_after_products(&ring.done[now.half]);", "arrive(&ring.done[now.half]);"),
    "no fence before sums are read": ("now.parity, patience);\n    fence_after_sync();", "now.parity, patience);"),
    "no fence before sums are overwritten": (
        "fence_after_sync();\n            arrive_with_bytes",
        "arrive_with_bytes",
    ),
    "no fence after sums are read": ("fence_before_sync();\n    __syncwarp();", "__syncwarp();"),
    "more than one thread asks": (
        "if (lane == 0) {\n            multiply_all",
        "if (lane < 2) {\n            multiply_all",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_known_sums_find(monkeypatch, tmp_path, wrong):
    before, after = WRONG[wrong]
    if wrong == "no fence before sums are overwritten":  # nor the one that waiting for centers would bring with it
        changes = [
            (before, after),
            ("turn.parity, patience);\n                fence_after_sync();", "turn.parity, patience);"),
        ]
    else:
        changes = [(before, after)]
    assert not TCGEN05.right(TCGEN05.changed(monkeypatch, tmp_path, changes))


def test_tensor_memory_has_to_be_given_back(on, monkeypatch, tmp_path):
    """The block after finds out, of the same launch or the next."""
    cp = TCGEN05.changed(
        monkeypatch, tmp_path, [("if (threadIdx.x / 32 == LOOKERS) give_tensor_memory_back(memory);", "")]
    )
    with pytest.raises(Exception, match="has not given back"):
        same(on, cp, values("float32", 300, 40), 40, max_iter=2)

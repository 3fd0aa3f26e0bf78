"""What the known product of compute capability 9.0's own instructions finds; the rest is in test_own_products.py.

On a CPU these are tests/host_cuda/wgmma.h, which has layouts and waits from the PTX ISA and decodes descriptors; so a
wrong one is found here.
"""

from __future__ import annotations

import pytest
from own_products import WGMMA

pytestmark = pytest.mark.kernels

WRONG = {
    "strides of rows": ("PIECES_OF_ROWS, 128)", "128, PIECES_OF_ROWS)"),
    "strides of centers": ("PIECES_OF_CENTERS, 128)", "PIECES_OF_CENTERS, 256)"),
    "where the next features of rows are": ("at * 2 * PIECES_OF_ROWS", "at * PIECES_OF_ROWS"),
    "where the next features of centers are": ("at * 2 * PIECES_OF_CENTERS", "at * 4 * PIECES_OF_CENTERS"),
    "where a warpgroup's rows are": ("ys + warp / 4 * 64,", "ys + warp / 4 * 32,"),
    "where sums are": ("i / 4 * 8 + lane % 4 * 2", "i / 4 * 8 + lane % 4"),
    "what the first product is added to": ("sum[i] = 0.0f;", "sum[i] = 1.0f;"),
    "bytes that are announced": ("full[turn.slot], SLOT)", "full[turn.slot], SLOT + 16)"),
    "a phase": ("turn.parity ^ 1, patience)", "turn.parity, patience)"),
    "no waiting for centers": ("wait_for(&ring.full[turn.slot], turn.parity, patience);", ""),
    "no waiting for sums": ("    wait_for_products(sum);\n", ""),
    "no waiting before a slot is given back": ("        wait_for_earlier_products();\n", ""),
    "no slot is given back": ("arrive(&ring.empty[before]);", "{}"),
    "no fence before products": ("        fence_products();\n", ""),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_known_product_finds(monkeypatch, tmp_path, wrong):
    assert not WGMMA.right(WGMMA.changed(monkeypatch, tmp_path, [WRONG[wrong]]))

"""pytest -p device_only: of the tests, those that use the device under test, and no stand-in for a GPU on the CPU."""

from __future__ import annotations

import pytest

# Fixtures that run kernels on the CPU whatever the device under test is.
STAND_INS = {"address", "host", "on", "race"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = []
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        if "device" not in used or used & STAND_INS:
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]

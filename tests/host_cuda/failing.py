"""A GPU on which one allocation fails."""

from __future__ import annotations

from typing import Any

from .runtime import HostCuda


class FailingHost(HostCuda):
    """After `arm`, one allocation fails, before which there are so many."""

    left: int | None = None

    def arm(self, at: int, error: Exception) -> None:
        self.left, self.error = at, error

    def empty(self, shape: Any, dtype: Any) -> Any:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise self.error
        return super().empty(shape, dtype)

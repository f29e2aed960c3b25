"""Peak memory of one call: the resident high-water mark of this process above where it stood before."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _kib(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    if found is None:
        raise OSError(f"{STATUS} has no {field}")
    return int(found[1])


def peak_bytes(run: Callable[[], Any]) -> tuple[Any, int | None]:
    """The result of ``run``, and the bytes by which it raised resident memory at its peak, its result included.

    None off Linux. Free memory goes back to the system first (malloc_trim), else the call would reuse pages that are
    counted already.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        RESET.write_text("5")
        before = _kib("VmRSS")
    except (OSError, AttributeError):
        return run(), None
    result = run()
    return result, max(0, _kib("VmHWM") - before) << 10

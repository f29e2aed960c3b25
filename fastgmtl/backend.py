"""The compiled kernels: present, absent or broken, and who decides which one runs.

Three states: ``ok`` (the module loads), ``absent`` (no compiled module: the reference runs, one warning at the
first operator call) and ``broken`` (a module is there and does not load: an error that says why).
``FASTGMTL_BACKEND`` is ``auto`` (kernels where there are any), ``kernel`` (a fallback is an error) or
``reference``; :func:`use_backend` overrides it in a ``with`` block.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import torch

CHOICES = ("auto", "kernel", "reference")
REBUILD = "pip install --no-deps --force-reinstall --no-cache-dir fastgmtl (from a checkout: pip install -e .)"


class FastgmtlWarning(UserWarning):
    """The category of every warning of this package."""


def _chosen() -> str:
    choice = os.environ.get("FASTGMTL_BACKEND", "auto")
    if choice not in CHOICES:
        raise ValueError(f"FASTGMTL_BACKEND must be one of {', '.join(CHOICES)}, got {choice!r}")
    return choice


def _load() -> tuple[ModuleType | None, str]:
    """The compiled module and, where there is none, the reason."""
    # Beside this file and nowhere else: a module of another installation is none of ours.
    spec = PathFinder.find_spec("fastgmtl._C", [str(Path(__file__).parent)])
    if spec is None or spec.loader is None:
        return None, "absent"
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[spec.name] = module
        return module, "ok"
    except ImportError as error:
        return None, (
            f"the compiled module of fastgmtl is there and cannot be loaded: {error}. Running: torch "
            f"{torch.__version__}. Rebuild it: {REBUILD}; or set FASTGMTL_BACKEND=reference to run without it"
        )


kernels, state = _load()
_choice = _chosen()
_warned = False
# Device types on which the compiled module runs now; what every operator call looks up.
active: dict[str, ModuleType] = {}


def _activate() -> None:
    active.clear()
    if kernels is not None and _choice != "reference":
        active["cpu"] = kernels
        if kernels.CUDA:
            active["cuda"] = kernels


_activate()


def choice() -> str:
    """The backend asked for: ``auto``, ``kernel`` or ``reference``."""
    return _choice


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the operators of a ``with`` block on ``"kernel"``, ``"reference"`` or ``"auto"``."""
    global _choice
    if name not in CHOICES:
        raise ValueError(f"use_backend: name must be one of {', '.join(CHOICES)}, got {name!r}")
    before, _choice = _choice, name
    _activate()
    try:
        yield
    finally:
        _choice = before
        _activate()


def why_not(device: torch.device) -> str:
    """Why no kernel can run on ``device``; empty when one can."""
    if state == "absent":
        return "the package was installed without its compiled module"
    if kernels is None:
        return state
    if device.type == "cpu":
        return ""
    if device.type == "cuda":
        return "" if kernels.CUDA else "the compiled module was built without CUDA (no nvcc was found)"
    return f"there are no kernels for device type {device.type!r}"


def kernels_for(device: torch.device) -> ModuleType | None:
    """The compiled module if it shall run an operator on ``device``, None if the reference shall.

    Raises RuntimeError where a kernel was asked for and there is none, and where the module is broken.
    """
    found = active.get(device.type)
    if found is None and _choice != "reference":
        _fallback(device)
    return found


def _fallback(device: torch.device) -> None:
    global _warned
    reason = why_not(device)
    if _choice == "kernel":
        raise RuntimeError(f"FASTGMTL_BACKEND=kernel, but {reason}. Mend it: {REBUILD}")
    if state not in ("ok", "absent"):
        raise RuntimeError(reason)
    if not _warned:
        _warned = True
        warnings.warn(
            f"fastgmtl runs its PyTorch reference on {device.type}: {reason}. `python -m fastgmtl info` tells more",
            FastgmtlWarning,
            stacklevel=4,
        )

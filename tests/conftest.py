"""What all tests share: where `cases` is, threads, and whether the kernels and the real data must be there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fastgmtl import backend
from fastgmtl.data.files import data_roots

# A fixed sequence of examples: a failure is one for everybody. Timings of a busy machine are not failures.
hypothesis.settings.register_profile(
    "fastgmtl", derandomize=True, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("fastgmtl")


@pytest.fixture(scope="session")
def kernels() -> ModuleType:
    """The compiled module: absent, the test is skipped, or fails where FASTGMTL_REQUIRE_KERNELS=1."""
    if backend.kernels is not None:
        return backend.kernels
    reason = f"needs the compiled module, which is {backend.state}"
    if os.environ.get("FASTGMTL_REQUIRE_KERNELS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data: absent, the test is skipped, or fails where FASTGMTL_REQUIRE_DATA=1."""
    for root in data_roots():
        if root.is_dir():
            return root
    reason = f"needs the real data of FASTGMTL_DATA; looked for {', '.join(map(str, data_roots()))}"
    if os.environ.get("FASTGMTL_REQUIRE_DATA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def threads() -> Iterator[None]:
    """The number of threads is put back after the test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

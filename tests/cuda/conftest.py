"""Where these tests run: on a GPU. Without one they skip, or fail where FASTGMTL_REQUIRE_CUDA=1.

FASTGMTL_TEST_DEVICE=cpu puts the CPU in its place: that tests the tests, as far as they need no streams.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cuda_cases import waiting_is

from fastgmtl import backend


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cuda)
            # Advice of Inductor, of the engine about warm-ups on a stream, and what Triton's own code uses.
            for warning in (".*TensorFloat32.*", ".*AccumulateGrad.*", ":DeprecationWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{warning}"))


def why_not() -> str:
    """What is missing for tests on a GPU; empty where all is there."""
    if not torch.version.cuda:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "there is no GPU"
    return backend.why_not(torch.device("cuda"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    wanted = os.environ.get("FASTGMTL_TEST_DEVICE", "cuda")
    reason = why_not()
    if os.environ.get("FASTGMTL_REQUIRE_CUDA") == "1" and (reason or wanted != "cuda"):
        pytest.fail(f"FASTGMTL_REQUIRE_CUDA=1, but {reason or 'FASTGMTL_TEST_DEVICE is ' + wanted}")
    if wanted != "cuda":
        return torch.device(wanted)
    if reason:
        pytest.skip(f"needs a GPU: {reason}")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session")
def gpu(device: torch.device) -> torch.device:
    """A real one: what has streams."""
    if device.type != "cuda":
        pytest.skip("needs streams, which nothing stands in for")
    return device


@pytest.fixture(scope="session")
def second(gpu: torch.device) -> torch.device:
    """A GPU that is not the current one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs, there is one")
    return torch.device("cuda", (gpu.index + 1) % torch.cuda.device_count())


@pytest.fixture(autouse=True)
def as_it_was(device: torch.device) -> Iterator[None]:
    """No test leaves another current device, stream or mode behind."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.current_device(), torch.cuda.current_stream()
    yield
    waiting_is("default")
    torch.cuda.synchronize()
    assert (torch.cuda.current_device(), torch.cuda.current_stream()) == before

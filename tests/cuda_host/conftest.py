from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cuda_host_build import Host, build


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cuda_host)


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> Host:
    assert shutil.which(os.environ.get("CXX", "c++")), "tests/cuda_host needs a C++ compiler"
    return Host(build(Path(request.config.cache.mkdir("cuda_host"))))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The model's tensors are tiny: waking threads for them takes longer than the sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

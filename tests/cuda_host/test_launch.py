"""csrc/cuda/launch.cuh by itself: grids, errors, the current device, workspaces of any size."""

from __future__ import annotations

import re

import pytest
from cuda_host_build import Host, HostError

MOST = 2**31 - 1


@pytest.mark.parametrize(("blocks", "tiles"), [(1, 1), (5, 1), (1, 3), (7, 4), (3, 500)])
def test_every_block_runs_once(host: Host, blocks: int, tiles: int) -> None:
    """With all its threads, and the grid that was asked for."""
    assert host.launch(blocks, tiles) == blocks * tiles


@pytest.mark.parametrize(("blocks", "tiles"), [(0, 1), (1, 0), (0, 0), (-1, 1), (1, -1), (0, 65536), (MOST + 1, 0)])
def test_nothing_is_started_for_nothing(host: Host, blocks: int, tiles: int) -> None:
    """A grid without blocks is an error of CUDA's, which a launch without work must not get."""
    assert host.launch(blocks, tiles) == 0


@pytest.mark.parametrize(("blocks", "tiles"), [(MOST + 1, 1), (1, 65536), (2**40, 2**20)])
def test_a_grid_that_cuda_has_not(host: Host, blocks: int, tiles: int) -> None:
    wanted = f"visit: a grid may have 2147483647 x 65535 blocks, this one would need {blocks} x {tiles}; split the"
    with pytest.raises(HostError, match="^" + re.escape(wanted)):
        host.launch(blocks, tiles)


def test_the_largest_grid_is_started(host: Host) -> None:
    """And what CUDA says comes with the kernel's name."""
    with pytest.raises(
        HostError, match=r"^visit: CUDA error cudaErrorLaunchFailure: block \(0, 0\), thread 0: stopped$"
    ):
        host.launch(MOST, 65535, stops=True)


@pytest.mark.parametrize("device", [0, 1])
def test_the_device_is_current_within_and_put_back_after(host: Host, device: int) -> None:
    assert host.guard(device) == (device, 0)


def test_a_device_that_is_not_there(host: Host) -> None:
    with pytest.raises(HostError, match=r"^cudaSetDevice\(2\): CUDA error cudaErrorInvalidDevice: no such device$"):
        host.guard(2)
    assert host.guard(1) == (1, 0)


@pytest.mark.parametrize("of_torch", [True, False])
def test_workspaces(host: Host, of_torch: bool) -> None:
    """None for no bytes, else all of them; where one is asked for at an offset, from there."""
    host.workspaces(of_torch)
    try:
        assert host.workspace(0) == (False, 0)
        for size in (1, 8, 1000, 1 << 20):
            assert host.workspace(size) == (True, 8)
    finally:
        host.workspaces()

"""The host execution reports the faults that were planted in faults.cu, where they are, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cuda_host_build import Host, HostError, build

FAULTS = {
    "barrier_not_reached": r"__syncthreads \(faults.cu:\d+\): not reached by all: thread 0 is there, thread 64 has",
    "barrier_missed_by_one": r"__syncthreads .* not reached by all: thread 0 is there, thread 7 has left",
    "barriers_in_two_places": r"__syncthreads .* thread 0 is there, thread 64 waits at __syncthreads \(faults.cu",
    "shuffle_divergent": r"__shfl_xor_sync \(faults.cu:\d+\): divergent: thread 0 .* thread 16 has left the kernel",
    "shuffle_with_two_masks": r"__shfl_xor_sync .*divergent: thread 0 is there with mask 4294967295, thread 16 has",
    "shuffle_from_outside_of_the_mask": r"__shfl_xor_sync .* reads lane 16, which is not in the mask",
    "shuffle_by_a_lane_not_in_the_mask": r"thread 16: __shfl_xor_sync .* the calling lane is not in the mask",
    "shuffle_after_some_left": r"__ballot_sync .*divergent: thread 0 .* thread 31 has left the kernel",
    "shared_never_written": r"read of shared memory never written \(line \d+\): element 5",
    "shared_of_the_last_block": r"block \(1, 0\), thread 0: read of shared memory never written",
    "shared_read_without_barrier": r"race on shared memory: read at line \d+ by thread 1, written at line .* thread 0",
    "shared_overwritten_without_barrier": r"race on shared memory: write at line \d+ by thread 1, read at line \d+ by",
    "shared_written_twice": r"race on shared memory: write at line \d+ by thread 1, written at line \d+ by thread 0",
    "shared_beyond_the_warp": r"(race on shared memory: read .* by thread \d+, written|never written)",
    "shared_out_of_bounds": r"write of shared memory out of bounds \(line \d+\): element 128 of 128",
    "dynamic_shared_out_of_bounds": r"write of shared memory out of bounds \(line \d+\): element 128 of 128",
    "dynamic_shared_larger_than_given": r"dynamic shared memory: 516 bytes are used, the launch gave 512",
    "global_read_out_of_bounds": r"block \(1, 0\), thread 127: read out of bounds: 4 bytes at byte 1024 of in",
    "global_read_before_the_start": r"block \(0, 0\), thread 0: read out of bounds",
    "global_write_out_of_bounds": r"block \(1, 0\), thread 127: write out of bounds: 4 bytes at byte 1024 of out",
    "global_misaligned": r"thread 1: read misaligned: 16 bytes at byte 4 of in",
    "global_input_written": r"write to in, which is an input",
    "global_written_twice": r"block \(1, 0\), thread 0: race on global memory: two writes at byte 0 of out",
    "global_read_of_another_thread": r"thread 1: race on global memory: read and write at byte 0 of out",
    "global_never_written": r"read of memory never written at byte 0 of out",
}


def run(host: Host, name: str) -> torch.Tensor:
    # One array, so that `in` has no registered neighbour just before it.
    memory = torch.arange(1024, dtype=torch.int32)
    data, out = memory[128:384], memory[640:896]
    host.fault(name, data, out)
    return out


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_reported(host: Host, name: str) -> None:
    with pytest.raises(HostError, match=name + ": CUDA error cudaErrorLaunchFailure: .*" + FAULTS[name]):
        run(host, name)


def test_sound_kernel_passes_also_after_a_fault(host: Host) -> None:
    with pytest.raises(HostError):
        run(host, "barrier_not_reached")
    out = run(host, "sound")
    data = torch.arange(128, 384)
    odd_before = (torch.arange(256) % 32) // 2
    expected = data + data.reshape(2, 128).sum(1, keepdim=True).expand(2, 128).reshape(-1) + odd_before
    assert torch.equal(out.long(), expected)


def test_every_fault_is_listed(host: Host) -> None:
    source = (Path(__file__).parent / "faults.cu").read_text()
    planted = {line.split("ENTRY(")[1].split(")")[0] for line in source.splitlines() if line.startswith("    ENTRY(")}
    assert planted == {*FAULTS, "sound", "plain_out_of_bounds"}


PLAIN = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
libc = ctypes.CDLL(None)
libc.malloc.restype = library.cuda_host_fault.restype = ctypes.c_void_p
memory = [ctypes.c_void_p(libc.malloc(1024)) for _ in range(2)]
for name in (b"shared_read_without_barrier", b"barrier_not_reached"):
    assert library.cuda_host_fault(name, *memory)
print("alive", flush=True)
library.cuda_host_fault(b"plain_out_of_bounds", *memory)
"""


def preloads(*names: str) -> str:
    compiler = os.environ.get("CXX", "c++")
    asked = [[compiler, f"-print-file-name={name}"] for name in names]
    return " ".join(subprocess.run(command, capture_output=True, text=True).stdout.strip() for command in asked)


def test_address_sanitizer_sees_plain_accesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fibres get on with AddressSanitizer, which finds what bypasses the checked intrinsics."""
    monkeypatch.setenv("FASTGMTL_CXXFLAGS", "-fsanitize=address")
    library = build(tmp_path, [Path(__file__).parent / "faults.cu"])
    # libstdc++ comes with it, because AddressSanitizer must find the throwing function when the process starts.
    environment = {**os.environ, "LD_PRELOAD": preloads("libasan.so", "libstdc++.so"), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-c", PLAIN, str(library)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "alive\n", done.stderr
    assert "heap-buffer-overflow" in done.stderr and "plain_out_of_bounds" in done.stderr

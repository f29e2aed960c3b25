"""What this installation is and what would run: the answer to most bug reports."""

from __future__ import annotations

import os
import platform

import torch

from fastgmtl import backend

OPERATORS = (
    "csr",
    "spmm",
    "sddmm",
    "spmm_backward",
    "attention",
    "attention_backward",
    "relation_gate",
    "relation_gate_backward",
    "gram",
    "combine",
    "task_weights",
    "gatv2_score",
    "gatv2_backward",
    "edge_energy",
    "gibbs",
    "concrete",
    "concrete_draw",
    "concrete_edges",
    "gather_relu",
    "gather_relu_backward",
    "rspmm",
    "intersect",
    "relu_sum",
    "relu_sum_backward",
    "block_spmm",
    "block_sddmm",
)


def info() -> str:
    """Versions, devices, SIMD level, threads and, for every operator, what would run; as lines of text.

    Starts no CUDA context and reads no network.
    """
    from fastgmtl import __version__

    kernels = backend.kernels
    lines = [
        f"fastgmtl    {__version__}",
        f"python      {platform.python_version()} on {platform.platform()}",
        f"torch       {torch.__version__}",
        f"backend     {backend.choice()} (FASTGMTL_BACKEND), compiled module: {_state()}",
    ]
    if kernels is not None:
        border = "DLPack exchange API" if kernels.uses_exchange_api() else "DLPack capsules"
        lines += [
            f"built by    {kernels.BUILD}",
            f"border      {border}",
            f"SIMD        {kernels.simd()} (has {', '.join(kernels.simd_levels())}; FASTGMTL_SIMD forces one)",
        ]
    lines += [
        f"threads     {torch.get_num_threads()} of {os.cpu_count()} processors",
        f"devices     {_devices()}",
        "",
        f"{'operator':<24}{'cpu':<12}cuda",
    ]
    cpu, cuda = (_runs(torch.device(name)) for name in ("cpu", "cuda"))
    lines += [f"{name:<24}{cpu:<12}{'reference' if name == 'csr' else cuda}" for name in OPERATORS]
    return "\n".join(lines)


def _state() -> str:
    if backend.state in ("ok", "absent"):
        return backend.state
    return f"broken: {backend.state}"


def _runs(device: torch.device) -> str:
    if backend.choice() == "reference":
        return "reference"
    reason = backend.why_not(device)
    return f"reference ({reason})" if reason else "kernel"


def _devices() -> str:
    if not torch.backends.cuda.is_built():
        return "cpu (this torch is built without CUDA)"
    return f"cpu, {torch.cuda.device_count()} x cuda"

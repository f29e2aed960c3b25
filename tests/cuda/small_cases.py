"""Every call of the one table on small graphs, with its gradients: what compute-sanitizer watches.

``python tests/cuda/small_cases.py [DEVICE]``
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from cases import CALLS, MEDIUM
from cuda_cases import gradients, pair


def main() -> None:
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    count = 0
    for name in CALLS:
        for dtype, tasks, width in ((torch.float32, 3, 8), (torch.bfloat16, 2, 5)):
            call, _ = pair(name, MEDIUM["one_row"], device, tasks, width, dtype)
            call.run(*call.tensors)
            gradients(call.of_floats(call.run), call.inputs(True))
            count += 1
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(f"{count} calls and their gradients on {device}")


if __name__ == "__main__":
    main()

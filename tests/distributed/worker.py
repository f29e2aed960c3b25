"""One rank of a test: ``worker.py MODULES RANK SIZE FOLDER`` runs every ``check_`` of some modules beside the others.

What failed is written to FOLDER/RANK.json, by the name of the check.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from fastgmtl.distributed import of_group


def main(modules: str, rank: int, size: int, folder: Path) -> None:
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent), str(here.parent / "gradients")]
    torch.set_num_threads(1)
    store = f"file://{folder / 'meet'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    checks = {
        f"{module}.{name}": check
        for module in modules.split(",")
        for name, check in vars(importlib.import_module(module)).items()
        if name.startswith("check_")
    }
    failed = {}
    for name, check in checks.items():
        torch.manual_seed(0)
        try:
            check(of_group(None))
        except Exception:
            failed[name] = traceback.format_exc()
        dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps({"ran": list(checks), "failed": failed}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))

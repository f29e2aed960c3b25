"""The command bench: pytest on the bench folder of the checkout."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import fastgmtl
from fastgmtl.cli.errors import CliError, unknown

# Names of several benches at once; ``ops`` are all that are in none of these.
GROUPS = {
    "layers": ("layers", "accelerate"),
    "gradients": ("gradients",),
    "meta": ("meta",),
    "methods": ("meta", "rcgrad", "struchis"),
}


def bench(names: list[str], compare: Path | None) -> int:
    """Run bench/bench_NAME.py for every name or member of a group, or all.

    Returns 0, 1 when something failed, 130 when interrupted.
    """
    folder = Path(fastgmtl.__file__).resolve().parent.parent / "bench"
    known = {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}
    if not known:
        raise CliError(
            f"bench: there are no benchmarks in {folder}; they are part of the repository, not of the "
            "installed package: run this in a checkout installed with pip install -e ."
        )
    groups = {name: [member for member in members if member in known] for name, members in GROUPS.items()}
    groups["ops"] = [name for name in known if name != "gpu" and all(name not in of for of in GROUPS.values())]
    for name in names:
        if name not in {**known, **groups}:
            raise unknown("bench", name, sorted({**groups, **known}))
    chosen = dict.fromkeys(member for name in names or known for member in groups.get(name, [name]))
    for package in ("pytest", "pytest_benchmark"):
        if importlib.util.find_spec(package) is None:
            raise CliError(f'bench: {package} is not installed; do: pip install "fastgmtl[bench]"')
    if compare is not None and not compare.is_file():
        raise CliError(f"--compare: file {compare} does not exist; required are the rows (.jsonl) of an earlier run")
    words = [sys.executable, "-m", "pytest", *(str(known[name]) for name in chosen)]
    if compare is not None:
        words.append(f"--compare={compare.resolve()}")
    code = subprocess.run(words, cwd=folder.parent).returncode
    return {0: 0, 2: 130}.get(code, 1)

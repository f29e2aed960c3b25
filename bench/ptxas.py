"""Registers, spills, shared memory and occupancy of every CUDA kernel: ``python -m bench.ptxas [--write] [FOLDER]``.

Read from what ptxas said when the kernels were built (``build/objects-*/*.ptxas``); ``--write`` keeps the table in
results/ptxas.md. Without a build by nvcc there is nothing to print.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build"
RESULT = Path(__file__).with_name("results") / "ptxas.md"
BLOCK = 128  # threads, as kBlock in csrc/cuda/launch.cuh
WARPS, REGISTERS, SHARED = 64, 65536, 164 << 10  # of a multiprocessor of the A100; the H100's differ in shared memory
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?, (\d+) bytes smem)?")


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of a kernel on an architecture; sizes in bytes."""

    name: str
    arch: str
    registers: int
    stack: int
    stores: int
    loads: int
    shared: int

    @property
    def warps(self) -> int:
        """Warps that a multiprocessor holds at once, in blocks of 128 threads."""
        per_warp = -(-self.registers * 32 // 256) * 256
        blocks = (REGISTERS // 4) // per_warp  # a block has one warp on each quarter of the registers
        if self.shared:
            blocks = min(blocks, SHARED // (self.shared + 1024))
        return min(WARPS, blocks * BLOCK // 32)

    @property
    def spills(self) -> bool:
        return self.stores + self.loads > 0


def parse(text: str) -> Iterator[tuple[str, Kernel]]:
    """(mangled name, kernel) of each entry in the words of ptxas."""
    name, arch, frame = "", "", ("0", "0", "0")
    for line in text.splitlines():
        if found := ENTRY.search(line):
            (name, arch), frame = found.groups(), ("0", "0", "0")
        elif found := FRAME.search(line):
            frame = found.groups()
        elif name and (found := USED.search(line)):
            stack, stores, loads = map(int, frame)
            yield name, Kernel(name, arch, int(found[1]), stack, stores, loads, int(found[2] or 0))
            name = ""


def plain(demangled: str) -> str:
    """``void fastgmtl::cuda::(anonymous namespace)::f<float, 4>(G<float>)`` as ``f<float, 4>``."""
    text = re.sub(r"\(anonymous namespace\)::|_NV_ANON_NAMESPACE::|fastgmtl::cuda::|^void ", "", demangled)
    text = re.sub(r"\((?:Mode|[A-Z]\w*)\)(\d+)", r"\1", text)  # an enumerator, as a cast
    text = text.replace("__nv_bfloat16", "bf16").replace("__half", "half")
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return text[:at]
    return text


def kernels(logs: Iterable[Path]) -> list[Kernel]:
    """All kernels of the build, by name and architecture."""
    found = [pair for log in logs for pair in parse(log.read_text())]
    names = "\n".join(mangled for mangled, _ in found)
    text = subprocess.run(["c++filt"], input=names, capture_output=True, text=True, check=True).stdout
    given = zip(found, text.splitlines(), strict=True)
    made = [Kernel(plain(name), *list(vars(kernel).values())[1:]) for (_, kernel), name in given]
    return sorted(made, key=lambda k: (k.name, k.arch))


def table(found: list[Kernel]) -> list[str]:
    """In Markdown: one line a kernel, the architectures side by side."""
    archs = sorted({k.arch for k in found})
    columns = [f"{what} {arch}" for arch in archs for what in ("registers", "warps")]
    lines = [f"| kernel | {' | '.join(columns)} | shared | stack, spill stores, spill loads |"]
    lines.append("| --- |" + " ---: |" * (len(columns) + 2))
    for name in sorted({k.name for k in found}):
        by_arch = {k.arch: k for k in found if k.name == name}
        cells = [
            str(v) for a in archs for v in ((by_arch[a].registers, by_arch[a].warps) if a in by_arch else ("", ""))
        ]
        spilled = [f"{a}: {k.stack}, {k.stores}, {k.loads}" for a, k in by_arch.items() if k.stack or k.spills]
        shared = max(k.shared for k in by_arch.values())
        lines.append(f"| `{name}` | {' | '.join(cells)} | {shared or ''} | {'; '.join(spilled)} |")
    return lines


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("folder", nargs="?", type=Path, default=BUILD)
    options.add_argument("--write", action="store_true", help=f"keep the table in {RESULT.parent.name}/{RESULT.name}")
    given = options.parse_args()
    found = kernels(sorted(given.folder.glob("**/*.ptxas")))
    if not found:
        print(f"no CUDA kernels were built in {given.folder}: nvcc was not found, or FASTGMTL_CUDA=0")
        return
    spills = sum(k.spills for k in found)
    lines = table(found)
    print("\n".join(lines))
    print(f"{len(found)} kernels, {spills} with spills")
    if given.write:
        head = [
            "# What ptxas says of the CUDA kernels",
            "",
            "`python -m bench.ptxas --write`, after a build by nvcc. Warps: how many of the 64 of a multiprocessor fit",
            "beside each other, in blocks of 128 threads, by registers and static shared memory (bytes). The last",
            "column is empty where nothing goes to local memory.",
            "",
        ]
        RESULT.write_text("\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()

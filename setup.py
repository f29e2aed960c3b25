"""Build of fastgmtl._C by ninja: C++ per instruction set, CUDA where nvcc is. PyTorch is neither needed nor included.

Environment, all optional:
  FASTGMTL_NO_EXT=1      no compiled module: a pure Python wheel, the PyTorch reference runs
  FASTGMTL_CUDA=0 | 1    never build the CUDA part | fail without nvcc (default: build it if nvcc is found)
  TORCH_CUDA_ARCH_LIST   CUDA architectures, such as "8.0;9.0+PTX" (default: the visible device's, else 8.0 9.0+PTX)
  FASTGMTL_CXXFLAGS      further C++ flags for compiling and linking, such as -fsanitize=address
  MAX_JOBS               compilers at once (default: the number of processors)
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
FLAGS = (
    "-std=c++17 -fPIC -fvisibility=hidden -fopenmp -ffp-contract=fast -fno-math-errno "
    "-Wall -Wextra -Wno-psabi -Wno-maybe-uninitialized"
).split()
# One copy of the loops per instruction set; the names are those of csrc/cpu/level.h.
# The baseline is for processors of before 2013: at -O2 it compiles in half the time.
LEVELS = {
    "baseline": ["-O2"],
    "avx2": "-mavx2 -mfma -mf16c -mbmi2".split(),
    "avx512": "-mavx2 -mfma -mf16c -mbmi2 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512".split(),
}
LEVELLED = (
    "spmm",
    "sddmm",
    "attention",
    "attention_backward",
    "gatv2_score",
    "edge_energy",
    "gibbs",
    "gather_relu",
    "rspmm",
    "intersect",
    "relu_sum",
    "block_spmm",
    "concrete",
    "relation_gate",
    "gram",
    "combine",
    "task_weights",
)


def cuda_home() -> Path | None:
    """Folder of the CUDA toolkit, or None where the CUDA part shall not be built."""
    wish = os.environ.get("FASTGMTL_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"FASTGMTL_CUDA must be 0 or 1, got {wish!r}")
    if wish == "0" or not any((CSRC / "cuda").glob("*.cu")):
        return None
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")):
        if home and (Path(home) / "bin" / "nvcc").exists():
            return Path(home)
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if Path(nvcc).exists():
        text = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
        tops = [line.split("=", 1)[1] for line in text.splitlines() if line.startswith("#$ TOP=")]
        return Path(tops[0].strip() if tops else Path(nvcc).parents[1])
    if wish == "1":
        raise SystemExit("FASTGMTL_CUDA=1, but nvcc was not found; set CUDA_HOME, or FASTGMTL_CUDA=0 to build without")
    return None


def cuda_architectures() -> list[str]:
    """-gencode flags of TORCH_CUDA_ARCH_LIST, of the visible device, or of the short list."""
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(" ", ";")
    if not wanted and shutil.which("nvidia-smi"):
        ask = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        found = subprocess.run(ask, capture_output=True, text=True).stdout.split()
        wanted = ";".join(sorted(set(found)))
    flags = []
    for name in filter(None, (wanted or "8.0;9.0+PTX").split(";")):
        number = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


class NinjaBuild(build_ext):
    """build_ext that writes a build.ninja and runs it: parallel, and only what has changed is compiled again."""

    def build_extension(self, ext: Extension) -> None:
        import ninja
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # One folder for every way of installing: pip gives each run a temporary one, which would forget what is built.
        folder = ROOT / "build" / f"objects-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        folder.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        home = cuda_home()
        includes = [f"-I{CSRC}", f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_path('include')}"]
        (folder / "build.ninja").write_text(self.rules(home, includes, target))
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        binary = Path(ninja.BIN_DIR) / "ninja"
        if subprocess.run([str(binary), "-C", str(folder), "-j", jobs]).returncode:
            raise SystemExit(
                "fastgmtl: the compiled part did not build (the compiler's message is above). A C++17 compiler "
                "is needed; FASTGMTL_CUDA=0 leaves out CUDA, FASTGMTL_NO_EXT=1 leaves out all kernels"
            )

    def rules(self, home: Path | None, includes: list[str], target: Path) -> str:
        extra = os.environ.get("FASTGMTL_CXXFLAGS", "").split()
        compiler = os.environ.get("CXX", "c++")
        cuda = ["-DFASTGMTL_WITH_CUDA"] if home else []
        machine = f"{compiler}, {'nvcc ' + ' '.join(cuda_architectures()) if home else 'no CUDA'}"
        common = [*FLAGS, *extra, *includes, *cuda]
        lines = [
            f"cxx = {compiler}",
            "rule cxx",
            "  command = $cxx -MMD -MF $out.d $flags -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            "  command = $cxx -shared $in -o $out $flags",
        ]
        objects: list[str] = []

        def add(rule: str, source: Path, name: str, flags: list[str]) -> None:
            objects.append(f"{name}.o")
            flags = flags if any(flag.startswith("-O") for flag in flags) else ["-O3", *flags]  # the last one counts
            lines.extend([f"build {name}.o: {rule} {source}", "  flags = " + " ".join(flags)])

        add("cxx", CSRC / "bindings.cpp", "bindings", ["-O2", *common, f"'-DFASTGMTL_BUILD=\"{machine}\"'"])
        for source in sorted((CSRC / "contract").glob("*.cpp")):
            add("cxx", source, source.stem, ["-O2", *common])
        for source in sorted((CSRC / "cpu").glob("*.cpp")):
            if source.stem not in LEVELLED:
                add("cxx", source, f"cpu_{source.stem}", common)
                continue
            levels = LEVELS if platform.machine() in ("x86_64", "AMD64") else {"baseline": []}
            for level, flags in levels.items():
                add("cxx", source, f"cpu_{source.stem}_{level}", [*flags, *common, f"-DFASTGMTL_LEVEL={level}"])
        link = [*extra, "-fopenmp"]
        if home:
            lines += [
                f"nvcc = {home / 'bin' / 'nvcc'}",
                "rule nvcc",
                # What ptxas says of each kernel goes into a file that bench/ptxas.py reads; the rest is shown.
                "  command = $nvcc -Xptxas=-v -MMD -MF $out.d -ccbin $cxx $flags -c $in -o $out 2> $out.ptxas; "
                "code=$$?; grep -Ev '^ptxas info|^ +[0-9]+ bytes stack frame|^$$' $out.ptxas >&2; exit $$code",
                "  depfile = $out.d",
                "  deps = gcc",
            ]
            flags = ["-std=c++17", "-O3", "-lineinfo", "--compiler-options=-fPIC,-fvisibility=hidden"]
            for source in sorted((CSRC / "cuda").glob("*.cu")):
                add("nvcc", source, f"cuda_{source.stem}", [*flags, *cuda, f"-I{CSRC}", *cuda_architectures()])
            library = next(
                d for d in (home / "lib64", home / "lib", home / "targets" / "x86_64-linux" / "lib") if d.is_dir()
            )
            # The runtime is linked statically: importing needs neither a driver nor a toolkit.
            link += [f"-L{library}", "-lcudart_static", "-lrt", "-lpthread", "-ldl"]
        lines += [f"build {target}: link {' '.join(objects)}", "  flags = " + " ".join(link), f"default {target}", ""]
        return "\n".join(lines)


if os.environ.get("FASTGMTL_NO_EXT") == "1":
    setup()
elif sys.platform == "win32":
    raise SystemExit("fastgmtl: the kernels build on Linux and macOS; set FASTGMTL_NO_EXT=1 for the reference alone")
else:
    setup(ext_modules=[Extension("fastgmtl._C", [])], cmdclass={"build_ext": NinjaBuild})

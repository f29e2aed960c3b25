"""The house: one noun in every folder, imports in one direction, C++ without PyTorch, files of a readable length."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import cases
import pytest

from fastgmtl import ops, reference
from fastgmtl.info import OPERATORS
from fastgmtl.ops.lists import ListOperator
from fastgmtl.ops.operator import Operator

ROOT = Path(__file__).resolve().parents[1]
CHECKOUT = (ROOT / "csrc").is_dir() and (ROOT / "fastgmtl").is_dir()
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="needs the source tree")

# ------------------------------------------------------------------------------------------------ completeness

# The steps of DESIGN, section 6, for an operator called `x`.
STEPS = {
    "its twin in plain PyTorch": "fastgmtl/reference/{}.py",
    "its loops for CPUs": "csrc/cpu/{}.cpp",
    "its CUDA kernels": "csrc/cuda/{}.cu",
    "its public function": "fastgmtl/ops/{}.py",
    "its tests": "tests/ops/test_{}.py",
    "its bench": "bench/bench_{}.py",
}
# Where a step is elsewhere, or there is none. The three derivatives of one trilinear form share their code.
ELSEWHERE: dict[tuple[str, str], str | None] = {
    ("csr", "fastgmtl/reference/{}.py"): "fastgmtl/csr.py",  # sorting by PyTorch is its own twin
    ("csr", "fastgmtl/ops/{}.py"): "fastgmtl/csr.py",
    ("csr", "csrc/cuda/{}.cu"): None,  # PyTorch sorts on GPUs
    ("csr", "tests/ops/test_{}.py"): "tests/graph/test_construction.py",
    ("csr", "bench/bench_{}.py"): "bench/bench_graph.py",
    ("spmm_backward", "fastgmtl/reference/{}.py"): "fastgmtl/reference/trilinear.py",
    ("spmm_backward", "csrc/cpu/{}.cpp"): "csrc/cpu/sddmm.cpp",
    ("spmm_backward", "csrc/cuda/{}.cu"): "csrc/cuda/sddmm.cu",
    ("spmm_backward", "fastgmtl/ops/{}.py"): "fastgmtl/ops/trilinear.py",
    ("spmm_backward", "tests/ops/test_{}.py"): "tests/ops/test_gradients.py",
    ("spmm_backward", "bench/bench_{}.py"): "bench/bench_spmm.py",
    ("attention_backward", "csrc/cuda/{}.cu"): "csrc/cuda/attention.cu",
    ("attention_backward", "fastgmtl/reference/{}.py"): "fastgmtl/reference/attend.py",
    ("attention_backward", "fastgmtl/ops/{}.py"): "fastgmtl/ops/attend.py",
    ("attention_backward", "tests/ops/test_{}.py"): "tests/ops/test_gradients.py",
    ("attention_backward", "bench/bench_{}.py"): "bench/bench_attention.py",
    ("grouped_matmul", "csrc/cpu/{}.cpp"): None,  # PyTorch's products are its kernels
    ("grouped_matmul", "csrc/cuda/{}.cu"): None,
    **{("relation_gate_backward", place): place.format("relation_gate") for place in STEPS.values()},
    **{
        (noun, place): place.format("concrete")
        for noun in ("concrete_draw", "concrete_edges")
        for place in STEPS.values()
    },
    **{("gather_relu_backward", place): place.format("gather_relu") for place in STEPS.values()},
    **{("block_sddmm", place): place.format("block_spmm") for place in STEPS.values()},
    **{("relu_sum_backward", place): place.format("relu_sum") for place in STEPS.values()},
    # The score of GATv2 is a part of attention, of which it is a choice.
    **{
        (noun, place): path
        for noun in ("gatv2_score", "gatv2_backward")
        for place, path in (
            ("fastgmtl/reference/{}.py", "fastgmtl/reference/gatv2.py"),
            ("csrc/cpu/{}.cpp", "csrc/cpu/gatv2_score.cpp"),
            ("csrc/cuda/{}.cu", "csrc/cuda/gatv2_score.cu"),
            ("fastgmtl/ops/{}.py", "fastgmtl/ops/gatv2.py"),
            ("tests/ops/test_{}.py", "tests/ops/test_attention.py"),
            ("bench/bench_{}.py", "bench/bench_attention.py"),
        )
    },
    # Two sums of the same terms: one operator.
    **{
        (noun, place): place.format("edge_energy")
        for noun in ("flip_energy", "edge_delta")
        for place in ("csrc/cpu/{}.cpp", "csrc/cuda/{}.cu")
    },
    **{
        (noun, "bench/bench_{}.py"): "bench/bench_task_graph.py"
        for noun in ("flip_energy", "edge_delta", "edge_energy", "gibbs")
    },
    **{(noun, "tests/ops/test_{}.py"): "tests/ops/test_task_graph.py" for noun in ("flip_energy", "edge_delta")},
    ("edge_energy", "tests/ops/test_{}.py"): "tests/ops/test_gradients.py",
    ("neighbor_sample", "csrc/cuda/{}.cu"): None,  # graphs lie in the memory of the host
    ("neighbor_sample", "bench/bench_{}.py"): "bench/bench_sampler.py",
    ("gram", "bench/bench_{}.py"): "bench/bench_gradients.py",
    ("task_weights", "bench/bench_{}.py"): "bench/bench_gradients.py",
    ("combine", "bench/bench_{}.py"): "bench/bench_gradients.py",
}
# Public functions that are compositions of operators, hence without a twin and a bench of their own.
# What draws or makes a graph has no derivative, or that of something else, and tests that are all its own.
SAMPLED = {"gibbs", "concrete", "neighbor_sample", "intersect"}
COMPOSED = dict.fromkeys(
    ("common_neighbors", "gcn_norm", "project", "rotate"), ("fastgmtl/ops/{}.py", "tests/ops/test_{}.py")
)


def missing(noun: str, root: Path = ROOT) -> list[str]:
    """The steps that the operator ``noun`` lacks, in words."""
    lacks = []
    for what, place in STEPS.items():
        if place not in COMPOSED.get(noun, STEPS.values()):
            continue
        path = ELSEWHERE.get((noun, place), place.format(noun))
        if path is not None and not (root / path).is_file():
            lacks.append(f"{noun}: {what} is missing: {path}")
    return lacks


@pytest.mark.parametrize("noun", sorted({*OPERATORS, *ops.__all__}))
def test_an_operator_is_in_every_folder(noun: str) -> None:
    assert missing(noun) == []


def test_a_missing_step_is_named(tmp_path: Path) -> None:
    for place in STEPS.values():
        path = tmp_path / place.format("rspmm")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert missing("rspmm", tmp_path) == []
    (tmp_path / "csrc/cpu/rspmm.cpp").unlink()
    assert missing("rspmm", tmp_path) == ["rspmm: its loops for CPUs is missing: csrc/cpu/rspmm.cpp"]


def test_every_source_of_loops_belongs_to_an_operator() -> None:
    helpers = {"level", "split", "gcn_norm", "neighbor_sample"}  # gcn_norm on the CPU speeds up a composition
    sources = {
        p.stem
        for folder in ("cpu", "cuda")
        for p in (ROOT / "csrc" / folder).glob("*.c*")
        if p.suffix in (".cpp", ".cu")
    }
    assert sources - helpers <= set(OPERATORS)


def test_every_operator_is_in_the_table_of_cases() -> None:
    named = {call.operator for name in cases.CALLS if (call := cases.call(name, cases.PATTERNS["typical"])).operator}
    assert {type(o) for o in named} == {*Operator.__subclasses__(), *ListOperator.__subclasses__()}
    public = set(ops.__all__) - set(COMPOSED) - SAMPLED
    assert {name.split("-")[0] for name in cases.CALLS if "_op-" not in name} == public
    assert public <= set(reference.__all__)


def test_signatures_of_twins_are_those_of_operators() -> None:
    import inspect

    for name in reference.__all__:
        assert inspect.signature(getattr(reference, name)) == inspect.signature(getattr(ops, name))


# ---------------------------------------------------------------------------------------------------- imports

# From the top down: a layer imports what is below it, or beside it in its own package.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("methods",),
    ("accelerate",),
    ("distributed",),
    ("nn", "gradients", "data", "info"),
    ("ops",),
    ("reference",),
    ("hetero",),
    ("graph",),
    ("csr", "convert"),
    ("backend", "streams"),
)
LEVEL = {name: depth for depth, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> list[tuple[str, int]]:
    """Modules of fastgmtl that a file imports, and the lines."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write fastgmtl in full"
            if node.module == "fastgmtl":
                found += [(f"fastgmtl.{alias.name}", node.lineno) for alias in node.names]
            else:
                found.append((node.module or "", node.lineno))
    return [(name.split(".")[1], line) for name, line in found if name.startswith("fastgmtl.")]


def test_imports_go_one_way() -> None:
    wrong, package = [], ROOT / "fastgmtl"
    for path in sorted(package.rglob("*.py")):
        here = path.relative_to(package).with_suffix("").parts[0]
        if here == "__init__":
            continue
        assert here in LEVEL, f"{here} has no place among the layers"
        for target, line in imported(path):
            if target in ("__version__", "_C"):
                continue
            beside = target == here or {here, target} == {"csr", "convert"}
            if not beside and LEVEL[target] <= LEVEL[here]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {here} imports {target}")
    assert wrong == []


def test_only_ops_and_sorting_call_kernels() -> None:
    kernel = re.compile(r"fastgmtl\._C|(?<!torch\.)\b_C\.|kernels\.(" + "|".join(OPERATORS) + r")\(")
    package = ROOT / "fastgmtl"
    callers = {p.relative_to(package) for p in package.rglob("*.py") if kernel.search(p.read_text())}
    assert {p for p in callers if p.parts[0] not in ("ops", "csr.py", "backend.py")} == set()


# --------------------------------------------------------------------------------------------------- sources

SOURCES = sorted(p for ext in ("*.cpp", "*.h", "*.cu", "*.cuh") for p in (ROOT / "csrc").rglob(ext))


def test_csrc_includes_neither_torch_nor_python() -> None:
    wrong = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.match(r"\s*#\s*include\s*[<\"]([^>\"]+)", line)
            if not found:
                continue
            header = found.group(1)
            torch = re.match(r"(torch|ATen|c10|THC)/", header)
            python = re.match(r"(Python\.h|pybind11)", header) and path.name != "bindings.cpp"
            if torch or python:
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {header}")
    assert SOURCES and wrong == []


def test_files_are_short() -> None:
    folders = [ROOT / name for name in ("fastgmtl", "tests", "bench", "scripts", "csrc")]
    files = [p for f in folders for p in f.rglob("*") if p.suffix in (".py", ".sh", ".cpp", ".h", ".cu", ".cuh")]
    assert {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text().splitlines())) > 600} == {}


def test_no_paths_of_a_machine() -> None:
    files = [
        *(ROOT / "fastgmtl").rglob("*.py"),
        *SOURCES,
        *(ROOT / "bench").rglob("*.py"),
        *(ROOT / "scripts").glob("*"),
    ]
    path = re.compile(r"(?<!\w)/(?:home|root|tmp|Users|work)/\w")
    wrong = [str(p.relative_to(ROOT)) for p in files if path.search(p.read_text(errors="ignore"))]
    assert wrong == []


OBJECTS = sorted((ROOT / "build").glob("objects-*/cpu_*_avx*.o"))


@pytest.mark.skipif(not OBJECTS or not shutil.which("nm"), reason="needs the object files of a build and nm")
@pytest.mark.parametrize("path", OBJECTS, ids=lambda p: p.stem)
def test_code_for_newer_processors_stays_in_its_object(path: Path) -> None:
    """A weak symbol is one copy for all levels: the linker could give AVX code to a processor without it."""
    text = subprocess.run(["nm", "--defined-only", str(path)], capture_output=True, text=True, check=True).stdout
    weak = [line.split()[2] for line in text.splitlines() if line.split()[1] in ("W", "V", "u")]
    # The personality reference of exception tables is data.
    assert [name for name in weak if not name.startswith("DW.ref.")] == []

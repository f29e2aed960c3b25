"""task_weights: the compiled solver gives what the twin gives, on every level and for any number of tasks."""

from __future__ import annotations

from types import ModuleType

import cases
import pytest
import torch
from compare import case
from torch import Tensor

from fastgmtl import backend, reference
from fastgmtl.ops.task_weights import METHODS, task_weights
from fastgmtl.reference.task_weights import task_weights as twin

PARAMETER = {"cagrad": 0.4, "fairgrad": 2.0, "nashmtl": 1.0, "imtlg": 1.0, "gradvac": 0.5, "alignedmtl": 1.0}
NEEDS_PREFERENCE = ("rcgrad", "rotated")


def gram(tasks: int, name: str, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """A Jacobian whose rows have norms from a tenth to ten, and its Gram matrix."""
    g = cases.generator(f"{name}-{tasks}")
    j = torch.randn(tasks, rank or 3 * tasks, generator=g, dtype=torch.float64) + 0.3
    j *= 10 ** (2 * torch.rand(tasks, 1, generator=g, dtype=torch.float64) - 1)
    return j, reference.gram(j)


def arguments(method: str, tasks: int) -> dict[str, object]:
    g = cases.generator(f"{method}-{tasks}")
    found: dict[str, object] = {"parameter": PARAMETER.get(method, 0.0)}
    if method in NEEDS_PREFERENCE or tasks % 2:
        found["preference"] = torch.rand(tasks, generator=g, dtype=torch.float64) + 0.1
    if method in ("pcgrad", "gradvac"):
        found["order"] = torch.rand(tasks, tasks, generator=g).argsort(1)
    if method == "gradvac":
        found["state"] = 0.5 * torch.rand(tasks, tasks, generator=g, dtype=torch.float64)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_equals_the_twin(method: str, kernels: ModuleType) -> None:
    before = kernels.simd()
    try:
        for tasks in (1, 2, 3, 5, 8, 16, 33):
            j, matrix = gram(tasks, method)
            options, again = arguments(method, tasks), arguments(method, tasks)
            want = twin(matrix, method, **again) @ j  # type: ignore[arg-type]
            for level in kernels.simd_levels():
                kernels.set_simd(level)
                state = options.get("state")
                fresh = {**options, "state": state.clone()} if isinstance(state, Tensor) else options
                got = task_weights(matrix, method, **fresh) @ j  # type: ignore[arg-type]
                with case(tasks, level):
                    torch.testing.assert_close(got, want, rtol=0, atol=1e-8 * float(want.norm()))
                    if isinstance(state, Tensor):
                        torch.testing.assert_close(fresh["state"], again["state"], rtol=0, atol=1e-9)
    finally:
        kernels.set_simd(before)


# Those that have a solution for a matrix of low rank.
@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("nashmtl", "fairgrad")])
def test_equals_the_twin_for_deficient_matrices(method: str, kernels: ModuleType) -> None:
    for tasks, rank in ((3, 1), (4, 2), (8, 3), (8, 7)):
        j, _ = gram(tasks, f"low-{method}", rank)
        for special in ("none", "zero", "twice", "opposite"):
            rows = j.clone()
            if special != "none":
                rows[1] = {"zero": 0.0, "twice": 2.0, "opposite": -1.0}[special] * rows[0]
            matrix = reference.gram(rows)
            got = task_weights(matrix, method, **arguments(method, tasks))  # type: ignore[arg-type]
            want = twin(matrix, method, **arguments(method, tasks))  # type: ignore[arg-type]
            with case(tasks, rank, special):
                size = float(want.abs() @ rows.norm(dim=1))
                torch.testing.assert_close(got @ rows, want @ rows, rtol=0, atol=1e-7 * size)


@pytest.mark.parametrize("method", METHODS)
def test_several_problems_at_once(method: str) -> None:
    found = [gram(4, f"{method}-{k}")[1] for k in range(3)]
    options = arguments(method, 4)
    state = options.pop("state", None)
    many = state.expand(3, 4, 4).clone() if isinstance(state, Tensor) else None
    got = task_weights(torch.stack(found), method, state=many, **options)  # type: ignore[arg-type]
    for k, matrix in enumerate(found):
        one = state.clone() if isinstance(state, Tensor) else None
        torch.testing.assert_close(got[k], task_weights(matrix, method, state=one, **options))  # type: ignore[arg-type]
        if many is not None:
            torch.testing.assert_close(many[k], one)
    assert task_weights(torch.zeros(0, 4, 4), method, state=None if many is None else many[:0], **options).shape == (
        0,
        4,
    )


@pytest.mark.parametrize("method", METHODS)
def test_special_matrices_end(method: str, kernels: ModuleType) -> None:
    """Zeros, infinities and NaN: an answer, in finite time."""
    for value in (0.0, float("inf"), float("nan"), -1.0, 1e300, 1e-300):
        for matrix in (torch.full((5, 5), value, dtype=torch.float64), value * torch.eye(5).double(), gram(5, "x")[1]):
            matrix = matrix.clone()
            matrix[2, 2] = value
            with case(value):
                assert task_weights(matrix, method, **arguments(method, 5)).shape == (5,)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_doors(method: str) -> None:
    """torch.compile, opcheck, no gradient, the reference."""
    _, matrix = gram(4, method)
    options = arguments(method, 4)
    state = options.pop("state", None)

    def run(g: Tensor, s: Tensor | None) -> Tensor:
        return task_weights(g, method, state=s, **options) * 2  # type: ignore[arg-type]

    def memory() -> Tensor | None:
        return state.clone() if isinstance(state, Tensor) else None

    want, kept = run(matrix, first := memory()), first
    torch._dynamo.reset()
    got = torch.compile(run, fullgraph=True, backend="aot_eager")(matrix, second := memory())
    torch.testing.assert_close(got, want)
    if kept is not None:
        torch.testing.assert_close(second, kept)
    assert not run(matrix.clone().requires_grad_(), memory()).requires_grad
    with backend.use_backend("reference"):
        torch.testing.assert_close(run(matrix, memory()), want, rtol=1e-7, atol=1e-9)
    number = METHODS.index(method)
    arguments_ = (matrix, number, options.get("preference"), options.get("order"), options["parameter"], memory())
    torch.library.opcheck(torch.ops.fastgmtl.task_weights.default, arguments_)


def test_refused(kernels: ModuleType) -> None:
    eye = torch.eye(3)
    for args, error, message in (
        ((eye, "mgdb"), ValueError, "method must be one of pcgrad, .*, got 'mgdb'"),
        ((eye.long(), "mgda"), TypeError, "gram must be a floating point tensor, got torch.int64"),
        ((torch.ones(2, 3), "mgda"), ValueError, r"\[T, T\] or \[K, T, T\] with T of 1 to 64, got \[2, 3\]"),
        ((torch.ones(65, 65), "mgda"), ValueError, "with T of 1 to 64"),
        ((eye, "upgrad", torch.ones(2)), ValueError, r"preference must have shape \[3\], got \[2\]"),
        ((eye, "pcgrad", None, torch.zeros(2, 2).long()), ValueError, r"order must have shape \[3, 3\]"),
        ((eye, "pcgrad", None, torch.zeros(3, 3)), TypeError, "order must be int64"),
        ((eye, "gradvac"), ValueError, r"state must have shape \[1, 3, 3\]"),
        ((eye, "rcgrad"), ValueError, "preference must be a tensor, got None"),
        ((eye, "rcgrad", torch.ones(3), None, 3.0), ValueError, "no such target"),
        ((eye, "gradvac", None, None, 0.5, torch.zeros(9)), ValueError, r"state must have the shape of gram, \[3, 3\]"),
    ):
        with pytest.raises(error, match=message):
            task_weights(*args)  # type: ignore[arg-type]
    order = torch.full((3, 3), 7)  # no such task: nothing to meet
    assert task_weights(eye, "pcgrad", order=order).tolist() == [1.0, 1.0, 1.0]


def test_a_matrix_and_a_state_in_any_layout(kernels: ModuleType) -> None:
    """GradVac's state is made like the matrix, and kept where it lies."""
    _, problem = gram(4, "layout")
    want = torch.zeros(4, 4, dtype=torch.float64)
    state = torch.empty_strided((4, 4), (1, 4), dtype=torch.float64).zero_()
    for _ in range(2):
        expected = task_weights(problem, "gradvac", parameter=0.5, state=want)
        assert torch.equal(task_weights(problem.T, "gradvac", parameter=0.5, state=state), expected)
    assert torch.equal(state, want) and want.any()

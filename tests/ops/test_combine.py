"""combine by hand: where it writes, factors, missing gradients, errors. What is generated is beside this."""

from __future__ import annotations

from types import ModuleType

import cases
import pytest
import torch
from compare import close

from fastgmtl import backend, ops


def rows() -> list[list[torch.Tensor | None]]:
    return [[torch.tensor([1.0, 2.0]), None, torch.tensor([[3.0]])], [torch.tensor([4.0, -1.0]), None, None]]


@pytest.fixture(params=["kernel", "reference"], autouse=True)
def choice(request: pytest.FixtureRequest, kernels: ModuleType):  # type: ignore[no-untyped-def]
    with backend.use_backend(request.param):
        yield


def test_combine_by_hand() -> None:
    first, second, third = ops.combine(rows(), torch.tensor([2.0, -1.0]))
    assert first.tolist() == [-2.0, 5.0] and second is None and third.tolist() == [[6.0]]
    two = ops.combine(rows(), torch.tensor([[2.0, -1.0], [0.0, 1.0]]))
    assert [line[0].tolist() for line in two] == [[-2.0, 5.0], [4.0, -1.0]]
    assert two[0][1] is None and two[1][2].tolist() == [[0.0]]


def test_groups_have_weights_of_their_own() -> None:
    got = ops.combine(rows(), torch.tensor([[2.0, -1.0], [5.0, 5.0], [0.5, 9.0]]), groups=[0, 1, 2])
    assert got[0].tolist() == [-2.0, 5.0] and got[2].tolist() == [[1.5]]


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_out_is_written_in_place(dtype: torch.dtype, accumulate: bool) -> None:
    g = cases.generator("out")
    grads = [torch.randn(4, 7, 90, generator=g).to(dtype), torch.randn(4, 5, generator=g).to(dtype)]
    weights, scale = torch.randn(4, generator=g), torch.tensor(0.25)
    want = ops.combine([v.double() for v in grads], weights, scale=scale)
    out = [torch.ones(7, 90, dtype=dtype), torch.ones(5, dtype=dtype)]
    versions = [v._version for v in out]
    assert ops.combine(grads, weights, out, accumulate, scale) is out
    close(tuple(out), tuple(v + accumulate for v in want), dtype)
    assert all(v._version > before for v, before in zip(out, versions, strict=True))


def test_out_of_another_dtype_or_layout() -> None:
    grads = torch.randn(3, 4, 6, generator=cases.generator("layout"))
    want = torch.tensordot(torch.ones(3), grads, 1)
    for out in (torch.ones(4, 6, dtype=torch.float64), torch.ones(6, 4).T, torch.ones(4, 12)[:, ::2]):
        ops.combine([grads], torch.ones(3), [out])
        close(out, want.to(out.dtype), torch.float32)
        ops.combine([grads], torch.ones(3), [out], accumulate=True)
        close(out, 2 * want.to(out.dtype), torch.float32)


def test_out_may_be_one_of_the_gradients() -> None:
    first, second = torch.randn(2, 5000, generator=cases.generator("alias"))
    want = 2 * first - second
    ops.combine([[first], [second]], torch.tensor([2.0, -1.0]), [first])
    close(first, want, torch.float32)


def test_weights_in_any_layout() -> None:
    grads, weights = torch.randn(3, 40), torch.randn(3, 2, dtype=torch.float64).T
    want = weights.float() @ grads
    close(ops.combine(grads, weights, torch.zeros(2, 40)), want, torch.float32)
    close(ops.combine(grads, weights), want, torch.float32)


def test_several_sums_into_out() -> None:
    grads = torch.randn(3, 40, generator=cases.generator("sums"))
    weights = torch.randn(2, 3, generator=cases.generator("weights"))
    out = torch.zeros(2, 40)
    close(ops.combine(grads, weights, out), weights @ grads, torch.float32)
    lists = [[torch.zeros(40)], [torch.zeros(40)]]
    ops.combine([[g] for g in grads], weights, lists)
    close(torch.stack([line[0] for line in lists]), weights @ grads, torch.float32)


def test_a_place_without_gradients_is_left_alone() -> None:
    out = [torch.ones(2), torch.ones(3), torch.ones(1, 1)]
    ops.combine(rows(), torch.tensor([2.0, -1.0]), out)
    assert [v.tolist() for v in out] == [[-2.0, 5.0], [1.0, 1.0, 1.0], [[6.0]]]
    ops.combine(rows(), torch.tensor([2.0, -1.0]), [out[0], None, out[2]], accumulate=True)
    assert out[0].tolist() == [-4.0, 10.0]


def test_under_compile() -> None:
    def step(grads: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            ops.combine([grads], weights, [out], accumulate=True)
        return out + 1

    torch._dynamo.reset()
    grads, weights = torch.randn(3, 40), torch.randn(3)
    out, want = torch.ones(40), torch.ones(40) + weights @ grads
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(grads, weights, out)
    close(out, want, torch.float32)
    close(got, want + 1, torch.float32)


def test_refused() -> None:
    grads, ones = [[torch.ones(2)], [torch.ones(2)]], torch.ones(2)
    cases_ = [
        ((grads, [1.0, 1.0]), TypeError, "weights must be a floating point tensor, got list"),
        ((grads, torch.ones(2).long()), TypeError, "weights must be a floating point tensor, got torch.int64"),
        ((grads, torch.ones(3)), ValueError, r"shape \[T\] = \[2\] or \[S, T\] with S of 1 to 64, got \[3\]"),
        ((grads, ones, None, True), ValueError, "accumulate=True must have out"),
        ((grads, ones, [torch.ones(3)]), ValueError, r"shapes of the result, \[2\], got \[3\]"),
        ((grads, ones, []), ValueError, "out must have N = 1 tensors, got 0"),
        ((grads, torch.ones(2, 2), [[ones]]), ValueError, "out must have S = 2 lists of tensors, got 1"),
        ((grads, ones, [ones.clone().requires_grad_()]), ValueError, "out is not differentiable"),
    ]
    for args, error, message in cases_:
        with pytest.raises(error, match=message):
            ops.combine(*args)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weights must have shape \[K, T\] = \[1, 2\]"):
        ops.combine(grads, ones, groups=[0])

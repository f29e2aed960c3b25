"""relation_gate by hand, what it refuses, and its bounds. What is generated for every operator is beside this."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import cases
import pytest
import torch
from compare import case, close, weighted
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastgmtl import HeteroGraph, ops, reference

LOG3 = 1.0986122886681098


def draw(*shape: int, seed: str = "gate") -> Tensor:
    return torch.randn(*shape, generator=cases.generator(f"{seed}-{shape}"))


def test_by_hand() -> None:
    # One node, two relations, two tasks, one target. Gates 3/4, 1/4 and 1/2, 1/2; m = 4, 8.
    z = torch.tensor([[[[4.0], [4.0]], [[6.0], [10.0]]]])
    logits = torch.tensor([[[[LOG3], [0.0]], [[5.0], [5.0]]]])
    assert ops.relation_gate(z, logits).tolist() == [[[6.0]]]
    # Scores log(3) / 4 apart per unit: shares 1/4 and 3/4.
    weight = torch.tensor([[LOG3 / 4]])
    torch.testing.assert_close(ops.relation_gate(z, logits, weight), torch.tensor([[[7.0]]]))
    residual = torch.tensor([[[-10.0]]])
    torch.testing.assert_close(ops.relation_gate(z, logits, weight, residual), torch.tensor([[[-3.0]]]))
    assert ops.relation_gate(z, logits, weight, residual, activation="relu").tolist() == [[[0.0]]]
    elu = ops.relation_gate(z, logits, weight, residual, activation="elu")
    torch.testing.assert_close(elu, torch.tensor([[[-3.0]]]).expm1())
    for mask, want in (([[True, False]], 4.0), ([[False, True]], 8.0), ([[False, False]], 0.0)):
        assert ops.relation_gate(z, logits, weight, mask=torch.tensor(mask)).tolist() == [[[want]]]


def test_a_mixture_of_experts() -> None:
    """R = 1: each target's softmax over the experts, as in MMoE."""
    experts, logits = draw(7, 4, 5), draw(7, 4, 3)
    got = ops.relation_gate(experts.unsqueeze(1), logits.unsqueeze(1))
    torch.testing.assert_close(got, torch.einsum("nes,ned->nsd", logits.softmax(1), experts))


def test_what_is_constant_over_relations_has_no_influence() -> None:
    """The score of the centre itself and the bias of the released attention over relations cancel in the softmax."""
    z, logits, weight, centre = draw(6, 3, 2, 4), draw(6, 3, 2, 2), draw(2, 4), draw(6, 2)
    gate = logits.softmax(2)
    mixed = torch.einsum("nrts,nrtd->nrsd", gate, z)
    share = (torch.einsum("nrsd,sd->nrs", mixed, weight) + centre.unsqueeze(1) + 0.7).softmax(1)
    torch.testing.assert_close(ops.relation_gate(z, logits, weight), (share.unsqueeze(-1) * mixed).sum(1))


def test_on_the_rows_of_a_packed_pattern() -> None:
    edges = {("a", "x", "b"): torch.tensor([[0, 1, 1], [0, 0, 2]]), ("b", "y", "b"): torch.tensor([[2], [1]])}
    packed = HeteroGraph.from_dict(edges, {"a": 2, "b": 3}).packed("b")
    x = draw(5, 2, 3)
    z = ops.spmm(packed.graph, x).unflatten(0, (-1, packed.num_relations))
    mask = (packed.graph.in_degree() > 0).unflatten(0, (-1, packed.num_relations))
    y = ops.relation_gate(z, torch.zeros(3, 2, 2, 1), mask=mask)
    want = torch.stack([(x[0] + x[1]).mean(0), x[4].mean(0), x[1].mean(0)]).unsqueeze(1)
    torch.testing.assert_close(y, want)


def test_a_node_without_relations_has_no_gradient_and_no_nan() -> None:
    z, logits, weight = (v.requires_grad_() for v in (draw(2, 2, 2, 3), draw(2, 2, 2, 2), draw(2, 3)))
    mask = torch.tensor([[False, False], [True, True]])
    for function in (ops.relation_gate, reference.relation_gate):
        y = function(z, logits, weight, None, mask)
        assert not y[0].any()
        for value in torch.autograd.grad(y.square().sum(), (z, logits), create_graph=True):
            assert not value[0].any() and value[1].abs().sum() > 0
            again = torch.autograd.grad(value.square().sum(), weight, retain_graph=True)[0]
            assert again.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_number_of_relations_tasks_and_targets(dtype: torch.dtype, kernels: ModuleType) -> None:
    """Targets are taken four, two and one at a time: sums of several such steps are those of one."""
    before = kernels.simd()
    for level in kernels.simd_levels():
        kernels.set_simd(level)
        for r, t, s, d in [(2, 2, s, 19) for s in range(1, 12)] + [(7, 1, 3, 33), (1, 9, 6, 5), (5, 4, 3, 64)]:
            shapes = (3, r, t, d), (3, r, t, s), (s, d), (3, s, d)
            found = []
            for function in (ops.relation_gate, reference.relation_gate):
                inputs = [draw(*shape).to(dtype).requires_grad_() for shape in shapes]
                y = function(*inputs, None, "elu")
                found.append((y.detach(), *torch.autograd.grad(weighted(y), inputs)))
            with case(level, r, t, s, d):
                close(found[0], found[1], dtype, factor=2)
    kernels.set_simd(before)


@pytest.mark.parametrize("part", range(2))
def test_nan_stays_in_its_node(part: int) -> None:
    tensors = [draw(5, 2, 2, 19), draw(5, 2, 2, 2)]
    tensors[part][3].view(-1)[1] = torch.nan
    for activation in ("none", "relu", "elu"):
        y = ops.relation_gate(*tensors, draw(2, 19), activation=activation)
        assert y.isnan().flatten(1).any(1).tolist() == [False, False, False, True, False]


def test_large_logits_do_not_overflow() -> None:
    z, logits = draw(3, 2, 2, 4), 300 * draw(3, 2, 2, 2)
    weight = 1000 * draw(2, 4)
    got = ops.relation_gate(z, logits, weight, None, None, "elu")
    close(got, reference.relation_gate(z.double(), logits.double(), weight.double(), None, None, "elu"), torch.float32)
    # An elu of a large number is the number, whatever its exponential is.
    assert ops.relation_gate(1e4 * z.abs(), logits, None, None, None, "elu").isfinite().all()


def test_mixed_dtypes_are_promoted() -> None:
    z, logits = draw(3, 2, 2, 4).bfloat16(), draw(3, 2, 2, 2)
    got = ops.relation_gate(z, logits, None, draw(3, 2, 4).double())
    assert got.dtype == torch.float64
    assert ops.relation_gate(z, logits).dtype == torch.float32


@pytest.mark.parametrize("shape", [(0, 2, 2, 2, 3), (4, 0, 2, 2, 3), (4, 2, 0, 2, 3), (4, 2, 2, 0, 3), (4, 2, 2, 2, 0)])
def test_nothing_of_something(shape: tuple[int, ...]) -> None:
    n, r, t, s, d = shape
    found = []
    for function in (ops.relation_gate, reference.relation_gate):
        inputs = [v.requires_grad_() for v in (draw(n, r, t, d), draw(n, r, t, s), draw(s, d), draw(n, s, d))]
        y = function(*inputs, None, "elu")
        found.append((y.detach(), *torch.autograd.grad(y.sum(), inputs)))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


def test_no_mix_of_all_relations_is_ever_written() -> None:
    """Nothing that PyTorch allocates, forward or backward, is larger than z: with S > T, m [N, R, S, d] would be."""
    n, r, t, s, d = 500, 6, 2, 3, 32
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            sizes.extend(o.numel() for o in (out if isinstance(out, tuple | list) else [out]) if isinstance(o, Tensor))
            return out

    for function, writes in ((ops.relation_gate, False), (reference.relation_gate, True)):
        z, logits, weight = draw(n, r, t, d).requires_grad_(), draw(n, r, t, s), draw(s, d)
        sizes.clear()
        with Watch():
            function(z, logits, weight, None, None, "elu").sum().backward()
        assert (max(sizes) > n * r * t * d) == writes


Z, LOGITS, W = torch.zeros(3, 2, 2, 4), torch.zeros(3, 2, 2, 5), torch.zeros(5, 4)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: ops.relation_gate([1.0], LOGITS),
            TypeError,
            "z must be a tensor, got list; wrap it in torch.as_tensor",
        ),
        (
            lambda: ops.relation_gate(Z.long(), LOGITS),
            TypeError,
            "z must be floating point, got int64; convert it with .float()",
        ),
        (lambda: ops.relation_gate(Z[0], LOGITS), ValueError, "z must have shape [N, R, T, d], got [2, 2, 4]"),
        (
            lambda: ops.relation_gate(Z, None),
            TypeError,
            "logits must be a tensor, got NoneType; wrap it in torch.as_tensor",
        ),
        (
            lambda: ops.relation_gate(Z, LOGITS[:2]),
            ValueError,
            "logits must have shape [N, R, T, S] = [3, 2, 2, S], got [2, 2, 2, 5]",
        ),
        (lambda: ops.relation_gate(Z, LOGITS, W.t()), ValueError, "weight must have shape [S, d] = [5, 4], got [4, 5]"),
        (
            lambda: ops.relation_gate(Z, LOGITS, W, torch.zeros(3, 4)),
            ValueError,
            "residual must have shape [N, S, d] = [3, 5, 4], got [3, 4]",
        ),
        (
            lambda: ops.relation_gate(Z, LOGITS, mask=torch.zeros(3, 2)),
            TypeError,
            "mask must be a tensor of bool or None, got float32",
        ),
        (
            lambda: ops.relation_gate(Z, LOGITS, mask=[True]),
            TypeError,
            "mask must be a tensor of bool or None, got list",
        ),
        (
            lambda: ops.relation_gate(Z, LOGITS, mask=torch.zeros(2, 3) > 0),
            ValueError,
            "mask must have shape [N, R] = [3, 2], got [2, 3]",
        ),
        (
            lambda: ops.relation_gate(Z, LOGITS, activation="tanh"),
            ValueError,
            "activation must be one of none, relu, elu, got 'tanh'",
        ),
        (
            lambda: ops.relation_gate(Z, LOGITS, W.to("meta")),
            ValueError,
            "tensors must be on one device, got cpu and meta",
        ),
    ],
)
def test_refused(make: Callable[[], Tensor], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == "relation_gate: " + text


def test_bit_equal_for_any_number_of_threads_with_the_weight(threads: None) -> None:
    inputs = [draw(3000, 3, 2, 20), draw(3000, 3, 2, 2), draw(2, 20)]
    wanted: list[Tensor] = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        leaves = [i.clone().requires_grad_() for i in inputs]
        y = ops.relation_gate(*leaves, None, None, "elu")
        got = [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]
        wanted = wanted or got
        with case(number, "threads"):
            assert all(torch.equal(g, w) for g, w in zip(got, wanted, strict=True))

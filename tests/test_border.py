"""The border of the compiled module: whatever is handed straight to it is computed or refused, and never crashes.

Everything runs in this process: a crash fails the whole run, which is the point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from border_calls import DST, FUNCTIONS, GRAPH, OPTIONAL, SRC, TENSORS, TYPE, D, E, T, spmm
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

EVERY = [(f, t) for f, names in TENSORS.items() for t in names]


@pytest.fixture(params=["exchange API", "__dlpack__"])
def border(request: pytest.FixtureRequest, kernels: ModuleType) -> Iterator[ModuleType]:
    kernels.set_exchange_api(request.param == "exchange API")
    yield kernels
    kernels.set_exchange_api(True)


def test_every_kernel_is_here(kernels: ModuleType) -> None:
    others = {"simd", "set_simd", "simd_levels", "uses_exchange_api", "set_exchange_api", "NeighborSample"}
    found = {n for n in dir(kernels) if not n.startswith("_") and callable(getattr(kernels, n))}
    elsewhere = {"gram", "combine", "task_weights"}  # test_border_lists.py
    elsewhere |= {"relation_gate", "relation_gate_backward"}  # without a graph: fuzzed, and ops/test_relation_gate.py
    assert found - others - elsewhere == set(FUNCTIONS)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_the_calls_are_right(function: Callable[..., Tensor], border: ModuleType) -> None:
    assert function(border).isfinite().all()


class Subclass(Tensor):
    pass


def fake(x: Tensor) -> Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(x)


def freed(x: Tensor) -> Tensor:
    x.untyped_storage().resize_(0)
    return x


# What is not a plain dense tensor with memory of its own.
UNLIKE: dict[str, Callable[[Tensor], Any]] = {
    "fake": fake,
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "sparse csr": lambda x: x[:, 0].to_sparse_csr(),
    "mkldnn": lambda x: x.to_mkldnn(),
    "nested": lambda x: torch.nested.nested_tensor([x[0], x[1]], layout=torch.jagged),
    "subclass": lambda x: x.as_subclass(Subclass),
    "zero": lambda x: torch._efficientzerotensor(x.shape),
    "freed": freed,
    "complex": lambda x: x.to(torch.complex64),
    "bool": lambda x: x > 0,
    "uint8": lambda x: x.to(torch.uint8),
    "array": lambda x: x.numpy(),
    "list": lambda x: x.tolist(),
    "number": lambda x: 3.0,
    "text": lambda x: "x",
}


def refusal(kernels: ModuleType, function: str, changes: dict[str, Any]) -> type[Exception] | None:
    """The type of error that a call ends with, None where it is computed."""
    try:
        FUNCTIONS[function](kernels, **changes)
    except Exception as error:
        return type(error)
    return None


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("kind", UNLIKE)
@pytest.mark.parametrize(("function", "tensor"), EVERY)
def test_what_is_not_a_plain_tensor(function: str, tensor: str, kind: str, border: ModuleType) -> None:
    with pytest.raises(TypeError):
        FUNCTIONS[function](border, **{tensor: UNLIKE[kind](torch.randn(SRC, T, D))})


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("kind", UNLIKE)
def test_what_is_not_a_plain_tensor_in_a_pattern(kind: str, part: int, border: ModuleType) -> None:
    pattern = list(GRAPH.pattern)
    pattern[part] = UNLIKE[kind](torch.randn(SRC, T, D))
    with pytest.raises(TypeError):
        spmm(border, pattern=tuple(pattern))


@pytest.mark.parametrize(
    "pattern",
    [
        None,
        3,
        (),
        [*GRAPH.pattern],
        GRAPH.pattern[:3],
        (*GRAPH.pattern[:3], "7"),
        (*GRAPH.pattern[:3], 2**70),
        (*GRAPH.pattern[:3], None),
    ],
)
def test_what_is_not_a_pattern(pattern: Any, border: ModuleType) -> None:
    with pytest.raises(TypeError):
        spmm(border, pattern=pattern)


@pytest.mark.parametrize("tensor", ["x", "w", "y"])
def test_tensors_of_transforms(tensor: str, border: ModuleType) -> None:
    shape = {"x": (SRC, T, D), "w": (E, T), "y": (DST, T, D)}[tensor]
    seen: list[type[Exception]] = []
    # Made outside: what is made within a transform is wrapped too.
    others = {"x": torch.randn(SRC, T, D), "w": torch.randn(E, T), "y": torch.empty(DST, T, D)}

    def call(value: Tensor) -> Tensor:
        try:
            spmm(border, **others | {tensor: value})
        except TypeError as error:
            seen.append(type(error))
        return value.sum()

    value = torch.randn(shape)
    torch.func.vmap(call)(value.expand(5, *shape))
    torch.func.grad(call)(value)
    torch.func.jvp(call, (value,), (value,))
    torch.func.functionalize(call)(value)
    torch.func.vmap(torch.func.grad(call))(value.expand(5, *shape))

    class Legacy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value * 2

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            call(grad)
            return grad

    leaf = value.clone().requires_grad_()
    torch.autograd.grad(Legacy.apply(leaf), leaf, torch.randn(5, *shape), is_grads_batched=True)
    assert seen == [TypeError] * 6


@pytest.mark.parametrize(("function", "tensor"), EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        (),
        (0,),
        (1,),
        (E,),
        (E, T),
        (E, T + 1),
        (E + 1, T),
        (SRC, D),
        (SRC, T, D),
        (DST, T, D),
        (DST, T + 1, D),
        (DST, T, D + 1),
        (DST, D),
        (1, 1, 1, 1),
        (1, 1, 1, 1, 1),
    ],
)
def test_shapes_and_dtypes(
    function: str, tensor: str, dtype: torch.dtype, shape: tuple[int, ...], kernels: ModuleType
) -> None:
    """Any one tensor replaced by any other: computed where it happens to fit, else refused; memory stays whole."""
    value = torch.zeros(shape, dtype=dtype)
    arg = {"arg": torch.zeros(SRC, T, D, dtype=torch.int32)}
    more: list[dict[str, Any]] = [{}]
    if function in ("spmm", "sddmm", "spmm_backward"):
        more += [{"arg_of": 1, **arg}, {"arg_of": 2, **arg}, {"scale": torch.ones(SRC), "scale_of_cols": True}]
    if function == "spmm":
        more += [{"reduce": 1, "new_arg": torch.empty(DST, T, D, dtype=torch.int32)}]
    for changes in more:
        assert refusal(kernels, function, changes | {tensor: value}) in (None, TypeError, ValueError, IndexError)
    # Had one of them written past its end, the allocator would have stopped the process by now.
    assert FUNCTIONS[function](kernels).isfinite().all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_none_for_any_tensor(function: str, border: ModuleType) -> None:
    for tensor in TENSORS[function]:
        optional = (function, tensor) in OPTIONAL
        assert refusal(border, function, {tensor: None}) in ((None,) if optional else (TypeError, ValueError))


@pytest.mark.parametrize(
    ("function", "changes", "error", "text"),
    [
        (
            "spmm",
            {"x": torch.randn(SRC, T, 2 * D)[..., ::2]},
            ValueError,
            "a kernel takes contiguous tensors; call .contiguous()",
        ),
        (
            "spmm",
            {"y": torch.empty(DST, T, D).movedim(0, 2)},
            ValueError,
            "a kernel takes contiguous tensors; call .contiguous()",
        ),
        (
            "spmm",
            {"x": torch.randn(1).expand(SRC, T, D)},
            ValueError,
            "a kernel takes contiguous tensors; call .contiguous()",
        ),
        ("spmm", {"x": torch.randn(SRC)}, ValueError, "spmm: x_src must have shape [N, d] or [N, T, d], got [7]"),
        ("spmm", {"x": torch.randn(SRC + 1, T, D)}, ValueError, "spmm: x_src must have shape [7, 2, 4], got [8, 2, 4]"),
        ("spmm", {"w": torch.randn(E + 1, T)}, ValueError, "spmm: weight must have shape [9, 2], got [10, 2]"),
        ("spmm", {"w": torch.randn(E, T).double()}, TypeError, "spmm: every dense tensor must be float32, got float64"),
        ("spmm", {"reduce": 3}, ValueError, "spmm: reduce must be 0, 1 or 2"),
        ("spmm", {"reduce": -1}, ValueError, "spmm: reduce must be 0, 1 or 2"),
        ("spmm", {"reduce": 1}, ValueError, "spmm: an extreme needs new_arg with the shape of y"),
        (
            "spmm",
            {"reduce": 1, "y": torch.empty(DST, D), "new_arg": torch.empty(DST, D, dtype=torch.int32)},
            ValueError,
            "spmm: an extreme needs the task axis in y",
        ),
        (
            "spmm",
            {"arg": torch.zeros(DST, T, D, dtype=torch.int32)},
            ValueError,
            "spmm: arg_of must be 1 (rows) or 2 (columns) with arg",
        ),
        (
            "spmm",
            {"arg": torch.zeros(DST, T, D, dtype=torch.int32), "arg_of": 2},
            ValueError,
            "spmm: arg must have an entry for every output element, got [3, 2, 4]",
        ),
        ("spmm", {"scale": torch.ones(SRC)}, ValueError, "spmm: scale must have shape [3], got [7]"),
        ("spmm", {"x": torch.zeros(SRC, T, D, dtype=torch.int64)}, TypeError, "spmm: features must be floating point"),
        ("sddmm", {"out": None}, ValueError, "sddmm: out must be a tensor, got None"),
        ("sddmm", {"out": torch.empty(E - 1, T)}, ValueError, "sddmm: weight must have shape [9, 2], got [8, 2]"),
        (
            "spmm_backward",
            {"y": torch.empty(SRC, T, D + 1)},
            ValueError,
            "spmm_backward: y must have shape [7, 2, 4], got [7, 2, 5]",
        ),
        ("attention", {"value": None}, ValueError, "attention: value must have shape [N, K, d], got []"),
        ("attention", {"lse": torch.empty(DST, T)}, TypeError, "attention: lse must be float64, got float32"),
        ("attention", {"seed": None}, ValueError, "attention: seed must have shape [1], got []"),
        ("attention", {"dropout": 1.0}, ValueError, "attention: dropout must be in [0, 1)"),
        ("attention", {"edge_type": TYPE.long()}, TypeError, "attention: edge_type must be int32, got int64"),
        (
            "attention_backward",
            {"back": GRAPH.pattern},
            ValueError,
            "attention_backward: back must be the transposed pattern",
        ),
        (
            "attention_backward",
            {"d_edge": None},
            ValueError,
            "attention_backward: d_dst and d_type are summed from d_edge",
        ),
        ("gatv2_score", {"att": torch.ones(D)}, ValueError, "gatv2_score: att must have shape [2, 4], got [4]"),
        (
            "gatv2_backward",
            {"g": torch.ones(E)},
            ValueError,
            "gatv2_backward: a tensor of edges must have shape [9, 2], got [9]",
        ),
        ("attention_backward", {"type": None}, ValueError, "attention_backward: d_type needs score_type"),
        ("edge_energy", {"to": 4}, ValueError, "edge_energy: to must be 0 to 3"),
        (
            "edge_energy",
            {"a": torch.ones(SRC, D)},
            ValueError,
            "edge_energy: the factor of what is summed for must be None",
        ),
        (
            "edge_energy",
            {"shift_order": 9},
            ValueError,
            "edge_energy: orders must be 0 or more and 9 at most together, got 1 and 9",
        ),
        ("edge_energy", {"field": torch.ones(DST)}, ValueError, "edge_energy: field must have shape [N, B], got [3]"),
        ("gibbs", {"burn_in": 2}, ValueError, "gibbs: burn_in must be less than the sweeps"),
        (
            "gibbs",
            {"children": GRAPH.pattern},
            ValueError,
            "gibbs: the graph must have as many sources as destinations",
        ),
        ("concrete", {"src": None}, ValueError, "concrete: logits must have shape [T, T], got [9]"),
        ("concrete", {"dst": None}, ValueError, "concrete: src and dst must be both there or none"),
        ("concrete", {"order": 0}, ValueError, "concrete: v belongs to orders above 0"),
        ("concrete", {"order": 9}, ValueError, "concrete: order must be 0 to 8, got 9"),
        ("concrete", {"temperature": 0.0}, ValueError, "concrete: temperature must be positive"),
        ("concrete", {"explore": float("nan")}, ValueError, "concrete: explore must be in [0, 0.5]"),
        (
            "concrete_draw",
            {"words": torch.empty(SRC, 2)},
            ValueError,
            "concrete_draw: words must have shape [7, 1], got [7, 2]",
        ),
        ("concrete_edges", {"col": torch.empty(SRC)}, TypeError, "concrete_edges: col must be an index"),
        ("gather_relu", {"at_h": torch.ones(D)}, ValueError, "gather_relu: h must have shape [B, d], got [4]"),
        (
            "gather_relu",
            {"s": torch.ones(DST, D)},
            ValueError,
            "gather_relu: a summand must have shape [7, 4], got [3, 4]",
        ),
        (
            "gather_relu",
            {"out": torch.empty(E, D)},
            ValueError,
            "gather_relu: a tensor of edges must have shape [9, 2, 4], got [9, 4]",
        ),
        (
            "gather_relu_backward",
            {"back": GRAPH.pattern},
            ValueError,
            "gather_relu_backward: back must be the transposed pattern",
        ),
        (
            "gather_relu_backward",
            {"d_h": torch.empty(SRC, D)},
            ValueError,
            "gather_relu_backward: d_h must have shape [2, 4], got [7, 4]",
        ),
        ("csr", {"row": torch.zeros(E + 1, dtype=torch.int64)}, ValueError, "csr: col must have shape [10], got [9]"),
        ("csr", {"col": torch.zeros(E, dtype=torch.int32)}, TypeError, "csr: col must be int64, got int32"),
        ("csr", {"row_ptr": torch.zeros(4, dtype=torch.int32)}, TypeError, "csr: row_ptr must be int64, got int32"),
        (
            "csr",
            {"col": torch.full((E,), 7)},
            IndexError,
            "graph: every source must be in [0, 7), edge 0 has 7; give the number of nodes or mend the edge list",
        ),
    ],
)
def test_refused(function: str, changes: dict[str, Any], error: type[Exception], text: str, border: ModuleType) -> None:
    with pytest.raises(error) as caught:
        FUNCTIONS[function](border, **changes)
    assert str(caught.value) == text


@pytest.mark.parametrize("threads", [-(2**31), -1, 0, 1, 1000])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_any_number_of_threads(function: str, threads: int, kernels: ModuleType) -> None:
    assert FUNCTIONS[function](kernels, threads=threads).isfinite().all()


def test_parameters_and_leaves_are_plain(border: ModuleType) -> None:
    x = torch.randn(SRC, T, D)
    w = torch.randn(E, T)
    want = spmm(border, x=x, w=w)
    assert torch.equal(spmm(border, x=torch.nn.Parameter(x), w=w.clone().requires_grad_()), want)

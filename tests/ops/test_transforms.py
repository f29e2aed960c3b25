"""Every operator under torch.compile, export, FakeTensor, opcheck and torch.func: the same values and derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cases
import pytest
import torch
from cases import CALLS, FEW, MEDIUM, PATTERNS, Call, call
from compare import case, close, weighted
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fastgmtl import Graph, ops
from fastgmtl.ops.operator import flatten

pytestmark = pytest.mark.usefixtures("kernels")
OPERATORS = [n for n in FEW if "_op-" in n and not n.endswith("-at")] + [
    "spmm_op-n-x2-wnone",
    "extreme_op-max-x2-wET",
    "extreme_op-min-x3-wE",
    "relation_gate_backward_op-w-mask",
    "rspmm_extreme_op-max-mul-w",
    "rspmm_extreme_op-min-add-w",
]
# Compiling takes a second: one call for each kernel and each kind of gradient.
COMPILED = (
    "spmm-sum-x2-wET",
    "spmm-mean-x3-wE",
    "spmm-max-x3-wET",
    "sddmm-23",
    "spmm_op-t-mean-x3-wET-sum",
    "spmm_backward_op-t-mean-g3-wET-x2",
    "gram-groups",
    "combine-sums-groups",
    "attention-drop",
    "attention-query-tasks",
    "attention-weights",
    "attention-gatv2-tasks",
    "attention_backward_op-drop-logits-31",
    "relation_gate-w-res-elu",
    "relation_gate-w-relu-mask",
    "rspmm-rotate-mean-23-wE",
    "rspmm-add-max-32-wE",
)


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def outputs(out: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


def scalar(function: Callable[..., Tensor | tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    """``function`` with its outputs weighted into a number."""
    return lambda *inputs: weighted(function(*inputs))


# ------------------------------------------------------------------------------------------- library, fake, export


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name: str) -> None:
    for pattern in ("typical", "sorted"):
        c = call(name, PATTERNS[pattern], tasks=2)
        tensors = [t if t is None or not t.is_floating_point() else t.clone().requires_grad_() for t in c.tensors]
        packet = getattr(torch.ops.fastgmtl, c.operator.name).default  # type: ignore[union-attr]
        torch.library.opcheck(packet, c.library_arguments(tensors))


@pytest.mark.parametrize("name", ["csr"])
def test_opcheck_of_sorting(name: str) -> None:
    for pattern in (PATTERNS["typical"], PATTERNS["bipartite"]):
        src, dst = pattern.edge_index
        arguments = (dst, src, None, pattern.num_dst, pattern.num_src)
        torch.library.opcheck(getattr(torch.ops.fastgmtl, name).default, arguments)


@pytest.mark.parametrize("name", CALLS)
def test_fake_tensors(name: str) -> None:
    """Shapes and dtypes without memory; a kernel never sees a fake tensor."""
    for pattern in ("typical", "empty", "bipartite_wide"):
        c = call(name, PATTERNS[pattern], dtype=torch.bfloat16)
        c.graph.t()
        want = c.run(*c.tensors)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            got = c.run(*[t if t is None else mode.from_tensor(t) for t in c.tensors])
        for g, w in zip(outputs(got), outputs(want), strict=True):
            assert isinstance(g, FakeTensor)
            assert (g.shape, g.dtype) == (w.shape, w.dtype)


def test_fake_gradients() -> None:
    c = call("spmm-mean-x3-wET", PATTERNS["typical"])
    c.graph.t()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        inputs = [mode.from_tensor(i).requires_grad_() for i in c.inputs()]
        first = torch.autograd.grad(c.of_floats(c.run)(*inputs).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(f.sum() for f in first), inputs)
    assert [s.shape for s in second] == [i.shape for i in inputs]


def test_meta_tensors() -> None:
    """A graph and features on the meta device give shapes."""
    graph = PATTERNS["typical"].graph()
    graph.t()
    graph = graph.to("meta")
    with pytest.raises(Exception, match="meta"):
        graph.edge_index().tolist()
    y = torch.ops.fastgmtl.spmm(*flatten(graph), torch.empty(5, 2, device="meta"), None, None, *[False] * 4)
    assert y.shape == (5, 2) and y.is_meta


@pytest.mark.parametrize("name", ["spmm-mean-x2-wET", "spmm-max-x3-wE", "sddmm-33", "attention-tasks"])
def test_export(name: str) -> None:
    c = call(name, PATTERNS["typical"])

    class Module(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return c.of_floats(c.run)(*inputs)  # type: ignore[return-value]

    program = torch.export.export(Module(), tuple(c.inputs()), strict=False)
    assert any("fastgmtl" in str(node.target) for node in program.graph.nodes)
    close(program.module()(*c.inputs()), c.twin(*c.tensors), torch.float64)


# ------------------------------------------------------------------------------------------------------ compile


def compiled_derivatives(c: Call, backend: str) -> None:
    eager = c.of_floats(c.twin)
    compiled = torch.compile(c.of_floats(c.run), fullgraph=True, backend=backend)
    got_in, want_in = c.inputs(requires_grad=True), c.inputs(requires_grad=True)
    got, want = outputs(compiled(*got_in)), outputs(eager(*want_in))
    close(tuple(g.detach() for g in got), tuple(w.detach() for w in want), c.inputs()[0].dtype)
    weighted(got).backward()
    weighted(want).backward()
    for g, w in zip(got_in, want_in, strict=True):
        close(g.grad, w.grad, g.dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", COMPILED)
def test_compile(name: str, fresh_dynamo: None) -> None:
    compiled_derivatives(call(name, MEDIUM["bipartite"]), "aot_eager")


@pytest.mark.parametrize("pattern", ["sorted", "no_edges", "typical_wide"])
def test_compile_on_strange_patterns(pattern: str, fresh_dynamo: None) -> None:
    compiled_derivatives(call("spmm-mean-x3-wET", MEDIUM[pattern]), "aot_eager")


def test_compile_with_inductor(fresh_dynamo: None) -> None:
    compiled_derivatives(call("spmm-mean-x2-wET", MEDIUM["typical"], dtype=torch.float32), "inductor")


def test_compile_a_graph_built_inside(fresh_dynamo: None) -> None:
    """From edge_index to gradient in one compiled function: sorting is an operator too."""
    pattern = MEDIUM["bipartite"]

    def layer(edge_index: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        graph = Graph.from_edge_index(edge_index, pattern.num_src, pattern.num_dst)
        return ops.spmm(graph, x, weight, "mean").relu()

    c = call("spmm-mean-x2-wE", pattern)
    got_in, want_in = c.inputs(requires_grad=True), c.inputs(requires_grad=True)
    got = torch.compile(layer, fullgraph=True, backend="aot_eager")(pattern.edge_index, *got_in)
    want = c.of_floats(c.twin)(*want_in).relu()  # type: ignore[union-attr]
    close(got.detach(), want.detach(), torch.float64)
    got.sum().backward(), want.sum().backward()
    for g, w in zip(got_in, want_in, strict=True):
        close(g.grad, w.grad, torch.float64)  # type: ignore[arg-type]


def test_compile_gcn_norm(fresh_dynamo: None) -> None:
    graph = MEDIUM["typical"].graph()
    weight = torch.rand(graph.num_edges, dtype=torch.float64) + 0.5

    def norm(weight: Tensor) -> Tensor:
        return ops.gcn_norm(graph, weight)[1]

    close(torch.compile(norm, fullgraph=True, backend="aot_eager")(weight), norm(weight), torch.float64)


# --------------------------------------------------------------------------------------------------- torch.func


@pytest.mark.parametrize("name", CALLS)
def test_func_grad_and_grad_of_grad(name: str) -> None:
    for pattern in ("bipartite", "no_edges") if name in FEW else ("typical",):
        c = call(name, PATTERNS[pattern], tasks=2)
        args = tuple(range(len(c.floats)))

        def first(function: object, c: Call = c, args: tuple[int, ...] = args) -> object:
            return torch.func.grad(scalar(c.of_floats(function)), argnums=args)  # type: ignore[arg-type]

        def second(function: object, c: Call = c, args: tuple[int, ...] = args) -> object:
            return torch.func.grad(scalar(first(function)), argnums=args)

        with case(pattern):
            close(first(c.run)(*c.inputs()), first(c.twin)(*c.inputs()), torch.float64)  # type: ignore[operator]
            close(second(c.run)(*c.inputs()), second(c.twin)(*c.inputs()), torch.float64)  # type: ignore[operator]


@pytest.mark.parametrize("name", FEW)
def test_func_jacrev(name: str) -> None:
    c = call(name, PATTERNS["bipartite"], tasks=2)
    for k in range(len(c.floats)):
        got, want = (torch.func.jacrev(c.of_floats(f), argnums=k)(*c.inputs()) for f in (c.run, c.twin))
        close(got, want, torch.float64)


@pytest.mark.parametrize("name", [n for n in FEW if "spmm_backward" not in n])
def test_func_hessian_by_jacrev(name: str) -> None:
    c = call(name, PATTERNS["typical"], tasks=2, width=1)
    last = len(c.floats) - 1
    got, want = (
        torch.func.jacrev(torch.func.grad(scalar(c.of_floats(f))), argnums=last)(*c.inputs())  # type: ignore[arg-type]
        for f in (c.run, c.twin)
    )
    close(got, want, torch.float64)


def batches(c: Call, mask: tuple[bool, ...], dim: int) -> tuple[list[Tensor], tuple[int | None, ...]]:
    g = cases.generator(f"{c.name}-batch")
    inputs, dims = [], []
    for value, batched in zip(c.inputs(), mask, strict=True):
        if batched:
            many = torch.randn(4, *value.shape, generator=g, dtype=value.dtype)
            inputs.append(many.movedim(0, dim if dim < many.dim() else 0))
            dims.append(dim if dim < many.dim() else 0)
        else:
            inputs.append(value)
            dims.append(None)
    return inputs, tuple(dims)


def masks(n: int) -> list[tuple[bool, ...]]:
    """Every subset but the empty one; of many, those of one, of all but one, and of all."""
    subsets = [tuple(bool(bits >> i & 1) for i in range(n)) for bits in range(1, 2**n)]
    return subsets if n < 5 else [s for s in subsets if sum(s) in (1, n - 1, n)]


@pytest.mark.parametrize("name", CALLS)
def test_vmap(name: str) -> None:
    """Every subset of the inputs batched, along the first axis or another."""
    for pattern in ("bipartite", "no_edges") if name in FEW else ("typical",):
        c = call(name, PATTERNS[pattern], tasks=2)
        for mask in masks(len(c.floats)):
            for dim in (0, 1):
                inputs, dims = batches(c, mask, dim)
                with case(pattern, "batched", mask, "axis", dim):
                    got = torch.func.vmap(c.of_floats(c.run), in_dims=dims)(*inputs)
                    want = torch.func.vmap(c.of_floats(c.twin), in_dims=dims)(*inputs)
                    close(got, want, torch.float64)


@pytest.mark.parametrize("name", CALLS)
def test_vmap_of_grad_and_grad_of_vmap(name: str) -> None:
    c = call(name, PATTERNS["bipartite"], tasks=2)
    args = tuple(range(len(c.floats)))
    for mask in masks(len(c.floats)):
        inputs, dims = batches(c, mask, 0)
        with case("batched", mask):
            got, want = (
                torch.func.vmap(torch.func.grad(scalar(c.of_floats(f)), argnums=args), in_dims=dims)(*inputs)  # type: ignore[arg-type]
                for f in (c.run, c.twin)
            )
            close(got, want, torch.float64)
            got, want = (
                torch.func.grad(scalar(torch.func.vmap(c.of_floats(f), in_dims=dims)), argnums=args)(*inputs)  # type: ignore[arg-type]
                for f in (c.run, c.twin)
            )
            close(got, want, torch.float64)


@pytest.mark.parametrize("name", ["spmm-sum-x2-wET", "sddmm-33", "spmm-max-x3-wE", "attention-gat"])
def test_vmap_of_vmap(name: str) -> None:
    c = call(name, PATTERNS["typical"], tasks=2)
    g = cases.generator(name)
    inputs = [torch.randn(2, 3, *i.shape, generator=g, dtype=i.dtype) for i in c.inputs()]
    got, want = (torch.func.vmap(torch.func.vmap(c.of_floats(f)))(*inputs) for f in (c.run, c.twin))
    close(got, want, torch.float64)


@pytest.mark.parametrize("name", ["spmm-sum-x2-wE", "sddmm-22", "attention-gat"])
def test_forward_mode_is_refused(name: str) -> None:
    """One that has no derivative raises, and never returns a tensor without one."""
    c = call(name, PATTERNS["typical"])
    inputs = tuple(c.inputs())
    with pytest.raises((RuntimeError, NotImplementedError), match=r"jvp|forward"):
        torch.func.jvp(c.of_floats(c.run), inputs, inputs)


def test_functorch_leaves_no_wrapped_tensor_in_the_graph() -> None:
    """What a graph keeps is made outside of the transform that first asked for it."""
    graph = PATTERNS["typical"].graph()
    x = torch.randn(graph.num_src, 2)
    for reduce in cases.REDUCTIONS:
        torch.func.grad(lambda x, r=reduce: ops.spmm(graph, x, None, r).sum())(x)
        torch.func.vmap(lambda x, r=reduce: ops.spmm(graph, x, None, r))(x.expand(2, -1, -1))
    kept = [v for v in graph._lazy.values() if isinstance(v, Tensor)] + [graph.t().col]
    assert kept and not any(torch._C._functorch.is_functorch_wrapped_tensor(v) for v in kept)
    ops.spmm(graph, x.requires_grad_(), None, "mean").sum().backward()

"""One meta-step of SAME on ENZYMES: 3 tasks, 16 graphs, d = 256, 3 layers; losses and the gradients of all parameters.

Beside us the same step in plain PyTorch: as the authors' code has it (aggregation by index_add, normalisation anew in
every layer, one task after the other, autograd with create_graph), and the best that it can do (normalised CSR matrices
made beforehand, all tasks in one matrix). ``part: matrix products`` are those of our step alone: a floor for all.

Two more tables go to results/meta_gradients.md: bytes allocated in a step, and how wrong meta-gradients are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from bench.conftest import RESULTS
from bench.harness import OURS, Case, Provider, Settings, cases, difference
from bench.peers import Absent, need
from bench.same_peers import Plain, released
from fastgmtl import Graph
from fastgmtl.data import load
from fastgmtl.methods.same import Encoder, Episode, Graphs, Model, episodes, meta_step, tasks_of
from fastgmtl.methods.same.episodes import Block, Part
from fastgmtl.methods.same.meta import by_autograd

ADAPT = {"isame": "all", "esame": "heads"}
WIDTH, BATCH, RATE = 256, 16, 0.04


@cache
def episode() -> tuple[Episode, dict[str, str], int]:
    """An episode of ENZYMES, the levels of its tasks, the number of features."""
    try:
        data = load("tu:ENZYMES")
    except (ValueError, FileNotFoundError) as error:
        pytest.skip(f"needs ENZYMES: {error}")
    tasks, generator = tasks_of(data), torch.Generator().manual_seed(0)
    order = torch.randperm(data.num_graphs, generator=generator)[:BATCH].tolist()
    (made,) = episodes(Graphs(data), tasks, order, BATCH, generator=generator)
    return made, {task.name: task.level for task in tasks}, data.num_features


def model(dtype: torch.dtype = torch.float32) -> Model:
    made, _, features = episode()
    torch.manual_seed(0)
    tasks = [task for task in tasks_of(load("tu:ENZYMES")) if task.name in made.parts]
    return Model.of(Encoder(features, WIDTH), tasks, WIDTH).to(dtype)


def double(made: Episode) -> Episode:
    """The episode in float64."""

    def block(b: Block) -> Block:
        return Block(b.x.double(), b.graph, b.bounds)

    return Episode(
        {
            name: Part(block(p.support), block(p.target), p.support_query, p.target_query, block(p.union), p.rows)
            for name, p in made.parts.items()
        }
    )


def steps(adapt: str) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """Gradients of all parameters, by provider."""
    made, levels, _ = episode()
    net = model()
    named, plain = dict(net.named_parameters()), Plain(made, levels)
    leaves = list(named.values())
    rates = dict.fromkeys(made.parts, RATE)
    losses: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: torch.stack(list(meta_step(net, made, RATE, adapt=adapt).values())).sum(),  # type: ignore[arg-type]
        f"{OURS}, autograd": lambda: torch.stack(
            list(by_autograd(net, made, rates, adapt, 1, False).values())  # type: ignore[arg-type]
        ).sum(),
        "as released": lambda: released(named, made, levels, adapt, RATE),
        "plain PyTorch, cached CSR": lambda: plain.run(named, adapt, RATE),
    }
    return {name: lambda loss=loss: torch.autograd.grad(loss(), leaves) for name, loss in losses.items()}  # type: ignore[misc]


class Shapes(TorchDispatchMode):
    """Notes the shapes of the matrix products that are done in it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[torch.Size, torch.Size]] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op.name().startswith(("aten::mm", "aten::addmm")):
            matrices = [a for a in args if isinstance(a, Tensor)][-2:]
            self.found.append((matrices[0].shape, matrices[1].shape))
        return op(*args, **(kwargs or {}))


def products(run: Callable[[], Any]) -> Callable[[], None]:
    """The matrix products of a call, alone, into memory that is there."""
    with Shapes() as seen:
        run()
    all_ = [(torch.randn(a), torch.randn(b), torch.empty(a[0], b[1])) for a, b in seen.found]

    def again() -> None:
        for a, b, out in all_:
            torch.mm(a, b, out=out)

    return again


def is_quick(name: str, threads: int) -> bool:
    return threads == 1 and name == "esame"


@pytest.mark.parametrize(("name", "threads"), cases(ADAPT, (1, 2), quick=is_quick))
def test_meta_step(benchmark: Any, settings: Settings, name: str, threads: int) -> None:
    torch.set_num_threads(threads)
    made, levels, _ = episode()
    net, exact = model(torch.float64), double(made)
    wanted = torch.autograd.grad(
        released(dict(net.named_parameters()), exact, levels, ADAPT[name], RATE), list(net.parameters())
    )
    providers: dict[str, Provider | str] = {
        provider: Provider(run, lambda found: difference(found, wanted)) for provider, run in steps(ADAPT[name]).items()
    }
    providers["part: matrix products"] = Provider(products(providers[OURS].run))  # type: ignore[union-attr]
    union = made.union
    case = Case("meta", name, "3-task step", threads, union.x.size(0), union.graph.num_edges, WIDTH, len(made.parts))
    settings.measure(benchmark, case, providers)


# ------------------------------------------------------------------------------------------------ the other tables


def allocated(run: Callable[[], Any]) -> int:
    """Bytes of all allocations of a call, whether they are freed in it or not."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events = seen.profiler.kineto_results.events()  # type: ignore[union-attr]
    return sum(e.nbytes() for e in events if e.name() == "[memory]" and e.nbytes() > 0)


class OnSparseTensor(Encoder):
    """Our encoder's layers on ``torch_sparse.matmul``."""

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        from torch_sparse import SparseTensor, matmul

        from fastgmtl.methods.same.model import unit_rows
        from fastgmtl.ops import gcn_norm

        looped, weight = gcn_norm(graph, dtype=x.dtype)
        matrix = SparseTensor(
            rowptr=looped.row_ptr, col=looped.col.long(), value=weight, sparse_sizes=(x.size(0), x.size(0))
        )
        h = x
        for place, conv in enumerate(self.convs):
            v = conv.lin.product(matmul(matrix, h), conv.bias).relu()
            h = unit_rows(v + h if place else v)
        return h


class Attention(nn.Module):
    """Three GATConv of PyG, on an EdgeIndex (their fused path) or an edge_index."""

    def __init__(self, features: int, fused: bool) -> None:
        super().__init__()
        from torch_geometric.nn import GATConv

        widths = (features, 64, 64, WIDTH)
        self.convs = nn.ModuleList(GATConv(a, b, add_self_loops=False) for a, b in zip(widths, widths[1:]))  # noqa: B905, RUF007
        self.fused = fused

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        from torch_geometric import EdgeIndex

        graph = graph.add_self_loops()
        edges = torch.stack([graph.col.long(), graph.edge_rows()])
        if self.fused:
            edges = EdgeIndex(edges, sparse_size=(graph.num_src, graph.num_dst), sort_order="col")
        for conv in self.convs:
            x = conv(x, edges).tanh()
        return x


def error(net: Model, wanted: Model, made: Episode, rate: float) -> float:
    """|g - g'| / |g'| over all parameters, of the meta-gradients of iSAME by autograd."""
    rates = dict.fromkeys(made.parts, rate)

    def flat(m: Model) -> Tensor:
        losses = by_autograd(m, made, rates, "all", 1, False)
        return torch.cat([g.flatten() for g in torch.autograd.grad(sum(losses.values()), list(m.parameters()))])  # type: ignore[arg-type]

    found, right = flat(net), flat(wanted)
    return float((found - right).norm() / right.norm())


def wrong(rate: float) -> dict[str, str]:
    """Relative error of the meta-gradient in float64, by what the model runs on."""
    made, levels, features = episode()
    exact, net = double(made), model(torch.float64)
    params = list(net.parameters())
    right = torch.autograd.grad(released(dict(net.named_parameters()), exact, levels, "all", rate), params)
    ours = torch.autograd.grad(sum(meta_step(net, exact, rate).values()), params)  # type: ignore[arg-type]
    rows = {f"{OURS} (largest, over the largest entry)": f"{difference(ours, right):.1e}"}
    try:
        need("torch_sparse")
        other = copy.deepcopy(net)
        other.encoder.__class__ = OnSparseTensor
        rows["the same GCN on torch_sparse.matmul"] = f"{100 * error(other, net, exact, rate):.1f} %"
    except Absent as reason:
        rows["the same GCN on torch_sparse.matmul"] = f"absent: {reason}"
    try:
        need("torch_geometric")
        pair = []
        for fused in (True, False):
            torch.manual_seed(0)
            pair.append(Model(Attention(features, fused), copy.deepcopy(model().heads)).double())  # type: ignore[arg-type]
        rows["PyG GATConv on EdgeIndex, against itself on edge_index"] = f"{100 * error(*pair, exact, rate):.1f} %"
    except Absent as reason:
        rows["PyG GATConv on EdgeIndex"] = f"absent: {reason}"
    return rows


def test_gradients_and_allocation(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    lines = ["# Meta-gradients of SAME", "", "Bytes allocated in one meta-step (MiB):", ""]
    lines += ["| provider | " + " | ".join(ADAPT) + " |", "| --- | ---: | ---: |"]
    sizes = {name: {p: allocated(run) for p, run in steps(adapt).items()} for name, adapt in ADAPT.items()}
    for provider in sizes["isame"]:
        lines.append(f"| {provider} | " + " | ".join(f"{sizes[name][provider] / 2**20:.1f}" for name in ADAPT) + " |")
    lines += [
        "",
        "Error of the meta-gradient of iSAME, in float64, by the inner learning rate:",
        "",
        "| on | 0.04 | 0.4 |",
        "| --- | ---: | ---: |",
    ]
    small, large = wrong(RATE), wrong(10 * RATE)
    lines += [f"| {on} | {small[on]} | {large[on]} |" for on in small]
    text = "\n".join(lines) + "\n"
    ((tmp_path if settings.quick else RESULTS) / "meta_gradients.md").write_text(text)
    with capsys.disabled():
        print(f"\n{text}")

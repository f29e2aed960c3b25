"""A graph in parts gives what the whole gives: outputs 1e-12, gradients of first and second order 1e-10, in float64."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastgmtl import Graph, ops
from fastgmtl.data import Dataset, Task, TaskSet
from fastgmtl.distributed import (
    BatchNorm1d,
    Dropout,
    Part,
    World,
    all_reduce,
    convert,
    exchange,
    partition,
    share,
)
from fastgmtl.nn import GATConv, GCNConv, GINConv, GraphConv, SAGEConv

N, E, F = 200, 900, 6


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_graph(seed: int = 0) -> Graph:
    """Parallel edges, loops, nodes without edges."""
    pairs = torch.randint(N, (2, E), generator=_draw(seed))
    pairs[:, :8] = torch.arange(8)
    return Graph.from_edge_index(pairs[:, (pairs < N - 5).all(0)], N, N)


def owners(world: World) -> dict[str, Tensor]:
    """Ways of dividing the nodes: runs, at random, one rank with nothing, one with everything."""
    drawn = torch.randint(world.size, (N,), generator=_draw(1))
    return {
        "blocks": partition(random_graph(), world.size, method="blocks"),
        "random": drawn,
        "empty": drawn.clamp(max=world.size - 2),
        "one": torch.zeros(N, dtype=torch.int64),
    }


def rows(whole: Tensor, part: Part) -> Tensor:
    return whole[part.nodes]


def close(mine: Tensor, whole: Tensor, tolerance: float) -> None:
    assert mine.shape == whole.shape
    assert (mine - whole).abs().max().item() < tolerance if mine.numel() else True


def check_aggregation(world: World) -> None:
    graph, x = random_graph(), torch.randn(N, 2, F, generator=_draw(2), dtype=torch.float64)
    weight = torch.randn(graph.num_edges, 2, generator=_draw(3), dtype=torch.float64)
    for owner in owners(world).values():
        part = Part.of(graph, owner, world)
        for reduce in ("sum", "mean", "max", "min"):
            for w in (None, weight) if reduce in ("sum", "mean") else (None,):
                given = None if w is None else w[part.edges]
                close(part.aggregate(x[part.nodes], given, reduce), rows(ops.spmm(graph, x, w, reduce), part), 1e-12)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "sage": lambda: SAGEConv(F, 5),
    "sage widening": lambda: SAGEConv(F, 9, aggr="sum", normalize=True),
    "sage max": lambda: SAGEConv(F, 5, aggr="max", project=True),
    "sage of tasks": lambda: SAGEConv(F, 5, num_tasks=3),
    "gin": lambda: GINConv(nn.Sequential(nn.Linear(F, 5), nn.Tanh()), train_eps=True),
    "graph": lambda: GraphConv(F, 5),
    "gcn": lambda: GCNConv(F, 5),
    "gcn without loops": lambda: GCNConv(F, 5, add_self_loops=False),
    "gcn improved": lambda: GCNConv(F, 5, improved=True),
}


def check_layers(world: World) -> None:
    """Outputs, gradients, and gradients of gradients, of every layer that takes a part."""
    graph, x = random_graph(), torch.randn(N, F, generator=_draw(2), dtype=torch.float64)
    target = torch.randn(N, 27, generator=_draw(5), dtype=torch.float64)
    for name, make in LAYERS.items():
        torch.manual_seed(4)
        layer = make().double()
        whole = _orders(layer, x, graph, target, None)
        for how, owner in owners(world).items():
            part = Part.of(graph, owner, world)
            mine = _orders(layer, x[part.nodes], part, target[part.nodes], world)
            for k, (a, b) in enumerate(zip(mine, whole, strict=True)):
                wanted = rows(b, part) if b.size(0) == N else b
                away = (a - wanted).abs().max().item() if a.numel() else 0.0
                assert a.shape == wanted.shape and away < (1e-10 if k else 1e-12), (name, how, k, away)


def _orders(layer: nn.Module, x: Tensor, graph: Graph, target: Tensor, world: World | None) -> list[Tensor]:
    """The output, the gradients of a loss, and those of the sum of their squares."""
    x = x.clone().requires_grad_()
    params = list(layer.parameters())
    out = layer(x, graph)
    loss = (out.tanh() - target[:, : out[0:1].numel()].reshape(out.shape)).square().sum()
    first = torch.autograd.grad(loss, [x, *params], create_graph=True)
    # Gradients of weights are sums over the ranks, and differentiable as such.
    summed = [first[0], *(g if world is None else all_reduce(g, world.group) for g in first[1:])]
    share = 1 if world is None else 1 / world.size
    scalar = summed[0].square().sum() + sum(g.square().sum() * share for g in summed[1:])
    second = torch.autograd.grad(scalar, [x, *params])
    if world is not None:
        second = (second[0], *(all_reduce(g, world.group) for g in second[1:]))
    return [t.detach() for t in (out, *summed, *second)]


def check_weights_of_gcn(world: World) -> None:
    """Edge weights, loops among them, and their gradients."""
    graph, x = random_graph(), torch.randn(N, F, generator=_draw(2), dtype=torch.float64)
    torch.manual_seed(0)
    layer, weight = GCNConv(F, 4).double(), torch.rand(graph.num_edges, generator=_draw(6), dtype=torch.float64) + 0.1
    whole_weight = weight.clone().requires_grad_()
    whole = layer(x, graph, whole_weight)
    (expected,) = torch.autograd.grad(whole.square().sum(), whole_weight)
    part = Part.of(graph, owners(world)["random"], world)
    mine_weight = weight[part.edges].requires_grad_()
    mine = layer(x[part.nodes], part, mine_weight)
    close(mine, whole[part.nodes], 1e-12)
    (found,) = torch.autograd.grad(mine.square().sum(), mine_weight)
    close(found, expected[part.edges], 1e-10)


class Model(nn.Module):
    """Two layers with batch norm and dropout, a head for each of two tasks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first, self.second = SAGEConv(F, 8), GCNConv(8, 8)
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 1)])
        self.double()

    def forward(self, x: Tensor, graph: Graph) -> list[Tensor]:
        h = self.drop(self.norm(self.first(x, graph)).tanh())
        h = self.second(h, graph).tanh()
        return [head(h) for head in self.heads]


def data() -> Dataset:
    """Tasks with gaps; the numbers are labelled on the first nodes alone, so that some ranks have none."""
    graph, x = random_graph(), torch.randn(N, F, generator=_draw(2), dtype=torch.float64)
    where = torch.rand(N, generator=_draw(8))
    split = {"train": where < 0.6, "val": (where >= 0.6) & (where < 0.8), "test": where >= 0.8}
    classes = torch.randint(-1, 3, (N,), generator=_draw(9))
    numbers = torch.randn(N, generator=_draw(10)).masked_fill(torch.arange(N) >= 40, torch.nan)
    tasks = [
        Task("class", "class", "node", classes, split, "macro_f1", num_outputs=3),
        Task("number", "regression", "node", numbers, split, "r2"),
    ]
    return Dataset("random", graph, x, TaskSet(tasks))


def _losses(model: Model, of: Dataset) -> Tensor:
    outputs = model(of.x, of.graph)
    pairs = [task.loss(out, "train") for task, out in zip(of.tasks.values(), outputs, strict=True)]
    return torch.stack([total / count.clamp(min=1) for total, count in pairs])


def check_training_step(world: World) -> None:
    """Losses, gradients, batch norm's statistics and scores, with dropout: the number of ranks does not matter."""
    alone, whole = World(), data()
    one = Model()
    convert(one, Part.of(whole.graph, torch.zeros(N, dtype=torch.int64), alone))
    torch.manual_seed(11)
    expected = _losses(one, whole)
    expected.sum().backward()
    scores = _scores(one, whole)
    for owner in owners(world).values():
        part = Part.of(whole.graph, owner, world)
        model, mine = Model(), share(whole, part)
        convert(model, part)
        torch.manual_seed(11)
        found = _losses(model, mine)
        close(all_reduce(found.detach()), expected.detach(), 1e-12)
        found.sum().backward()
        for (name, p), q in zip(model.named_parameters(), one.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None, name
            close(all_reduce(p.grad), q.grad, 1e-10)
        for name, value in model.named_buffers():
            close(value.double(), dict(one.named_buffers())[name].double(), 1e-12)
        assert _scores(model, mine) == scores
        assert mine.tasks.counts("train") == whole.tasks.counts("train")


def _scores(model: Model, of: Dataset) -> list[float]:
    model.eval()
    with torch.no_grad():
        outputs = model(of.x, of.graph)
    model.train()
    return [task.score(out, "test") for task, out in zip(of.tasks.values(), outputs, strict=True)]


def check_batch_norm_is_that_of_pytorch(world: World) -> None:
    """In the whole: outputs, running statistics, gradients; and in eval mode."""
    x = torch.randn(N, 4, generator=_draw(12), dtype=torch.float64) * 3 + 1
    plain, owner = nn.BatchNorm1d(4, momentum=0.3).double(), owners(world)["random"]
    mine = convert(nn.BatchNorm1d(4, momentum=0.3).double(), Part.of(random_graph(), owner, world))
    assert isinstance(mine, BatchNorm1d)
    some = (owner == world.rank).nonzero()[:, 0]
    whole = x.clone().requires_grad_()
    part = x[some].requires_grad_()
    for _ in range(3):
        expected, found = plain(whole), mine(part)
        close(found, expected[some], 1e-12)
    close(mine.running_mean, plain.running_mean, 1e-12)  # type: ignore[arg-type]
    close(mine.running_var, plain.running_var, 1e-12)  # type: ignore[arg-type]
    (g,) = torch.autograd.grad(expected.pow(3).sum(), whole)
    (h,) = torch.autograd.grad(found.pow(3).sum(), part)
    close(h, g[some], 1e-10)
    close(mine.eval()(part), plain.eval()(whole)[some], 1e-12)


def check_dropout_depends_on_the_node(world: World) -> None:
    graph, owner = random_graph(), owners(world)["random"]
    part, one = Part.of(graph, owner, world), Part.of(graph, torch.zeros(N, dtype=torch.int64), World())
    x = torch.ones(N, 3, 7)
    torch.manual_seed(3)
    whole = Dropout(0.25, one)(x)
    torch.manual_seed(3)
    mine = Dropout(0.25, part)(x[part.nodes])
    order = torch.empty(N, dtype=torch.int64)
    order[one.nodes] = torch.arange(N)
    assert torch.equal(mine, whole[order[part.nodes]])
    assert abs((whole == 0).float().mean().item() - 0.25) < 0.03
    torch.testing.assert_close(whole.unique(), torch.tensor([0, 1 / 0.75]))
    assert not torch.equal(whole, Dropout(0.25, one)(x))


def check_meta_gradient(world: World) -> None:
    """MAML: one inner step, the outer loss on other labels, differentiated through both."""
    whole, rate = data(), 0.1
    part = Part.of(whole.graph, owners(world)["random"], world)
    results = []
    for of, group in ((whole, None), (share(whole, part), world)):
        torch.manual_seed(13)
        model = nn.ModuleList([SAGEConv(F, 6), GCNConv(6, 3)]).double()
        params = dict(model.named_parameters())

        def loss(params: dict[str, Tensor], split: str, of: Dataset = of, model: nn.ModuleList = model) -> Tensor:
            own = [{k[2:]: v for k, v in params.items() if k.startswith(f"{i}.")} for i in (0, 1)]
            h = torch.func.functional_call(model[0], own[0], (of.x, of.graph)).tanh()
            total, count = of.tasks["class"].loss(torch.func.functional_call(model[1], own[1], (h, of.graph)), split)
            return total / count

        grads = torch.autograd.grad(loss(params, "train"), list(params.values()), create_graph=True)
        if group is not None:
            grads = tuple(all_reduce(g, group.group) for g in grads)
        fast = {k: p - rate * g for (k, p), g in zip(params.items(), grads, strict=True)}
        meta = torch.autograd.grad(loss(fast, "val"), list(params.values()))
        results.append([g if group is None else all_reduce(g, group.group) for g in meta])
    for one, several in zip(*results, strict=True):
        close(several, one, 1e-10)


def check_exchange(world: World) -> None:
    """Every rank gets what was sent to it, and gradients of any order go back."""
    send = [r + 1 for r in range(world.size)]
    recv = [world.rank + 1] * world.size
    rows = torch.full((sum(send), 2), float(world.rank), dtype=torch.float64, requires_grad=True)
    got = exchange(rows, send, recv)
    assert got[:, 0].tolist() == [float(r) for r in range(world.size) for _ in range(world.rank + 1)]
    (g,) = torch.autograd.grad((got * (world.rank + 1)).pow(3).sum(), rows, create_graph=True)
    factor = torch.tensor([float(r + 1) for r in range(world.size) for _ in range(r + 1)], dtype=torch.float64)[:, None]
    close(g, 3 * rows**2 * factor**3, 1e-10)
    (h,) = torch.autograd.grad(g.sum(), rows)
    close(h, 6 * rows.detach() * factor**3, 1e-10)


def check_two_losses_through_one_exchange(world: World) -> None:
    """Each loss goes back by itself, as surgery wants it."""
    graph = random_graph()
    part = Part.of(graph, owners(world)["random"], world)
    x = torch.randn(N, F, generator=_draw(2), dtype=torch.float64)
    whole, mine = x.clone().requires_grad_(), x[part.nodes].requires_grad_()
    big, small = ops.spmm(graph, whole.sin()), part.aggregate(mine.sin())
    for power in (2, 3):
        (g,) = torch.autograd.grad(big.pow(power).sum(), whole, retain_graph=True)
        (h,) = torch.autograd.grad(small.pow(power).sum(), mine, retain_graph=True)
        close(h, g[part.nodes], 1e-10)


def check_interior_rows_are_summed_while_the_halo_travels(world: World) -> None:
    """Forward, and backward: what is sent leaves before, and is waited for after, the work on interior rows."""
    events: list[str] = []
    swap, real = dist.all_to_all_single, ops.spmm

    class Work:
        def __init__(self, work: Any) -> None:
            self.work = work

        def wait(self) -> None:
            events.append("arrived")
            self.work.wait()

    def swapped(*args: Any, **options: Any) -> Work:
        events.append("sent")
        return Work(swap(*args, **options))

    def watched(graph: Graph, x: Tensor, *args: Any) -> Tensor:
        name = "interior" if graph is part.interior else "boundary"
        events.append(name)
        out = real(graph, x, *args)
        out.register_hook(lambda grad: events.append(f"{name} back"))
        return out

    part = Part.of(random_graph(), owners(world)["random"], world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_to_all_single", swapped)
        patch.setattr("fastgmtl.distributed.part.spmm", watched)
        out = part.aggregate(torch.randn(part.num_dst, F, requires_grad=True))
        assert events == ["sent", "interior", "arrived", "boundary"]
        events.clear()
        out.sum().backward()
    assert events == ["boundary back", "sent", "interior back", "arrived"]


def check_what_does_not_fit(world: World) -> None:
    part = Part.of(random_graph(), owners(world)["blocks"], world)
    x = torch.randn(part.num_dst, F)
    for call in (lambda: GATConv(F, 4)(x, part), lambda: ops.spmm(part, x), lambda: part.t()):
        with pytest.raises(TypeError, match="a Part of a graph is for layers that sum"):
            call()
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(part)
    for owner, error in ((torch.zeros(3, dtype=torch.int64), ValueError), (torch.full((N,), world.size), IndexError)):
        with pytest.raises(error, match="owner"):
            Part.of(random_graph(), owner, world)

"""The auxiliary tasks against loops over molecules, with the same random numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl import Graph
from fastgmtl.data.molecules import Molecules
from fastgmtl.methods import auxiliary_tasks as tasks
from fastgmtl.methods.auxiliary_tasks import View
from fastgmtl.nn import MoleculeEncoder

WIDTH = 5


class Case:
    """A batch, an encoder whose batch norm and dropout are at rest, and a task, in float64."""

    def __init__(self, batch: Molecules, name: str = "") -> None:
        torch.manual_seed(1)
        self.batch = batch
        self.encoder = MoleculeEncoder("gin", WIDTH, 2).double()
        self.task = tasks.TASKS[name](self.encoder).double() if name else None
        for module in (self.encoder, self.task):
            if module is not None:
                module.eval()
        assert batch.node_graph is not None and batch.edge_type is not None
        self.owner, self.edges, self.kind = batch.node_graph, batch.graph.edge_index(), batch.edge_type
        self.atom, self.count = batch.x.long(), batch.num_graphs

    def view(self, seed: int = 3) -> View:
        return View.of(self.encoder, self.batch, torch.Generator().manual_seed(seed))

    def draw(self, count: int, seed: int = 3) -> Tensor:
        return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def nodes(self, molecule: int) -> list[int]:
        return (self.owner == molecule).nonzero()[:, 0].tolist()

    def neighbours(self, node: int) -> list[int]:
        return self.edges[1, self.edges[0] == node].tolist()

    def encode(self, encoder: MoleculeEncoder, keep: list[int]) -> Tensor:
        """h of the part of the molecules made of the atoms ``keep``, which are in order."""
        place = {node: k for k, node in enumerate(keep)}
        inside = [e for e in range(self.edges.shape[1]) if {*self.edges[:, e].tolist()} <= place.keys()]
        pairs = torch.tensor([[place[int(self.edges[r, e])] for e in inside] for r in range(2)]).reshape(2, -1).long()
        graph = Graph.from_edge_index(pairs, len(keep), len(keep))
        return encoder(self.atom[keep], encoder.bonds(graph, self.kind[inside]))

    def bfs(self, root: int) -> dict[int, int]:
        away, front = {root: 0}, [root]
        for node in front:
            new = [n for n in self.neighbours(node) if n not in away]
            away |= dict.fromkeys(new, away[node] + 1)
            front += new
        return away


@pytest.fixture
def batch(make_molecules: Callable[..., Molecules]) -> Molecules:
    return make_molecules(12)


def apart(right: list[Tensor], wrong: list[Tensor]) -> Tensor:
    one, two = torch.stack(right), torch.stack(wrong)
    return F.binary_cross_entropy_with_logits(one, torch.ones_like(one)) + F.binary_cross_entropy_with_logits(
        two, torch.zeros_like(two)
    )


def test_a_share_of_every_molecule_is_hidden(batch: Molecules) -> None:
    case = Case(batch)
    seen: set[int] = set()
    for seed in range(60):
        rows = tasks.hidden_atoms(case.owner, case.count, case.draw(len(case.owner), seed)).tolist()
        assert len(set(rows)) == len(rows)
        for molecule in range(case.count):
            nodes = case.nodes(molecule)
            assert len({*rows} & {*nodes}) == int(len(nodes) * 0.15 + 1)
        seen |= {*rows}
    assert seen == {*range(len(case.owner))}


def test_masking(batch: Molecules) -> None:
    case = Case(batch, "masking")
    got = case.task(case.view())
    rows = tasks.hidden_atoms(case.owner, case.count, case.draw(len(case.owner)))
    atom = case.atom.clone()
    atom[rows, 0], atom[rows, 1] = 119, 0
    h = case.encoder(atom, case.encoder.bonds(batch.graph, case.kind))
    want = F.cross_entropy(case.task.linear(h[rows]), case.atom[rows, 0])
    torch.testing.assert_close(got, want)
    assert case.task.linear.out_features == 119


def negatives(case: Case, draw: Tensor) -> list[list[int]]:
    """Draw by draw, as the released code does."""
    out, place, total = [], 0, draw.numel() // 2
    for molecule in range(case.count):
        nodes = case.nodes(molecule)
        edges = {tuple(e) for e in case.edges.t().tolist() if e[0] in nodes}
        chosen: list[list[int]] = []
        for _ in range(5 * len(edges)):
            a, b = (nodes[0] + int(draw[place + r * total] * len(nodes)) for r in range(2))
            place += 1
            if a != b and (a, b) not in edges and [a, b] not in chosen and len(chosen) < len(edges) // 2:
                chosen.append([a, b])
        out += chosen
    return out


def test_pairs_that_are_no_bond(batch: Molecules) -> None:
    case = Case(batch)
    for seed in range(5):
        draw = case.draw(10 * case.edges.shape[1], seed)
        got = tasks.unbound_pairs(case.edges, case.owner, case.count, draw)
        assert got.t().tolist() == negatives(case, draw)
    assert 0 < got.shape[1] < case.edges.shape[1] // 2  # small rings have fewer


def test_edges(batch: Molecules) -> None:
    case = Case(batch, "edges")
    got, h = case.task(case.view()), case.view().h
    wrong = negatives(case, case.draw(10 * case.edges.shape[1]))
    want = apart([h[a] @ h[b] for a, b in case.edges[:, ::2].t()], [h[a] @ h[b] for a, b in wrong])
    torch.testing.assert_close(got, want)


def test_distances(batch: Molecules) -> None:
    case = Case(batch)
    roots = torch.tensor([case.nodes(m)[-1] for m in range(case.count)])
    got = tasks.distances(case.view().bonds.graph, roots, 7)
    want = {n: d for root in roots.tolist() for n, d in case.bfs(root).items()}
    assert got.tolist() == [want[n] if want[n] <= 7 else -1 for n in range(len(case.owner))]
    assert (got == -1).any() and (got == 7).any()


def test_context(batch: Molecules) -> None:
    case = Case(batch, "context")
    got = case.task(case.view())
    draw = case.draw(case.count)
    left, right = [], []
    for molecule in range(case.count):
        nodes = case.nodes(molecule)
        root = nodes[int(draw[molecule] * len(nodes))]
        away = case.bfs(root)
        ball, ring = [n for n in nodes if away[n] <= 5], [n for n in nodes if 4 < away[n] <= 7]
        if not ring:
            continue
        left.append(case.encode(case.encoder, ball)[ball.index(root)])
        h = case.encode(case.task.encoder, ring)
        right.append(torch.stack([h[k] for k, n in enumerate(ring) if away[n] <= 5]).mean(0))
    assert 2 <= len(left) < case.count
    want = apart(
        [a @ b for a, b in zip(left, right, strict=True)],
        [a @ b for a, b in zip(left, right[1:] + right[:1], strict=True)],
    )
    torch.testing.assert_close(got, want)
    assert len(case.task.encoder.gnns) == 3


def test_a_context_needs_another(make_molecules: Callable[..., Molecules]) -> None:
    """One long chain and small molecules: there is no other context to be told apart from; nothing is learned."""
    data = make_molecules(12)
    small = [m for m in range(12) if int((data.node_graph == m).sum()) < 5]
    case = Case(data.take(torch.tensor([0, *small])), "context")
    loss = case.task(case.view())
    assert float(loss.detach()) == 0
    grads = torch.autograd.grad(loss, list(case.encoder.parameters()))
    assert all(not g.any() for g in grads)


def test_infomax(batch: Molecules) -> None:
    case = Case(batch, "infomax")
    got, h = case.task(case.view()), case.view().h
    g = [h[case.owner == m].mean(0).sigmoid() for m in range(case.count)]
    weight = case.task.weight
    own = [h[n] @ weight @ g[m] for n, m in enumerate(case.owner.tolist())]
    other = [h[n] @ weight @ g[(m + 1) % case.count] for n, m in enumerate(case.owner.tolist())]
    torch.testing.assert_close(got, apart(own, other))


def test_motif(batch: Molecules) -> None:
    case = Case(batch, "motif")
    got, h = case.task(case.view()), case.view().h
    out = case.task.linear(torch.stack([h[case.owner == m].mean(0) for m in range(case.count)]))
    want = F.binary_cross_entropy_with_logits(out, batch.motif.double())
    torch.testing.assert_close(got, want)
    assert case.task.linear.out_features == 85


@pytest.mark.parametrize("name", sorted(tasks.TASKS))
def test_every_task_teaches_the_encoder(batch: Molecules, name: str) -> None:
    case = Case(batch, name)
    case.encoder.train()
    case.encoder.dropout = 0.0
    loss = case.task(case.view())
    grads = torch.autograd.grad(loss, [*case.encoder.gnns.parameters(), *case.task.parameters()], allow_unused=True)
    assert sum(g is not None and bool(g.any()) for g in grads) >= len(grads) - 4


def test_molecules_without_bonds(make_molecules: Callable[..., Molecules]) -> None:
    """Two atoms that are alone: nothing to predict of bonds and contexts, and no error."""
    data = make_molecules(30)
    alone = [m for m in range(30) if int((data.node_graph == m).sum()) == 1][:1] * 2
    for name in ("edges", "context", "infomax", "motif", "masking"):
        case = Case(data.take(torch.tensor(alone)), name)
        loss = case.task(case.view())
        assert bool(loss.isfinite())
        assert name not in ("edges", "context") or float(loss.detach()) == 0

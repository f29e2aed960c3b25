"""Gradient surgery: gram, combine, gradients to .grad (both and the T x T problem), that problem alone, a GCN step.

The gradients lie as autograd leaves them: T lists of tensors. Floors are bytes that must move at the bandwidth of a
copy measured in the same run: every gradient read once by gram and once by combine, the result written once. TorchJD
takes part where it is installed, with its Jacobians in place, by its default and by its Gramian path.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastgmtl
from bench import graphs
from bench.harness import OURS, Case, Floors, Provider, Settings, cases, difference
from fastgmtl import Graph, gradients, ops, reference
from fastgmtl.nn import GCNConv

SIZES, TASKS, THREADS = (10**5, 10**6, 10**7), (2, 4, 8, 16), (1, 2)
PARTS = 20  # tensors that P is split into, of unequal sizes


def is_quick(size: int, tasks: int, threads: int) -> bool:
    return size == 10**5 and tasks == 4 and threads == 1


def jacobian(size: int, tasks: int) -> Tensor:
    """Correlated rows with conflicts, norms spread over a factor of ten."""
    matrix = graphs.random(tasks, size)
    matrix -= 0.05 * matrix.sum(0)
    return matrix * torch.logspace(-0.5, 0.5, tasks).unsqueeze(1)


def split(matrix: Tensor) -> list[list[Tensor]]:
    """Every row as ``PARTS`` tensors with memory of their own."""
    share = torch.arange(1, PARTS + 1, dtype=torch.float64)
    sizes = (share / share.sum() * matrix.size(1)).long()
    sizes[-1] += matrix.size(1) - sizes.sum()
    return [[part.clone() for part in row.split(sizes.tolist())] for row in matrix]


def torchjd() -> Any:
    """The package, or None."""
    if importlib.util.find_spec("torchjd") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchjd.aggregation
        import torchjd.autojac
    return torchjd


def paper_loop(rows: Sequence[Sequence[Tensor]], out: Sequence[Tensor]) -> None:
    """PCGrad as its paper has it, on one vector a task."""
    matrix = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    changed = matrix.clone()
    for i in range(len(matrix)):
        for j in range(len(matrix)):
            product = changed[i] @ matrix[j]
            if j != i and product < 0:
                changed[i] -= product / (matrix[j] @ matrix[j]) * matrix[j]
    for target, value in zip(out, changed.sum(0).split([v.numel() for v in out]), strict=True):
        target.copy_(value.view_as(target))


@pytest.mark.parametrize(("size", "tasks", "threads"), cases(SIZES, TASKS, THREADS, quick=is_quick))
def test_gram(benchmark: Any, settings: Settings, size: int, tasks: int, threads: int) -> None:
    torch.set_num_threads(threads)
    matrix = jacobian(size, tasks)
    rows = split(matrix)
    want = reference.gram(rows)

    def error(found: Tensor) -> float:
        return difference([found], [want])

    providers: dict[str, Provider | str] = {
        OURS: Provider(lambda: ops.gram(rows), error),
        f"{OURS}, a matrix": Provider(lambda: ops.gram(matrix), error),
        f"{OURS}, one for each tensor": Provider(lambda: ops.gram(rows, range(PARTS)).sum(0), error),
        "J @ J.T": Provider(lambda: matrix @ matrix.T, error),
    }
    case = Case("gradients", f"gram, P = {size:.0e}", "gram", threads, size, 0, 0, tasks)
    settings.measure(benchmark, case, providers, Floors(4 * tasks * size))


@pytest.mark.parametrize(("size", "tasks", "threads"), cases(SIZES, TASKS, THREADS, quick=is_quick))
def test_combine(benchmark: Any, settings: Settings, size: int, tasks: int, threads: int) -> None:
    torch.set_num_threads(threads)
    matrix, weights = jacobian(size, tasks), torch.linspace(0.5, 1.5, tasks)
    rows = split(matrix)
    out = [torch.zeros_like(g) for g in rows[0]]
    want = weights.double() @ matrix.double()

    def error(found: Any) -> float:
        return difference([found if isinstance(found, Tensor) else torch.cat(found)], [want])

    providers: dict[str, Provider | str] = {
        OURS: Provider(lambda: ops.combine(rows, weights, out), error),
        f"{OURS}, new tensors": Provider(lambda: ops.combine(rows, weights), error),
        "w @ J": Provider(lambda: weights @ matrix, error),
    }
    case = Case("gradients", f"combine, P = {size:.0e}", "combine", threads, size, 0, 0, tasks)
    settings.measure(benchmark, case, providers, Floors(4 * (tasks + 1) * size))


@pytest.mark.parametrize(("size", "tasks", "threads"), cases(SIZES, TASKS, THREADS, quick=is_quick))
def test_gradients_to_grad(benchmark: Any, settings: Settings, size: int, tasks: int, threads: int) -> None:
    torch.set_num_threads(threads)
    rows = split(jacobian(size, tasks))
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in rows[0]]
    out = [torch.zeros_like(g) for g in rows[0]]
    method = gradients.PCGrad("none")
    checked = [[g[:0] if g.numel() > 10**4 else g for g in row] for row in rows]
    want = reference.combine(checked, method.weights(reference.gram(rows)))

    def run() -> list[Tensor]:
        weights = method.weights(ops.gram(rows))
        found: list[Tensor] = ops.combine(rows, weights, out)
        return found

    def error(found: list[Tensor]) -> float:
        pairs = [(f, w) for f, w in zip(found, want, strict=True) if w.numel()]
        return difference(*zip(*pairs, strict=True)) if pairs else 0.0

    providers: dict[str, Provider | str] = {OURS: Provider(run, error)}
    providers["PCGrad, a loop over vectors"] = Provider(lambda: paper_loop(rows, out))
    jd = torchjd()
    for name, fast in (("TorchJD", False), ("TorchJD, Gramian path", True)):
        if jd is None:
            providers[name] = "torchjd is not installed"
            continue
        for n, p in enumerate(parameters):
            p.jac = torch.stack([row[n] for row in rows])  # type: ignore[attr-defined]

        def theirs(fast: bool = fast) -> None:
            for p in parameters:
                p.grad = None
            jd.autojac.jac_to_grad(
                parameters, jd.aggregation.PCGrad(), retain_jac=True, optimize_gramian_computation=fast
            )

        providers[name] = Provider(theirs)
    case = Case("gradients", f"gradients to .grad, P = {size:.0e}", "all", threads, size, 0, 0, tasks)
    settings.measure(benchmark, case, providers, Floors(4 * (2 * tasks + 1) * size))


def solvers(tasks: int) -> dict[str, tuple[Callable[[], gradients.GramAggregator], str, dict[str, Any]]]:
    """Ours, TorchJD's name ("" for none) and its options."""
    return {
        "PCGrad": (gradients.PCGrad, "PCGradWeighting", {}),
        "GradVac": (gradients.GradVac, "GradVacWeighting", {}),
        "MGDA": (gradients.MGDA, "MGDAWeighting", {}),
        "CAGrad": (gradients.CAGrad, "CAGradWeighting", {"c": 0.5}),
        "UPGrad": (gradients.UPGrad, "UPGradWeighting", {}),
        "DualProj": (gradients.DualProj, "DualProjWeighting", {}),
        "IMTLG": (gradients.IMTLG, "IMTLGWeighting", {}),
        "NashMTL": (gradients.NashMTL, "", {}),
        "FairGrad": (gradients.FairGrad, "FairGradWeighting", {"alpha": 2.0}),
        "AlignedMTL": (gradients.AlignedMTL, "AlignedMTLWeighting", {}),
        "ConFIG": (gradients.ConFIG, "", {}),
        "Krum": (lambda: gradients.Krum(1), "KrumWeighting", {"n_byzantine": 1}),
        "GCS": (gradients.GCS, "", {}),
        "GNS": (gradients.GNS, "", {}),
        "TargetPCGrad": (gradients.TargetPCGrad, "", {}),
        "RCGrad": (lambda: gradients.RCGrad(tasks).requires_grad_(False), "", {}),
        "RCGrad, rotated": (lambda: gradients.RCGrad(tasks, rotate=True).requires_grad_(False), "", {}),
        "RCGrad, with a graph to omega": (lambda: gradients.RCGrad(tasks), "", {}),
        "Mean": (gradients.Mean, "MeanWeighting", {}),
        "Random": (gradients.Random, "RandomWeighting", {}),
        "MetaBalance": (gradients.MetaBalance, "", {}),
    }


@pytest.mark.parametrize(
    ("name", "tasks"), cases(solvers(4), (8, 16), quick=lambda name, tasks: name == "UPGrad" and tasks == 8)
)
def test_small_problem(benchmark: Any, settings: Settings, name: str, tasks: int) -> None:
    torch.set_num_threads(1)
    make, peer, options = solvers(tasks)[name]
    gram = reference.gram(jacobian(1000, tasks))
    method = make()
    providers: dict[str, Provider | str] = {OURS: Provider(lambda: method.weights(gram))}
    jd = torchjd()
    if jd is None or not peer:
        providers["TorchJD"] = (
            "torchjd is not installed" if peer else "not a function of the Gram matrix there, or absent"
        )
    else:
        try:
            weighting = getattr(jd.aggregation, peer)(**options)
            providers["TorchJD"] = Provider(lambda: weighting(gram))
        except ImportError as reason:
            providers["TorchJD"] = str(reason)
    case = Case("gradients", f"T x T, {name}", "weights", 1, 0, 0, 0, tasks)
    settings.measure(benchmark, case, providers, calls=20, memory=False)


class Net(nn.Module):
    """Two GCN layers and a linear head for each task."""

    def __init__(self, graph: Graph, width: int, tasks: int) -> None:
        super().__init__()
        self.graph = graph
        self.first, self.second = GCNConv(64, width), GCNConv(width, width)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(tasks))

    def features(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(self.first(x, self.graph).relu(), self.graph)
        return hidden.relu()

    def losses(self, z: Tensor, targets: Tensor) -> list[Tensor]:
        return [(head(z).squeeze(1) - targets[t]).square().mean() for t, head in enumerate(self.heads)]


@pytest.mark.parametrize(("threads", "width"), cases(THREADS, (64,), quick=lambda threads, width: threads == 1))
def test_gcn_step(benchmark: Any, settings: Settings, threads: int, width: int) -> None:
    torch.set_num_threads(threads)
    tasks, nodes, edges = 8, 10_000, 100_000
    pattern = torch.randint(nodes, (2, edges), generator=torch.Generator().manual_seed(0))
    graph = Graph.from_edge_index(pattern, nodes, nodes)
    torch.manual_seed(0)
    net, x, targets = Net(graph, width, tasks), graphs.random(nodes, 64), graphs.random(tasks, nodes, seed=1)

    def clear() -> None:
        for p in net.parameters():
            p.grad = None

    def surgery(**options: Any) -> Callable[[], None]:
        def run() -> None:
            clear()
            z = net.features(x)
            more = {"features": z} if options.get("features") else {"capture": options["capture"]}
            fastgmtl.backward(net.losses(z, targets), net, gradients.PCGrad("none"), **more)

        return run

    def summed() -> None:
        clear()
        torch.stack(net.losses(net.features(x), targets)).sum().backward()

    providers: dict[str, Provider | str] = {
        OURS: Provider(surgery(capture="loop")),
        f"{OURS}, batched": Provider(surgery(capture="batched")),
        f"{OURS}, features": Provider(surgery(features=True)),
        "the summed loss": Provider(summed),
    }
    jd = torchjd()
    if jd is None:
        providers["TorchJD"] = "torchjd is not installed"
    else:

        def theirs() -> None:
            clear()
            z = net.features(x)
            jd.autojac.mtl_backward(net.losses(z, targets), z)
            jd.autojac.jac_to_grad([*net.first.parameters(), *net.second.parameters()], jd.aggregation.PCGrad())

        providers["TorchJD"] = Provider(theirs)
    case = Case("gradients", "GCN step, two layers", "fwdbwd", threads, nodes, edges, width, tasks)
    settings.measure(benchmark, case, providers, memory=False)

"""One step of RCGrad on a batch of 256 molecules of Tox21 with its 5 auxiliary tasks: losses and all gradients.

Beside us the plain PyTorch formulation of rcgrad_peers.py, as released and without the graph of gradients that its
surgery never uses; and what the step costs without surgery, one backward of the summed losses.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.harness import OURS, Case, Provider, Settings, cases, difference
from bench.rcgrad_peers import plain, step
from fastgmtl.data import load
from fastgmtl.data.molecules import Molecules
from fastgmtl.methods import METHODS
from fastgmtl.methods.rcgrad import RCGrad

BATCH = 256


@cache
def molecules() -> Molecules:
    """Tox21."""
    try:
        data = load("moleculenet:tox21")
    except (ValueError, FileNotFoundError) as error:
        pytest.skip(f"needs Tox21: {error}")
    assert isinstance(data, Molecules)
    return data


def make(kind: str, variant: str) -> tuple[RCGrad, Molecules]:
    """The method and a batch of its training molecules. Without dropout, so that losses are the same."""
    options: dict[str, Any] = {"conv": kind, "variant": variant, "dropout": 0.0, "pretrained": "none", "batch": BATCH}
    config = METHODS["rcgrad"].config_type(**options)
    torch.manual_seed(0)
    method = METHODS["rcgrad"].build(molecules(), config, torch.Generator())
    assert isinstance(method, RCGrad)
    batch = next(iter(method.batches(molecules(), torch.Generator().manual_seed(0))))
    assert isinstance(batch, Molecules)
    return method, batch


def gradients(method: RCGrad) -> list[Tensor]:
    """Of the encoder, and of each head that has parameters: a vector each."""
    groups = [group for group in (method.shared, *method.heads()) if group]
    return [torch.cat([p.grad.flatten() for p in group if p.grad is not None]) for group in groups]


def quick(kind: str, variant: str, threads: int) -> bool:
    return (kind, variant, threads) == ("gcn", "as_released", 1)


@pytest.mark.parametrize(
    ("kind", "variant", "threads"), cases(("gin", "gcn"), ("as_released", "as_described"), (1, 2), quick=quick)
)
def test_step(benchmark: Any, settings: Settings, kind: str, variant: str, threads: int) -> None:
    torch.set_num_threads(threads)
    method, batch = make(kind, variant)

    def clear(of: RCGrad) -> None:
        of.generator.manual_seed(0)
        for p in of.parameters():
            p.grad = None

    def ours(of: RCGrad = method) -> None:
        clear(of)
        of.backward(of.step(batch))

    def theirs(of: RCGrad, create_graph: bool = False) -> None:
        clear(of)
        step(of, batch, create_graph)

    def summed() -> None:
        clear(method)
        torch.stack([loss.double() for loss in method.step(batch).values()]).sum().backward()

    providers: dict[str, Provider | str] = {OURS: Provider(ours)}
    if variant == "as_released":
        # In float64: batch norm leaves gradients that are 0 but for rounding.
        exact = copy.deepcopy(method).double()
        other = plain(exact)
        ours(exact), theirs(other)
        error = difference(gradients(exact), gradients(other))
        twin = plain(method)
        providers[OURS] = Provider(ours, lambda _: error)
        providers["plain PyTorch, as released"] = Provider(lambda: theirs(twin, True))
        providers["plain PyTorch"] = Provider(lambda: theirs(twin))
    providers["the summed losses"] = Provider(summed)
    n, e = batch.num_nodes, batch.graph.num_edges
    case = Case("rcgrad", f"Tox21, {kind}, {variant}", "step", threads, n, e, method.config.hidden, len(method.names))
    settings.measure(benchmark, case, providers)

"""The encoder of molecules against the plain formula, which writes a tensor of size E x d for every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl import Graph
from fastgmtl.data import load
from fastgmtl.data.molecules import Molecules
from fastgmtl.nn import MoleculeEncoder, molecule_encoder

WIDTH = 6


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Atoms, edges and their types of three molecules: a ring with a tail, a pair, and an atom that is alone."""
    bonds = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0], [3, 4], [5, 6]])
    edges = torch.stack([bonds, bonds.flip(1)], 1).reshape(-1, 2).t()
    kind = torch.tensor([9, 9, 9, 9, 0, 5]).repeat_interleave(2)
    return torch.tensor([[5, 0], [5, 1], [7, 0], [6, 2], [5, 0], [5, 0], [7, 0], [119, 0]]), edges, kind


def plain(state: dict[str, Tensor], kind: str, layers: int, atom: Tensor, edges: Tensor, bond: Tensor) -> Tensor:
    """h of the formula, edge by edge; batch norm with its running statistics, no dropout."""
    loops = torch.arange(len(atom))
    source, target = torch.cat((edges, torch.stack((loops, loops))), 1)
    bond = torch.cat((bond, torch.full_like(loops, 12)))
    degree = torch.bincount(target).double()
    h = state["x_embedding1.weight"][atom[:, 0]] + state["x_embedding2.weight"][atom[:, 1]]
    for k in range(layers):
        layer: dict[str, Any] = {
            n.removeprefix(f"gnns.{k}."): v for n, v in state.items() if n.startswith(f"gnns.{k}.")
        }
        if kind != "gin":
            h = F.linear(h, layer["linear.weight"], layer["linear.bias"])
        message = h[source] + layer["edge_embedding1.weight"][bond // 3] + layer["edge_embedding2.weight"][bond % 3]
        if kind == "gcn":
            message = message / (degree[source] * degree[target]).sqrt()[:, None]
        h = torch.zeros_like(h).index_add(0, target, message)
        if kind == "gin":
            h = F.linear(h, layer["mlp.0.weight"], layer["mlp.0.bias"]).relu()
            h = F.linear(h, layer["mlp.2.weight"], layer["mlp.2.bias"])
        if kind == "sage":
            h = h / degree[:, None]
            h = h / h.norm(dim=1, keepdim=True)
        norm = {n.rpartition(".")[2]: v for n, v in state.items() if n.startswith(f"batch_norms.{k}.")}
        h = (h - norm["running_mean"]) / (norm["running_var"] + 1e-5).sqrt() * norm["weight"] + norm["bias"]
        h = h.relu() if k < layers - 1 else h
    return h


@pytest.mark.parametrize("kind", ["gin", "gcn", "sage"])
def test_layers_are_the_formula(kind: str, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    atom, edges, bond = batch
    encoder = MoleculeEncoder(kind, WIDTH, 3).double()
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + (0.5 if name.endswith("running_var") else -0.5))
    encoder.eval()
    bonds = encoder.bonds(Graph.from_edge_index(edges, len(atom)), bond)
    got, state = encoder(atom, bonds), dict(encoder.named_parameters()) | dict(encoder.named_buffers())
    want = plain(state, kind, 3, atom, edges, bond)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    parameters, factor = list(encoder.parameters()), torch.randn_like(got)
    ours, theirs = (torch.autograd.grad((h * factor).sum(), parameters) for h in (got, want))
    for name, one, other in zip(dict(encoder.named_parameters()), ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_released_weights(kind: str, data_root: Path) -> None:
    """One pass of the pre-trained network over twenty molecules is the plain formula's, with the file's tensors."""
    file = {"gcn": "gcn", "sage": "graphsage"}[kind]
    path = data_root / "pretrained_gnn" / "chem" / f"{file}_supervised_contextpred.pth"
    encoder = MoleculeEncoder(kind).eval()
    encoder.load_pretrained(path)
    data = load("moleculenet:clintox")
    assert isinstance(data, Molecules) and data.edge_type is not None
    part = data.take(torch.arange(20))
    assert part.edge_type is not None
    atom = part.x.long()
    state = torch.load(path, map_location="cpu", weights_only=True)
    with torch.no_grad():
        got = encoder(atom, encoder.bonds(part.graph, part.edge_type))
        want = plain({k: v.double() for k, v in state.items()}, kind, 5, atom, part.graph.edge_index(), part.edge_type)
    assert float(want.abs().max()) > 0.5
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5 * float(want.abs().max()))


def test_number_of_parameters_of_the_paper() -> None:
    assert sum(p.numel() for p in MoleculeEncoder("gin").parameters()) == 1_857_900
    assert len(list(MoleculeEncoder("gin").parameters())) == 42


def test_no_tensor_has_a_row_for_each_edge_and_the_width(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    atom, edges, bond = batch
    encoder = MoleculeEncoder("gcn", 50, 2)
    bonds = encoder.bonds(Graph.from_edge_index(edges, len(atom)), bond)
    assert bonds.counts.shape == (len(atom), 9)
    torch.testing.assert_close(bonds.counts[7], torch.tensor([0.0, 0, 0, 0, 1, 0, 1, 0, 0]))
    sizes: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            sizes.extend(v.numel() for v in (out if isinstance(out, tuple | list) else (out,)) if isinstance(v, Tensor))
            return out

    with Sizes():
        encoder(atom, bonds).sum().backward()
    assert max(sizes) == 120 * 50  # the gradient of the table of atoms
    assert bonds.graph.num_edges * 50 not in sizes


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    encoder = MoleculeEncoder("gcn", WIDTH, 2)
    path = tmp_path / "some.pth"
    with pytest.raises(FileNotFoundError):
        encoder.load_pretrained(path)
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"some.pth: not a file of weights"):
        encoder.load_pretrained(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ValueError, match=r"some.pth: must hold tensors by name, got Tensor"):
        encoder.load_pretrained(path)
    torch.save(MoleculeEncoder("gin", WIDTH, 2).state_dict(), path)
    with pytest.raises(ValueError, match=r"some.pth: not the weights of this network \(gcn, width 6, 2 layers\)"):
        encoder.load_pretrained(path)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    torch.save({k: v + 1 for k, v in before.items()}, path)
    encoder.load_pretrained(path)
    assert all(torch.equal(v, before[k] + 1) for k, v in encoder.state_dict().items())


def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "some.pth", tmp_path / "obeyed"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(mark), "w"))

    torch.save({"x_embedding1.weight": Hostile()}, path)
    with pytest.raises(ValueError, match="not a file of weights"):
        MoleculeEncoder("gcn", WIDTH, 2).load_pretrained(path)
    assert not mark.exists()


def test_kind_is_checked() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of gin, gcn, sage, got 'gat'"):
        MoleculeEncoder("gat")
    assert molecule_encoder.KINDS == ("gin", "gcn", "sage")

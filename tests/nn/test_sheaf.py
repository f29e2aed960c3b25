"""Sheaf diffusion against the Laplacian that is assembled, node by node, and its properties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastgmtl import Graph, nn
from fastgmtl.nn.sheaf import MAPS, cayley, inverse_sqrt

N, S, C = 9, 3, 4
DTYPE = torch.float64


@pytest.fixture
def links() -> Tensor:
    """In both directions, one of them twice; the last node has none."""
    g = torch.Generator().manual_seed(1)
    ends = torch.randint(N - 1, (2, 14), generator=g)
    ends = ends[:, ends[0] != ends[1]]
    ends = torch.cat([ends, ends[:, :1]], 1)
    return torch.cat([ends, ends.flip(0)], 1)


def assembled(conv: nn.SheafConv, x: Tensor, links: Tensor) -> Tensor:
    """Delta, [N s, N s]."""

    def restriction(v: int, u: int) -> Tensor:
        numbers = conv.of_own(x[v].flatten()) + conv.of_other(x[u].flatten())
        if conv.maps == "diagonal":
            return numbers.tanh().diag()
        if conv.maps == "general":
            return numbers.tanh().reshape(S, S)
        skew = torch.zeros(S, S, dtype=DTYPE)
        for number, (i, j) in zip(numbers, ((1, 0), (2, 0), (2, 1)), strict=True):
            skew[i, j], skew[j, i] = number, -number
        eye = torch.eye(S, dtype=DTYPE)
        return torch.linalg.inv(eye - skew) @ (eye + skew)

    full = torch.zeros(N, S, N, S, dtype=DTYPE)
    for u, v in links.t().tolist():
        own, far = restriction(v, u), restriction(u, v)
        full[v, :, v] += own.t() @ own
        full[v, :, u] -= own.t() @ far
    root = torch.zeros_like(full)
    for v in range(N):
        values, vectors = torch.linalg.eigh(full[v, :, v] + torch.eye(S, dtype=DTYPE))
        root[v, :, v] = vectors @ values.rsqrt().diag() @ vectors.t()
    matrix, root = (value.reshape(N * S, N * S) for value in (full, root))
    return root @ matrix @ root


@pytest.mark.parametrize("maps", MAPS)
def test_layer_is_the_formula(maps: str, links: Tensor) -> None:
    torch.manual_seed(0)
    conv, x = nn.SheafConv(C, S, maps).double(), torch.randn(N, S, C, dtype=DTYPE)
    with torch.no_grad():
        for p in conv.parameters():
            p.normal_().mul_(0.6)
        delta = assembled(conv, x, links)
        mixed = torch.einsum("ab,nbc,dc->nad", conv.left.weight, x, conv.right.weight)
        diffused = (delta @ mixed.reshape(N * S, C)).reshape(N, S, C)
        want = (1 + conv.epsilon.tanh()) * x - torch.nn.functional.elu(diffused)
        for edges in (links, Graph.from_edge_index(links, N, N)):
            torch.testing.assert_close(conv(x, edges), want, rtol=1e-10, atol=1e-10)
    # Symmetric, and between 0 and 2.
    torch.testing.assert_close(delta, delta.t(), rtol=0, atol=1e-10)
    values = torch.linalg.eigvalsh(delta)
    assert float(values[0]) > -1e-9 and 0.5 < float(values[-1]) < 2


@pytest.mark.parametrize("maps", MAPS)
def test_first_and_second_derivatives(maps: str) -> None:
    """Also where nodes have the same features and the blocks of their degrees equal eigenvalues."""
    torch.manual_seed(0)
    conv = nn.SheafConv(2, 2, maps).double()
    links = torch.tensor([[0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2]])
    graph, one = Graph.from_edge_index(links, 3, 3), torch.randn(1, 2, 2, dtype=DTYPE)
    x = torch.randn(3, 2, 2, dtype=DTYPE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: conv(x, links), x)
    assert torch.autograd.gradgradcheck(lambda x: conv(x, links), x)
    # The diffused is 0 there, where elu is bent: it is left out.
    for x in (one.repeat(3, 1, 1), torch.zeros(3, 2, 2, dtype=DTYPE)):
        x.requires_grad_()
        assert torch.autograd.gradcheck(lambda x: conv.laplacian(graph, x, x), x)
        assert torch.autograd.gradgradcheck(lambda x: conv.laplacian(graph, x, x), x)


def test_matrices() -> None:
    numbers = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=DTYPE)
    q = cayley(numbers, 4)
    torch.testing.assert_close(q @ q.transpose(1, 2), torch.eye(4, dtype=DTYPE).expand_as(q), rtol=0, atol=1e-12)
    assert (torch.linalg.det(q) > 0).all() and cayley(numbers[:, :0], 1).tolist() == [[[1.0]]] * 20
    for largest in (1.0, 50.0, 1e4):
        values = torch.linspace(1, largest, 4, dtype=DTYPE)
        matrix = q @ values.diag() @ q.transpose(1, 2)
        torch.testing.assert_close(
            inverse_sqrt(matrix), q @ values.rsqrt().diag() @ q.transpose(1, 2), rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("maps", MAPS)
def test_model(maps: str, links: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.NeuralSheafDiffusion(6, C, 2, 2, S, maps, dropout=0.3)
    x = torch.randn(N, 6)
    model(x, links).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    out = model(x, links)
    assert out.shape == (N, 2) and torch.equal(out, model(x, links))
    before = model.first.weight.clone()
    model.reset_parameters()
    assert not torch.equal(before, model.first.weight)
    assert f"maps={maps}" in str(model)


def test_refused(links: Tensor) -> None:
    with pytest.raises(ValueError, match="SheafConv: maps must be one of diagonal, orthogonal, general, got 'full'"):
        nn.SheafConv(C, S, "full")
    with pytest.raises(ValueError, match=r"SheafConv: x must have shape \[N, 3, 4\], got \[9, 4, 3\]"):
        nn.SheafConv(C, S)(torch.zeros(N, C, S), links)

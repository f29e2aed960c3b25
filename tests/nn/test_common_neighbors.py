"""NCN and NCNC against sums that are written out, pair by pair; and the link that is asked for tells nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastgmtl import Graph, nn
from fastgmtl.nn import common_neighbors

N, D, Q = 12, 5, 20
DTYPE = torch.float64


@pytest.fixture
def links() -> Tensor:
    """Links in both directions, some of them twice, and a loop."""
    g = torch.Generator().manual_seed(1)
    ends = torch.randint(N, (2, 28), generator=g)
    return torch.cat([ends, ends.flip(0), torch.tensor([[4], [4]])], 1)


@pytest.fixture
def pairs(links: Tensor) -> Tensor:
    """Half of them linked, one of a node and itself."""
    g = torch.Generator().manual_seed(2)
    return torch.cat([links[:, : Q // 2], torch.randint(N, (2, Q // 2 - 1), generator=g), torch.tensor([[3], [3]])], 1)


def sets(links: Tensor) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in range(N)]
    for u, v in links.t().tolist():
        found[v].add(u)
    return found


def score(model: nn.NCN, x: Tensor, i: int, j: int, common: Tensor) -> Tensor:
    both = model.beta * model.common(common.unsqueeze(0)) + model.pair((x[i] * x[j]).unsqueeze(0))
    found: Tensor = model.score(both)[0, 0]
    return found


def ncn(model: nn.NCN, x: Tensor, near: list[set[int]], i: int, j: int) -> Tensor:
    return score(model, x, i, j, x[sorted(near[i] & near[j] - {i, j})].sum(0))


def test_ncn_is_the_formula(links: Tensor, pairs: Tensor) -> None:
    torch.manual_seed(0)
    model, x, near = nn.NCN(D, 8, beta=0.7).double(), torch.randn(N, D, dtype=DTYPE), sets(links)
    assert model.beta.tolist() == pytest.approx([0.7])
    want = torch.stack([ncn(model, x, near, i, j) for i, j in pairs.t().tolist()])
    for edges in (links, Graph.from_edge_index(links, N, N)):
        torch.testing.assert_close(model(x, edges, pairs), want, rtol=1e-10, atol=1e-10)
    assert model(x, links, pairs[:, :0]).shape == (0,)


@pytest.mark.parametrize("chunk", [3, 1 << 16])
def test_ncnc_is_the_formula(links: Tensor, pairs: Tensor, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every missing link is scored on the graph without the link of its pair."""
    monkeypatch.setattr(common_neighbors, "CHUNK", chunk)
    torch.manual_seed(0)
    model = nn.NCNC(D, 8, alpha=0.9, scale=2.0, offset=0.3, pt=0.6).double()
    x = torch.randn(N, D, dtype=DTYPE)
    want = []
    for i, j in pairs.t().tolist():
        near = sets(links)
        near[i] -= {i, j}
        near[j] -= {i, j}
        common = x[sorted(near[i] & near[j])].sum(0)
        for mine, other in ((near[i] - near[j], j), (near[j] - near[i], i)):
            for u in mine:
                q = torch.sigmoid(2.0 * (ncn(model, x, near, other, u) - 0.3))
                common = common + 0.9 * 0.6 * q / (0.6 * q + 1 - q) * x[u]
        want.append(score(model, x, i, j, common))
    torch.testing.assert_close(model(x, links, pairs), torch.stack(want), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [nn.NCN, nn.NCNC])
def test_the_link_that_is_asked_for_tells_nothing(kind: type[nn.NCN], links: Tensor, pairs: Tensor) -> None:
    torch.manual_seed(0)
    model, x = kind(D, 8).double(), torch.randn(N, D, dtype=DTYPE)
    for i, j in pairs.t().tolist():
        one = torch.tensor([[i], [j]])
        joins = ((links == i) | (links == j)).all(0)
        without = model(x, links[:, ~joins], one)
        torch.testing.assert_close(model(x, torch.cat([links, one, one.flip(0)], 1), one), without)


@pytest.mark.parametrize("kind", [nn.NCN, nn.NCNC])
def test_gradients_reach_parameters_and_features(kind: type[nn.NCN], links: Tensor, pairs: Tensor) -> None:
    torch.manual_seed(0)
    model, x = kind(D, 8, dropout=0.1), torch.randn(N, D, requires_grad=True)
    model(x, links, pairs).sum().backward()
    assert x.grad is not None and (x.grad.abs().sum(1) > 0).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.reset_parameters()
    assert not torch.equal(before["score.0.weight"], model.score[0].weight)
    assert str(model).startswith(f"{kind.__name__}(\n  {D}, 8")


def test_dropout_does_not_reach_evaluation(links: Tensor, pairs: Tensor) -> None:
    torch.manual_seed(0)
    model, x = nn.NCNC(D, 8, dropout=0.5), torch.randn(N, D)
    assert not torch.equal(model(x, links, pairs), model(x, links, pairs))
    model.eval()
    assert torch.equal(model(x, links, pairs), model(x, links, pairs))

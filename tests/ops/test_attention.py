"""attention by hand, against PyG's GATConv, and where rows are long or logits are large. Generated tests are beside."""

from __future__ import annotations

import math

import cases
import pytest
import torch
from cases import MEDIUM, PATTERNS
from compare import case, close
from torch import Tensor

from fastgmtl import Graph, ops, reference
from fastgmtl.ops.attend import attention_op
from fastgmtl.reference.philox import dropout_mask, philox

TRIANGLE = torch.tensor([[0, 1, 2, 0, 0], [1, 2, 1, 1, 2]])


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_attention_by_hand() -> None:
    graph, log = Graph.from_edge_index(TRIANGLE), math.log
    # Edges into 1 come from 0, 2 and 0 again, with weights 1 : 2 : 1; those into 2 from 1 and 0, with 3 : 1.
    score_edge = torch.tensor([log(1), log(3), log(2), log(1), log(1)]).unsqueeze(1)
    value = torch.tensor([[4.0, 8], [40, 80], [400, 800]]).unsqueeze(1)
    y, weights = ops.attention(graph, value, score_edge=score_edge, negative_slope=None, return_weights=True)
    torch.testing.assert_close(y.squeeze(1), torch.tensor([[0.0, 0], [202, 404], [31, 62]]))
    torch.testing.assert_close(weights.squeeze(1), torch.tensor([0.25, 0.75, 0.5, 0.25, 0.25]))


def test_the_leak_is_of_the_sum() -> None:
    graph = Graph.from_edge_index(torch.tensor([[0, 1], [0, 0]]), 2, 1)
    score = {"score_dst": torch.tensor([[1.0]]), "score_src": torch.tensor([[-3.0], [1.0]])}
    _, weights = ops.attention(graph, torch.ones(2, 1, 1), **score, negative_slope=0.5, return_weights=True)
    torch.testing.assert_close(weights.squeeze(1), torch.tensor([-1.0, 2.0]).softmax(0))


@pytest.mark.parametrize("dropout", [0.0, 0.6])
def test_gat_is_pyg_s(dropout: float) -> None:
    conv_type = pytest.importorskip("torch_geometric.nn", reason="needs torch-geometric").GATConv
    pattern = MEDIUM["power_law"]
    conv = conv_type(7, 5, heads=3, add_self_loops=False, dropout=dropout).double().eval()
    x = randn(pattern.num_src, 7)
    want, (_, alpha) = conv(x, pattern.edge_index, return_attention_weights=True)
    with torch.no_grad():
        h = conv.lin(x).view(-1, 3, 5)
        scores = {"score_dst": (h * conv.att_dst).sum(-1), "score_src": (h * conv.att_src).sum(-1)}
        got, weights = ops.attention(
            pattern.graph(), h, **scores, dropout=dropout, training=conv.training, return_weights=True
        )
    torch.testing.assert_close(got.flatten(1) + conv.bias, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weights, alpha, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_gatv2_is_pyg_s(shared: bool) -> None:
    conv_type = pytest.importorskip("torch_geometric.nn", reason="needs torch-geometric").GATv2Conv
    pattern = MEDIUM["power_law"]
    conv = conv_type(7, 5, heads=3, add_self_loops=False, share_weights=shared, negative_slope=0.3).double()
    x = randn(pattern.num_src, 7).requires_grad_()
    want, (_, alpha) = conv(x, pattern.edge_index, return_attention_weights=True)
    left, right = (lin(x).view(-1, 3, 5) for lin in (conv.lin_r, conv.lin_l))
    options = {"query": left, "key": right, "att": conv.att[0], "negative_slope": 0.3}
    got, weights = ops.attention(pattern.graph(), right, **options, return_weights=True)
    got = got.flatten(1) + conv.bias
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(weights, alpha, rtol=1e-10, atol=1e-12)
    leaves = [x, *conv.parameters()]
    torch.testing.assert_close(
        *(torch.autograd.grad(y.cos().sum(), leaves) for y in (got, want)), rtol=1e-9, atol=1e-11
    )


def test_query_and_key_are_pyg_s_transformer() -> None:
    conv_type = pytest.importorskip("torch_geometric.nn", reason="needs torch-geometric").TransformerConv
    pattern = MEDIUM["power_law"]
    conv = conv_type(7, 5, heads=3, root_weight=False).double()
    x = randn(pattern.num_src, 7)
    query, key, value = (lin(x).view(-1, 3, 5) for lin in (conv.lin_query, conv.lin_key, conv.lin_value))
    got = ops.attention(pattern.graph(), value, query=query, key=key)
    torch.testing.assert_close(got.flatten(1), conv(x, pattern.edge_index), rtol=1e-10, atol=1e-12)  # type: ignore[union-attr]


def test_softmax_over_each_relation_is_a_row_for_each() -> None:
    nodes, relations, heads = 20, 3, 2
    edge_index, kind = MEDIUM["typical"].edge_index % nodes, torch.randint(relations, (700,))
    packed = Graph.from_edge_index(torch.stack([edge_index[0], edge_index[1] * relations + kind]), nodes, 60)
    value, dst, src, of_type = randn(nodes, heads, 5), *(randn(n, heads, seed=n) for n in (nodes, nodes + 1, relations))
    row_score = (dst.unsqueeze(1) + of_type).flatten(0, 1)
    got = ops.attention(packed, value, score_dst=row_score, score_src=src[:nodes]).unflatten(0, (nodes, relations))
    for r in range(relations):
        alone = Graph.from_edge_index(edge_index[:, kind == r], nodes, nodes)
        want = ops.attention(alone, value, score_dst=dst + of_type[r], score_src=src[:nodes])
        torch.testing.assert_close(got[:, r], want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", ["rising", "falling", "drawn"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_long_rows(dtype: torch.dtype, order: str) -> None:
    """Longer than a batch of edges, so that what has been summed is scaled again where a maximum is passed."""
    degrees = [3000, 0, 1, 5000, 700, 2]
    dst = torch.arange(6).repeat_interleave(torch.tensor(degrees))
    edges = dst.numel()
    graph = Graph.from_edge_index(torch.stack([torch.arange(edges) % 50, dst]), 50, 6)
    score = randn(edges, 3) * 3
    if order != "drawn":
        score = score.sort(0, descending=order == "falling").values
    tensors = [t.to(dtype).requires_grad_() for t in (randn(50, 3, 20, seed=1), score.to(dtype).double())]
    found = []
    for function, floats in ((ops.attention, tensors), (reference.attention, [t.detach().double() for t in tensors])):
        value, score_edge = (f.detach().requires_grad_() for f in floats)
        y = function(graph, value, score_edge=score_edge)
        g = randn(6, 3, 20, seed=2).to(dtype).to(y.dtype)
        back = torch.autograd.grad((y * g).sum(), (value, score_edge))
        turned = torch.autograd.grad((function(graph.t(), g, score_edge=score_edge) * value).sum(), score_edge)
        found.append((y.detach(), *back, *turned))
    close(*found, dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_weights_of_large_logits_are_exact(dtype: torch.dtype) -> None:
    """Logits of some thousand, exactly representable: neither an overflow nor a rounded log-sum-exp."""
    graph, offset = Graph.from_edge_index(torch.tensor([[0, 1, 2], [0, 0, 0]]), 3, 1), 30000.0
    near = torch.tensor([1.0, 2.0, -1.0], dtype=dtype)
    value = torch.eye(3, dtype=dtype).unsqueeze(1)
    for sign in (1, -1):
        score = (near + sign * offset).unsqueeze(1).requires_grad_()
        y = ops.attention(graph, value, score_src=score, negative_slope=None)
        (got,) = torch.autograd.grad(y[0, 0, 1], score)
        p = near.double().softmax(0)
        torch.testing.assert_close(y[0, 0].double(), p, rtol=1e-10 if dtype == torch.float64 else 1e-6, atol=0)
        want = p[1] * (torch.tensor([0.0, 1, 0], dtype=torch.float64) - p)
        torch.testing.assert_close(got[:, 0].double(), want, rtol=1e-9 if dtype == torch.float64 else 2e-6, atol=0)


def test_an_edge_with_logit_minus_infinity_is_absent() -> None:
    graph = MEDIUM["typical"].graph()
    there = torch.rand(graph.num_edges, generator=cases.generator("there")) < 0.1
    less = Graph.from_edge_index(MEDIUM["typical"].edge_index[:, there], graph.num_src, graph.num_dst)
    assert int((less.in_degree() == 0).sum()) > 0
    value, src = randn(graph.num_src, 2, 3).requires_grad_(), randn(graph.num_src, 2, seed=1).requires_grad_()
    mask = torch.where(there, 0.0, -torch.inf).double().unsqueeze(1).expand(-1, 2)
    for function in (ops.attention, reference.attention):
        got = function(graph, value, score_src=src, score_edge=mask)
        want = function(less, value, score_src=src)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
        grads = [torch.autograd.grad(y.cos().sum(), (value, src)) for y in (got, want)]
        torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-14)


def test_nan_goes_to_its_destination_and_head_only() -> None:
    graph = MEDIUM["typical"].graph()
    value, src = randn(graph.num_src, 3, 5), randn(graph.num_src, 3, seed=1)
    src[7, 1] = torch.nan
    y = ops.attention(graph, value, score_src=src)
    hit = torch.zeros(graph.num_dst, dtype=torch.bool)
    hit[graph.edge_rows()[graph.col == 7]] = True
    assert hit.any() and not hit.all()
    assert torch.equal(y.isnan().all(-1), hit.unsqueeze(1) & torch.tensor([False, True, False]))
    assert torch.equal(y.isnan().any(-1), y.isnan().all(-1))


def test_a_type_out_of_range_is_not_read(kernels: object) -> None:
    """What the public function cannot check on a GPU: the destination's result is NaN, no memory is touched."""
    graph = PATTERNS["typical"].graph()
    types = torch.zeros(graph.num_edges, dtype=graph.col.dtype)
    types[2], types[5] = 10**6, -1
    rows = graph.unsort_edges(graph.edge_rows())
    value = randn(graph.num_src, 2, 3).requires_grad_()
    of_type = randn(3, 2).requires_grad_()
    y, _ = attention_op(graph, value, None, None, of_type, None, types, None, 0.2, 0.0, False)
    bad = torch.isin(torch.arange(graph.num_dst), rows[[2, 5]])
    assert torch.equal(y.isnan().flatten(1).all(1), bad) and y[~bad].isfinite().all()
    y[~bad].sum().backward()


# ------------------------------------------------------------------------------------------------------- dropout


def test_philox_known_answers() -> None:
    """The vectors of the authors' Random123 for philox4x32-10."""
    all_ones, pi = -1, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)
    joined = [(high << 32 | low) - (1 << 64 if high >> 31 else 0) for low, high in zip(pi[::2], pi[1::2], strict=True)]
    for words, want in (
        ((0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((all_ones, all_ones, all_ones), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (joined, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ):
        low, high, seed = (torch.tensor([w]) for w in words)
        assert tuple(int(v) for v in philox(seed, low, high)) == want


@pytest.mark.parametrize("heads", [1, 3, 4, 9])
@pytest.mark.parametrize("seed", [0, 5, -3, 2**62 + 12345])
def test_kernels_drop_what_the_twin_drops(seed: int, heads: int) -> None:
    graph = MEDIUM["typical"].graph()
    mask = dropout_mask(torch.tensor([seed]), graph.num_edges, heads, 0.3, torch.float64)
    value, score = randn(graph.num_src, heads, 1), randn(graph.num_edges, heads, seed=1)
    _, plain = ops.attention(graph, value, score_edge=score, return_weights=True)
    got = ops.attention(graph, value, score_edge=score, dropout=0.3, seed=seed)
    want = ops.spmm(graph, value, plain * mask)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    assert 0.25 < float((mask == 0).double().mean()) < 0.35
    assert sorted(set(mask.flatten().tolist())) == [0.0, 1 / 0.7]


def test_dropout_is_unbiased_and_independent() -> None:
    mask = dropout_mask(torch.tensor([11]), 50_000, 6, 0.4, torch.float64)
    assert float(mask.mean()) == pytest.approx(1.0, abs=0.01)
    kept = (mask > 0).double() - 0.6
    assert float((kept[:-1] * kept[1:]).mean().abs()) < 2e-3
    assert float(torch.triu(kept.t() @ kept / 50_000, 1).abs().max()) < 5e-3
    other = dropout_mask(torch.tensor([12]), 50_000, 6, 0.4, torch.float64)
    assert float((((other > 0).double() - 0.6) * kept).mean().abs()) < 2e-3


@pytest.mark.parametrize("on", ["weights", "logits"])
def test_seeds_and_generators(on: str) -> None:
    graph = MEDIUM["typical"].graph()
    tensors = {"value": randn(graph.num_src, 2, 3), "score_src": randn(graph.num_src, 2, seed=1)}

    def run(**options: object) -> Tensor:
        return ops.attention(graph, **tensors, dropout=0.5, dropout_on=on, **options)  # type: ignore[arg-type]

    assert torch.equal(run(seed=3), run(seed=torch.tensor([3])))
    assert torch.equal(run(seed=3), run(seed=torch.tensor(3)))
    assert not torch.equal(run(seed=3), run(seed=4))
    first, second = (run(generator=torch.Generator().manual_seed(8)) for _ in range(2))
    assert torch.equal(first, second)
    torch.manual_seed(1)
    first, other = run(), run()
    torch.manual_seed(1)
    assert torch.equal(first, run()) and not torch.equal(first, other)
    assert torch.equal(run(training=False), ops.attention(graph, **tensors))


def test_a_dropped_logit_is_zero_before_the_softmax() -> None:
    graph = MEDIUM["typical"].graph()
    score = randn(graph.num_edges, 2)
    mask = dropout_mask(torch.tensor([9]), graph.num_edges, 2, 0.5, torch.float64)
    value = randn(graph.num_src, 2, 3)
    got = ops.attention(graph, value, score_edge=score, negative_slope=None, dropout=0.5, dropout_on="logits", seed=9)
    want = ops.attention(graph, value, score_edge=score * mask, negative_slope=None)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


# --------------------------------------------------------------------------------------------------- conventions


def test_tasks_are_calls_of_their_own() -> None:
    graph, tasks = MEDIUM["power_law"].graph(), 3
    value, dst = randn(graph.num_src, tasks, 2, 5), randn(graph.num_dst, tasks, 2, seed=1)
    src, of_type = randn(graph.num_src, 2, seed=2), randn(4, tasks, 2, seed=3)
    kind = torch.arange(graph.num_edges) % 4
    got = ops.attention(graph, value, score_dst=dst, score_src=src, score_type=of_type, edge_type=kind)
    for t in range(tasks):
        scores = {"score_dst": dst[:, t], "score_src": src, "score_type": of_type[:, t], "edge_type": kind.int()}
        with case("task", t):
            torch.testing.assert_close(got[:, t], ops.attention(graph, value[:, t], **scores), rtol=1e-12, atol=1e-14)


def test_mixed_dtypes_are_promoted() -> None:
    graph = MEDIUM["typical"].graph()
    value, src = randn(graph.num_src, 2, 3, dtype=torch.bfloat16), randn(graph.num_src, 2, seed=1)
    got = ops.attention(graph, value, score_src=src)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, ops.attention(graph, value.double(), score_src=src), rtol=0, atol=0)


def test_half_precision_is_summed_in_float32() -> None:
    graph = Graph.from_edge_index(torch.stack([torch.zeros(3000, dtype=torch.long)] * 2))
    value = torch.full((1, 1, 40), 3.0, dtype=torch.bfloat16).requires_grad_()
    y = ops.attention(graph, value, score_edge=torch.zeros(3000, 1, dtype=torch.bfloat16))
    assert (y == 3).all()
    y.sum().backward()
    assert value.grad is not None and (value.grad == 1).all()


@pytest.mark.parametrize("heads", [1, 2, 5, 40])
def test_exponentials(heads: int, kernels: object) -> None:
    """Ratios of weights over the whole range, down to where a weight is 0."""
    for dtype, low, bound in ((torch.float32, -87.0, 3e-7), (torch.float64, -700.0, 1e-14)):
        x = torch.linspace(low, 0, 4001, dtype=dtype).unsqueeze(1).expand(-1, heads).contiguous()
        # Two edges into each destination, with logits 0 and x: the value is 1 for the second alone.
        edge_index = torch.stack([torch.tensor([0, 1]).repeat(4001), torch.arange(4001).repeat_interleave(2)])
        graph = Graph.from_edge_index(edge_index, 2, 4001)
        score = torch.stack([torch.zeros_like(x), x], 1).flatten(0, 1)
        value = torch.tensor([0.0, 1.0], dtype=dtype).reshape(2, 1, 1).expand(-1, heads, -1)
        got = ops.attention(graph, value, score_edge=score, negative_slope=None).squeeze(-1)
        want = x.double().exp() / (1 + x.double().exp())
        assert float(((got.double() - want) / want).abs().max()) < bound
        dead = ops.attention(graph, value, score_edge=score * 2, negative_slope=None)
        assert (dead >= 0).all() and (dead[x[:, 0] * 2 < 1.1 * low] == 0).all()

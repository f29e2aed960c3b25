"""StrucHISLayer against its formula, written out node by node; and what must hold of it whatever the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgmtl import HeteroGraph
from fastgmtl.nn import StrucHISLayer, struchis_level

T, D = 3, 5
COUNTS = {"a": 6, "b": 4, "c": 3, "alone": 2}
RELATIONS = (("a", "ab", "b"), ("b", "ba", "a"), ("b", "bc", "c"), ("c", "ca", "a"), ("a", "self", "a"))


def _graph(relations: Any = RELATIONS) -> HeteroGraph:
    edges = {}
    for number, (src, name, dst) in enumerate(relations):
        g = torch.Generator().manual_seed(len(name) + 7 * ord(name[0]) + ord(name[-1]))
        pairs = torch.stack([torch.randint(COUNTS[t], (7,), generator=g) for t in (src, dst)])
        # Node 0 of the destinations has no neighbours, but along the last relation.
        edges[src, name, dst] = pairs if number == len(relations) - 1 else pairs[:, pairs[1] > 0]
    return HeteroGraph.from_dict(edges, COUNTS)


def _layer(graph: HeteroGraph, tasks: int = T, **options: Any) -> StrucHISLayer:
    torch.manual_seed(0)
    layer = StrucHISLayer(D, (graph.node_types, graph.relations), tasks, **options).double().eval()
    with torch.no_grad():
        for gate in layer.gates.values():
            gate[0].weight.normal_()  # gates that depend on their input
    return layer


def _features(graph: HeteroGraph, tasks: int = T) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randn(sum(graph.num_nodes.values()), tasks, D, generator=g, dtype=torch.float64)


def _neighbours(graph: HeteroGraph, relation: Any, node: int) -> list[int]:
    src, dst = graph.edge_index_dict()[relation]
    return (src[dst == node] + graph.rows(relation[0]).start).tolist()


def _aggregate(layer: StrucHISLayer, h: Tensor, graph: HeteroGraph, relation: Any, node: int, t: int) -> Tensor:
    """z of one node, relation and task; as many edges to a neighbour are as many neighbours."""
    kind, r = layer.node_types.index(relation[2]), layer.relations.index(relation)
    weight = layer.weight[kind, t]
    centre = weight @ h[graph.rows(relation[2]).start + node, t]
    found = _neighbours(graph, relation, node)
    if not found:
        return torch.zeros(D, dtype=h.dtype)
    keys = torch.stack([weight @ h[u, t] for u in found])
    edge = layer.att_relation[t] @ (layer.weight_relation[t].T @ layer.relation[t, r])
    score = F.leaky_relu(layer.att_dst[t] @ centre + keys @ layer.att_src[t] + edge, 0.2)
    return score.softmax(0) @ keys


def _by_hand(layer: StrucHISLayer, h: Tensor, graph: HeteroGraph) -> Tensor:
    """The formula, with the terms of the released code that cancel."""
    rows, released = [], layer.variant == "as_released"
    for name in layer.node_types:
        into = [r for r in layer.relations if r[2] == name]
        for node in range(graph.num_nodes[name]):
            x = h[graph.rows(name).start + node]
            z = [[_aggregate(layer, h, graph, r, node, t) for t in range(h.size(1))] for r in into]
            for t in range(h.size(1)):
                out = torch.zeros(D, dtype=h.dtype)
                if into:
                    given = torch.cat([x[t], x[t]]) if released else x[t]
                    first, _, last = layer.gates[name]
                    hidden = (first.weight[t] @ given + first.bias[t]).relu()
                    gate = (last.weight[t] @ hidden).view(len(into), h.size(1)).softmax(1)
                    m = torch.stack([sum(g * v for g, v in zip(gate[r], z[r], strict=True)) for r in range(len(into))])
                    score = m @ layer.att_out[t]
                    if released:
                        kind = layer.node_types.index(name)
                        score = score + layer.att_centre[t] @ (layer.weight[kind, t] @ x[t]) + layer.beta[t]
                    out = score.softmax(0) @ m
                if layer.res is not None:
                    out = out + layer.res.weight[t] @ x[t] + layer.res.bias[t]
                rows.append(F.elu(out))
    return torch.stack(rows).view_as(h)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("variant", ["as_described", "as_released"])
def test_it_is_the_formula(variant: str, residual: bool) -> None:
    graph = _graph()
    layer, h = _layer(graph, variant=variant, residual=residual), _features(graph)
    torch.testing.assert_close(layer(h, graph), _by_hand(layer, h, graph), rtol=1e-10, atol=1e-10)


def test_terms_that_do_not_depend_on_the_relation_change_nothing() -> None:
    graph = _graph()
    layer, h = _layer(graph, variant="as_released"), _features(graph)
    before, by_hand = layer(h, graph), _by_hand(layer, h, graph)
    with torch.no_grad():
        layer.att_centre.zero_()
        layer.beta.zero_()
    assert torch.equal(before, layer(h, graph))
    torch.testing.assert_close(by_hand, _by_hand(layer, h, graph), rtol=1e-10, atol=1e-10)


def test_the_gate_of_one_task_is_the_identity() -> None:
    graph = _graph()
    layer, h = _layer(graph, tasks=1), _features(graph, tasks=1)
    before = layer(h, graph)
    with torch.no_grad():
        for gate in layer.gates.values():
            gate[0].weight.normal_()
            gate[2].weight.normal_()
    torch.testing.assert_close(layer(h, graph), before, rtol=1e-12, atol=1e-12)


def test_a_node_without_neighbours_along_a_relation_gets_zero() -> None:
    graph = _graph()
    layer, h = _layer(graph), _features(graph)
    packed = graph.packed("a")
    z = layer.aggregate("a", h, graph)
    assert z.shape == (COUNTS["a"], 3, T, D)
    for r, relation in enumerate(packed.relations):
        for node in range(COUNTS["a"]):
            assert bool(z[node, r].any()) == bool(_neighbours(graph, relation, node))


def test_relations_in_another_order_permute_gates_and_change_nothing_else() -> None:
    order = [3, 1, 4, 0, 2]
    graph, other = (
        _graph(),
        HeteroGraph.from_dict({RELATIONS[k]: _graph().edge_index_dict()[RELATIONS[k]] for k in order}, COUNTS),
    )
    layer, h = _layer(graph), _features(graph)
    mirrored = _layer(other)
    with torch.no_grad():
        mirrored.load_state_dict(layer.state_dict())
        mirrored.relation.copy_(layer.relation[:, order])
        for name in layer.gates:
            into, now = graph.packed(name).relations, other.packed(name).relations
            rows = [into.index(r) for r in now]
            last = layer.gates[name][2].weight.unflatten(1, (len(into), T))
            mirrored.gates[name][2].weight.copy_(last[:, rows].flatten(1, 2))
            gates, moved = (m.gate_logits(name, h[graph.rows(name)]) for m in (layer, mirrored))
            torch.testing.assert_close(gates[:, rows], moved, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(h, graph), mirrored(h, other), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sharing", ["layer", "none"])
def test_without_sharing_along_relations(sharing: str) -> None:
    """A task sums over its own relations; whole outputs are mixed, or not."""
    graph = _graph()
    layer, h = _layer(graph, sharing=sharing, residual=False), _features(graph)
    found = layer(h, graph)
    for name in ("a", "b", "c"):
        rows = graph.rows(name)
        z = layer.aggregate(name, h, graph)
        share = torch.einsum("nrtd,td->nrt", z, layer.att_out).softmax(1)
        own = torch.einsum("nrt,nrtd->ntd", share, z)
        if sharing == "layer":
            gate = layer.gate_logits(name, h[rows]).squeeze(1).softmax(1)
            own = torch.einsum("nts,ntd->nsd", gate, own)
        torch.testing.assert_close(found[rows], F.elu(own), rtol=1e-10, atol=1e-10)
    assert not found[graph.rows("alone")].any()


def test_gradients_of_both_orders() -> None:
    graph = _graph()
    layer, h = _layer(graph, tasks=2), _features(graph, tasks=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: layer(v, graph), h)
    assert torch.autograd.gradgradcheck(lambda v: layer(v, graph), h)


def _both_orders(layer: StrucHISLayer, graph: HeteroGraph) -> list[Tensor | None]:
    """h', gradients of h and of the parameters, and gradients of their squares."""
    torch.manual_seed(3)
    h = _features(graph).requires_grad_()
    inputs = [h, *layer.parameters()]
    out = layer(h, graph)
    first = torch.autograd.grad(out.square().sum(), inputs, retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(out.square().sum(), inputs, create_graph=True, allow_unused=True)
    for one, other in zip(first, again, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other.detach(), rtol=1e-10, atol=1e-10)
    total = sum(g.square().sum() for g in again if g is not None)
    assert isinstance(total, Tensor)
    return [out.detach(), *first, *torch.autograd.grad(total, inputs, allow_unused=True)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sharing", ["relation", "layer", "none"])
@pytest.mark.parametrize("variant", ["as_described", "as_released"])
def test_what_backward_makes_again_is_what_forward_made(
    variant: str, sharing: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of single nodes as blocks, of all nodes at once, and without making anything again; with the same dropout."""
    graph = _graph()
    layer = _layer(graph, variant=variant, sharing=sharing, dropout=0.4).train(training)
    whole = _both_orders(layer, graph)
    monkeypatch.setattr(struchis_level, "BLOCK", (1, 1))
    single = _both_orders(layer, graph)
    monkeypatch.setattr(struchis_level, "is_transformed", lambda: True)
    plain = _both_orders(layer, graph)
    assert sum(g is not None for g in plain) > 20
    for found in (whole, single):
        for one, wanted in zip(found, plain, strict=True):
            assert (one is None) == (wanted is None)
            if one is not None and wanted is not None:
                torch.testing.assert_close(one, wanted, rtol=1e-9, atol=1e-9)


def test_parameters_that_are_not_the_layers_own() -> None:
    """As in meta-learning: backward makes again with the parameters that forward had, and reaches what they are of."""
    graph = _graph()
    layer, h = _layer(graph), _features(graph)
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    other = {name: value.detach() * scale for name, value in layer.named_parameters()}
    out = torch.func.functional_call(layer, other, (h, graph))
    (found,) = torch.autograd.grad(out.square().sum(), scale)

    def loss(by: float) -> float:
        moved = {name: value.detach() * by for name, value in layer.named_parameters()}
        return float(torch.func.functional_call(layer, moved, (h, graph)).square().sum())

    assert abs(float(found) - (loss(1.5 + 1e-6) - loss(1.5 - 1e-6)) / 2e-6) < 1e-5 * abs(float(found))


def test_a_batch_of_gradients() -> None:
    graph = _graph()
    layer, h = _layer(graph), _features(graph).requires_grad_()
    out = layer(h, graph)
    g = torch.randn(3, *out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(0))
    inputs = [h, *layer.parameters()]
    together = torch.autograd.grad(out, inputs, g, is_grads_batched=True, retain_graph=True)
    for k in range(3):
        for found, wanted in zip(together, torch.autograd.grad(out, inputs, g[k], retain_graph=True), strict=True):
            torch.testing.assert_close(found[k], wanted, rtol=1e-10, atol=1e-10)


def test_memory_kept_for_backward() -> None:
    """h, masks and parameters: no aggregate, which R relations make larger than h, and nothing of the gates."""
    graph = _graph()
    layer, h = _layer(graph, variant="as_described").train(), _features(graph).requires_grad_()
    kept: list[Tensor] = []
    own = {p.data_ptr() for p in (h, *layer.parameters())}

    def pack(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        layer(h, graph)
    assert {value.data_ptr() for value in kept} <= own


def test_dropout_is_for_training_only_and_seeded() -> None:
    graph = _graph()
    layer, h = _layer(graph).train(), _features(graph)
    torch.manual_seed(3)
    first = layer(h, graph)
    assert not torch.equal(first, layer(h, graph))
    torch.manual_seed(3)
    assert torch.equal(first, layer(h, graph))
    assert torch.equal(layer.eval()(h, graph), layer(h, graph))


def test_what_it_refuses() -> None:
    graph = _graph()
    with pytest.raises(
        ValueError, match="StrucHISLayer: variant must be one of as_described, as_released, got 'paper'"
    ):
        StrucHISLayer(D, (graph.node_types, graph.relations), T, variant="paper")  # type: ignore[arg-type]
    layer = StrucHISLayer(D, (graph.node_types, graph.relations), T)
    with pytest.raises(ValueError, match=r"StrucHISLayer: h must have shape \[N, T, d\] = \[15, 3, 5\], got \[15, 5\]"):
        layer(torch.zeros(15, D), graph)
    other = HeteroGraph.from_dict({("a", "x", "a"): torch.zeros(2, 1, dtype=torch.int64)}, {"a": 1})
    with pytest.raises(ValueError, match="StrucHISLayer: the graph must have the node types and relations of metadata"):
        layer(torch.zeros(1, T, D), other)

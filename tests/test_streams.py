"""What a graph keeps and CUDA's streams and graphs, on a stand-in for torch.cuda: tests/cuda has the real ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgmtl import Graph, graph, ops
from fastgmtl.streams import Mark


class Cuda:
    """Streams by name, what each waits for, and whether a capture is going on."""

    def __init__(self) -> None:
        self.current, self.capturing, self.past = "main", False, False
        self.waits: list[tuple[str, str]] = []

    def current_stream(self, device: Any) -> Cuda:
        return self

    def record_event(self) -> Cuda.Event:
        return self.Event(self, self.current)

    def wait_event(self, event: Cuda.Event) -> None:
        self.waits.append((self.current, event.stream))

    def is_current_stream_capturing(self) -> bool:
        return self.capturing

    class Event:
        def __init__(self, cuda: Cuda, stream: str) -> None:
            self.cuda, self.stream = cuda, stream

        def query(self) -> bool:
            assert not self.cuda.capturing, "a capture ends with an error at a query"
            return self.cuda.past


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    fake = Cuda()
    for name in ("current_stream", "is_current_stream_capturing"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    return fake


EDGES = torch.tensor([[0, 1, 2, 0], [2, 0, 1, 1]])


def on_cuda(device_type: str = "cuda") -> Graph:
    """A graph that takes itself for one on a GPU."""
    made = Graph.from_edge_index(EDGES, 3, 3)
    vars(made)["device_type"] = device_type
    return made


def uses(g: Graph) -> list[Any]:
    return [g.t, g.inverse_degree, g.edge_rows, g.add_self_loops]


def test_another_stream_waits_for_what_is_kept(cuda: Cuda) -> None:
    for number in range(4):
        use = uses(on_cuda())[number]
        cuda.current, cuda.past = "main", False
        cuda.waits.clear()
        first = use()
        assert cuda.waits == [] or number == 3  # loops are made of rows, which are kept too
        cuda.waits.clear()
        cuda.current = "side"
        assert use() is first
        assert cuda.waits == [("side", "main")]
        cuda.past = True
        assert use() is first and use() is first
        assert len(cuda.waits) == 1


def test_a_capture_neither_asks_nor_waits(cuda: Cuda) -> None:
    g = on_cuda()
    first = g.inverse_degree()
    cuda.capturing = True
    assert g.inverse_degree() is first
    assert cuda.waits == []


def test_nothing_of_a_capture_is_kept(cuda: Cuda) -> None:
    g = on_cuda()
    cuda.capturing = True
    assert torch.equal(g.inverse_degree(), torch.tensor([1.0, 0.5, 1.0]))
    assert g._lazy == {} and g._made == {}
    cuda.capturing = False
    assert g.inverse_degree() is g.inverse_degree()


def test_on_the_cpu_nobody_asks(cuda: Cuda) -> None:
    cuda.capturing = True
    g = on_cuda("cpu")
    for use in uses(g):
        use()
    assert {"transpose", "rows", "looped"} <= set(g._lazy) and g._made == {}
    ops.spmm(g, torch.ones(3, 2), None, "mean")


def test_what_cannot_be_captured_is_refused(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgmtl import convert, csr, streams

    asked = []

    def refuse(what: str, device_type: str) -> None:
        asked.append(what)
        streams.refuse_capture(what, "cuda")

    for module in (convert, csr, graph):
        monkeypatch.setattr(module, "refuse_capture", refuse)
    cuda.capturing = True
    with pytest.raises(
        RuntimeError, match=r"graph: nodes cannot be counted while a CUDA graph is captured, .* run one"
    ):
        Graph.from_edge_index(EDGES)
    with pytest.raises(RuntimeError, match="graph: edges cannot be sorted while"):
        csr._sort_by_torch(EDGES[1], EDGES[0], None, 3, 3, torch.int32)
    with pytest.raises(RuntimeError, match="graph: rows cannot be checked while"):
        Graph.from_csr(torch.tensor([0, 1]), torch.tensor([0]), 1)
    assert len(asked) == 3
    streams.refuse_capture("nothing", "cpu")


def test_a_layers_graph_is_waited_for(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of an edge_index is kept where nobody sees it."""
    monkeypatch.setattr(Graph, "_mark", lambda self: Mark(torch.device("cpu")))
    edges = EDGES.clone()
    first = graph.as_graph(edges, 3, 3)
    cuda.current = "side"
    assert graph.as_graph(edges, 3, 3) is first
    assert cuda.waits == [("side", "main")]


def test_fake_tensors_on_a_gpu_need_none() -> None:
    with FakeTensorMode():
        row_ptr, col = (
            torch.zeros(4, dtype=torch.int64, device="cuda"),
            torch.zeros(5, dtype=torch.int32, device="cuda"),
        )
        g = Graph(row_ptr, col, None, 2)
        assert g.inverse_degree().device.type == g.t().device.type == "cuda"
        assert g.inverse_degree() is g.inverse_degree()


def test_record_stream_reaches_all_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    g = Graph.from_edge_index(EDGES, 3, 3)
    g.t().edge_rows(), g.inverse_degree(), ops.gcn_norm(g)
    seen: list[Tensor] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: seen.append(self))
    g.record_stream("side")  # type: ignore[arg-type]
    looped, weight = ops.gcn_norm(g)
    wanted = [*g.pattern[:3], *g.t().pattern[:3], g.t().edge_rows(), g.inverse_degree(), looped.col, weight]
    assert {id(v) for v in wanted if v is not None} <= {id(v) for v in seen}
    assert len(seen) == len({id(v) for v in seen})

"""The CUDA kernels of attention and of GATv2's score, run on the CPU, against their twins in plain PyTorch."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from cuda_host_build import Host, HostError, Pattern
from cuda_host_model import TOLERANCE, degrees_of, pattern_of
from torch import Tensor

from fastgmtl import Graph
from fastgmtl.reference import attend, gatv2

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INDICES = [torch.int32, torch.int64]
COLUMNS, TYPES = 40, 3
# (rows, heads, width, degrees): rows without, with few and with many edges; heads by four and one by one.
SIZES = [(rows, 4, 4, "power") for rows in (0, 1, 31, 33, 1025)] + [(33, k, d, "power") for k, d in ((1, 1), (3, 7))]
SIZES += [(33, 8, 16, "power"), (12, 4, 3, "border"), (6, 2, 64, "border"), (33, 4, 8, "one"), (33, 3, 5, "one")]


def draw(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def patterns(degrees: list[int], index: torch.dtype, ids: bool) -> tuple[Pattern, Pattern, Graph]:
    """A pattern, its transpose and the graph of both."""
    p = pattern_of(degrees, COLUMNS, index, ids)
    graph = Graph(p.row_ptr, p.col, p.edge_id, p.cols)
    t = graph.t()
    edge_id = None if t.edge_id is None else t.edge_id.to(index)
    return p, Pattern(t.row_ptr, t.col.to(index), edge_id, p.rows), graph


def close(got: Tensor, want: Tensor) -> bool:
    """Up to rounding, relative to the largest entry; half precision rounds weights and products too."""
    bound = {torch.bfloat16: 2e-2, torch.float16: 4e-3}.get(got.dtype, TOLERANCE[got.dtype])
    scale = max(1.0, float(want.double().abs().max())) if want.numel() else 1.0
    return bool(((got.double() - want.double()).abs() <= bound * scale).all())


def scores_of(p: Pattern, heads: int, dtype: torch.dtype, which: str) -> list[Tensor | None]:
    """dst, src, type, edge and edge_type, those whose letter is in ``which``."""
    dst, src = draw(p.rows, heads, dtype=dtype, seed=1), draw(p.cols, heads, dtype=dtype, seed=2)
    kind, edge = draw(TYPES, heads, dtype=dtype, seed=3), draw(p.edges, heads, dtype=dtype, seed=4)
    given = [s if letter in which else None for letter, s in zip("dste", (dst, src, kind, edge), strict=True)]
    return [*given, (torch.arange(p.edges) % TYPES).to(p.col.dtype) if "t" in which else None]


def check_attention(
    host: Host,
    degrees: list[int],
    heads: int,
    width: int,
    dtype: torch.dtype,
    index: torch.dtype = torch.int32,
    which: str = "ds",
    drop: str = "",
    ids: bool = True,
    wanted: str = "dste",
) -> None:
    """Forward, and backward of what is in ``wanted``, of given y and lse."""
    p, back, graph = patterns(degrees, index, ids)
    value = draw(p.cols, heads, width, dtype=dtype, seed=5)
    scores = scores_of(p, heads, dtype, which)
    inputs = [value, *scores, torch.tensor([77]) if drop else None]
    options = [0.2, 0.4 if drop else 0.0, drop == "logits"]
    y, lse = torch.zeros(p.rows, heads, width, dtype=dtype), torch.zeros(p.rows, heads, dtype=torch.float64)
    host.attention(p, inputs, options, y, lse)
    want = attend.attend(graph, *inputs, *options)
    assert close(y, want[0])
    assert close(lse.to(torch.float64 if dtype == torch.float64 else torch.float32), want[1])

    g = draw(p.rows, heads, width, dtype=dtype, seed=6)
    g_lse = draw(p.rows, heads, dtype=torch.float64, seed=7) if width % 2 else None
    outputs: list[Tensor | None] = [torch.zeros_like(value)]
    for letter, score in zip("dst", scores[:3], strict=True):
        outputs.append(torch.zeros_like(score) if score is not None and letter in wanted else None)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    needs_edges = outputs[1] is not None or outputs[3] is not None or "e" in wanted
    outputs.append(torch.zeros(p.edges, heads, dtype=wide) if needs_edges else None)
    given = [g, g_lse, want[0], want[1], *inputs]
    host.attention_backward(p, back, given, options, outputs)
    # The gradient of z by itself: with a score of edges, whichever are given.
    whole = list(given)
    whole[8] = torch.zeros(p.edges, heads, dtype=dtype) if whole[8] is None else whole[8]
    found = attend.attend_backward(graph, *whole, *options)
    for got, expected in zip(outputs, found, strict=True):
        if got is not None and expected is not None:
            assert close(got.to(dtype), expected)


@pytest.mark.parametrize(("rows", "heads", "width", "kind"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes(host: Host, dtype: torch.dtype, rows: int, heads: int, width: int, kind: str) -> None:
    check_attention(host, degrees_of(rows, kind), heads, width, dtype, INDICES[rows % 2], "dste", ids=width % 2 == 0)


@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_modes(host: Host, dtype: torch.dtype, index: torch.dtype) -> None:
    """Every choice of scores, of dropout, of heads and of what has a gradient."""
    degrees = [3, 0, 1, 9, 66, 2, 140]
    for which, drop, heads in product(("d", "s", "te", "dst", "dste"), ("", "weights", "logits"), (4, 3)):
        check_attention(host, degrees, heads, 5, dtype, index, which, drop, ids=heads == 4)
    for wanted in ("", "s", "d", "e", "t"):
        check_attention(host, degrees, 4, 8, dtype, index, "dste", "weights", wanted=wanted)


def test_long_rows_of_rising_logits(host: Host) -> None:
    """Maxima and sums of pieces are merged; -inf is no edge; large logits do not overflow."""
    for heads in (4, 3):
        p, _, graph = patterns([700, 0, 65, 64, 3], torch.int32, False)
        edge = torch.linspace(-40, 40, p.edges).unsqueeze(1).expand(-1, heads).contiguous()
        edge[::3] = -torch.inf
        edge[829:] = -torch.inf
        value = draw(p.cols, heads, 5, dtype=torch.float32, seed=1)
        for score in (edge, -edge.abs(), edge + 5000):
            inputs = [value, None, None, None, score.contiguous(), None, None]
            y, lse = torch.zeros(p.rows, heads, 5), torch.zeros(p.rows, heads, dtype=torch.float64)
            host.attention(p, inputs, [1.0, 0.0, 0], y, lse)
            want = attend.attend(graph, *inputs, 1.0, 0.0, False)
            assert close(y, want[0]) and close(lse.float(), want[1])
            assert y[1].eq(0).all() and y[4].eq(0).all() and y.isfinite().all()


def test_a_type_out_of_range_is_not_read(host: Host) -> None:
    p, back, _ = patterns([3, 0, 1, 9, 70], torch.int32, True)
    types = torch.zeros(p.edges, dtype=torch.int32)
    types[5], types[7] = 1000, -1
    rows = torch.repeat_interleave(torch.arange(5), p.row_ptr.diff())
    assert p.edge_id is not None
    bad = torch.isin(torch.arange(5), rows[torch.isin(p.edge_id, torch.tensor([5, 7]))])
    value, kind = torch.ones(p.cols, 4, 5), torch.ones(2, 4)
    inputs = [value, None, None, kind, None, types, None]
    y, lse = torch.zeros(5, 4, 5), torch.zeros(5, 4, dtype=torch.float64)
    host.attention(p, inputs, [0.2, 0.0, 0], y, lse)
    assert torch.equal(y.isnan().flatten(1).all(1), bad) and y[~bad].isfinite().all()
    outputs = [torch.zeros_like(value), None, None, torch.zeros(2, 4), torch.zeros(p.edges, 4)]
    host.attention_backward(p, back, [y, None, y, lse, *inputs], [0.2, 0.0, 0], outputs)


def test_many_types(host: Host) -> None:
    """More edges than a block takes, types that few edges have and types that none has."""
    p, back, graph = patterns([5000, 30, 0, 200], torch.int32, True)
    types = (torch.arange(p.edges) ** 2 % 50).int()
    value, kind = draw(p.cols, 2, 3, dtype=torch.float64, seed=1), draw(60, 2, dtype=torch.float64, seed=2)
    g, y = (draw(4, 2, 3, dtype=torch.float64, seed=s) for s in (3, 4))
    lse = torch.full((4, 2), 3.0, dtype=torch.float64)
    given = [g, None, y, lse, value, None, None, kind, None, types, None]
    outputs = [torch.zeros_like(value), None, None, torch.zeros_like(kind), torch.zeros(p.edges, 2, dtype=g.dtype)]
    host.attention_backward(p, back, given, [0.2, 0.0, 0], outputs)
    want = attend.attend_backward(graph, *given, 0.2, 0.0, False)
    assert outputs[3] is not None and want[3] is not None and close(outputs[3], want[3])


def test_errors(host: Host) -> None:
    p, back, _ = patterns([1, 2], torch.int32, False)
    value, src = torch.ones(p.cols, 1, 1), torch.ones(p.cols, 1)
    y, lse = torch.zeros(2, 1, 1), torch.zeros(2, 1, dtype=torch.float64)
    with pytest.raises(HostError, match=r"attention: score_src must have shape \[40, 1\], got \[40, 2\]"):
        host.attention(p, [value, None, torch.ones(p.cols, 2), None, None, None, None], [0.2, 0, 0], y, lse)
    outputs: list[Tensor | None] = [torch.zeros_like(value), torch.zeros(2, 1), None, None, None]
    with pytest.raises(HostError, match="attention_backward: d_dst and d_type are summed from d_edge"):
        host.attention_backward(p, back, [y, None, y, lse, value, y[..., 0], src, *[None] * 4], [0.2, 0, 0], outputs)
    wide = torch.ones(p.cols, 65536 + 1, 1)
    y, lse = torch.zeros(2, 65537, 1), torch.zeros(2, 65537, dtype=torch.float64)
    with pytest.raises(HostError, match=r"attention_stats: a grid may have 2147483647 x 65535 blocks, .* x 65537"):
        host.attention(p, [wide, None, wide[..., 0], None, None, None, None], [0.2, 0, 0], y, lse)


# ------------------------------------------------------------------------------------------------------------- gatv2


def check_gatv2(
    host: Host, degrees: list[int], heads: int, width: int, dtype: torch.dtype, index: torch.dtype, at: str, ids: bool
) -> None:
    """``at``: of which ends leaky is of other features."""
    p, back, graph = patterns(degrees, index, ids)
    x_dst, x_src, at_dst, at_src = (
        draw(n, heads, width, dtype=dtype, seed=seed) for seed, n in enumerate((p.rows, p.cols, p.rows, p.cols))
    )
    att, g = draw(heads, width, dtype=dtype, seed=5), draw(p.edges, heads, dtype=dtype, seed=6)
    given = [x_dst, x_src, att, at_dst if "d" in at else None, at_src if "s" in at else None]
    out = torch.zeros(p.edges, heads, dtype=dtype)
    host.gatv2_score(p, given, 0.2, out)
    assert close(out, gatv2.gatv2_score(graph, *given, 0.2))
    want = gatv2.gatv2_backward(graph, g, *given, 0.2)
    for wanted in ((True, True, True), (False, True, False), (True, False, False)):
        outputs = [torch.zeros_like(w) if needed else None for w, needed in zip(want, wanted, strict=True)]
        host.gatv2_backward(p, back, [g, *given], 0.2, outputs)
        for got, expected in zip(outputs, want, strict=True):
            assert got is None or close(got, expected)


@pytest.mark.parametrize(("rows", "heads", "width", "kind"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gatv2_sizes(host: Host, dtype: torch.dtype, rows: int, heads: int, width: int, kind: str) -> None:
    check_gatv2(host, degrees_of(rows, kind), heads, width, dtype, INDICES[rows % 2], "", ids=width % 2 == 0)


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_gatv2_modes(host: Host, index: torch.dtype) -> None:
    for at, ids, (heads, width) in product(("", "d", "s", "ds"), (True, False), ((4, 8), (2, 5), (1, 300))):
        check_gatv2(host, [3, 0, 1, 9, 66, 2, 140], heads, width, torch.float32, index, at, ids)


def test_every_kernel_has_run(host: Host) -> None:
    """Each instance of each kernel, by its symbol; this test brings them all about by itself."""
    for dtype, heads, width in product(DTYPES, (4, 3), (8, 5)):
        check_attention(host, [1, 70], heads, width, dtype, which="dste")
        check_gatv2(host, [1, 70], heads, width, dtype, torch.int32, "", True)
    known, executed = host.kernels()
    mine = {name for name in known if "attention_" in name or "gatv2_" in name}
    assert len(mine) >= 60
    assert not sorted(mine - executed)

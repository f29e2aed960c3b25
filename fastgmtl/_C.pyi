"""The compiled module; csrc/contract says what each function computes."""

from collections.abc import Sequence

from torch import Tensor

CUDA: bool
BUILD: str

Rows = tuple[tuple[Tensor | None, ...], int, bool]
Pattern = tuple[Tensor, Tensor, Tensor | None, int]

def csr(
    row: Tensor,
    col: Tensor,
    edge_id: Tensor | None,
    cols: int,
    row_ptr: Tensor,
    new_col: Tensor,
    new_id: Tensor,
    threads: int,
) -> bool: ...
def gcn_norm(pattern: Pattern, fill: float, row_ptr: Tensor, col: Tensor, weight: Tensor, threads: int) -> None: ...
def spmm(
    pattern: Pattern,
    x: Tensor,
    w: Tensor | None,
    scale: Tensor | None,
    scale_of_cols: bool,
    arg: Tensor | None,
    arg_of: int,
    reduce: int,
    y: Tensor,
    new_arg: Tensor | None,
    threads: int,
) -> None: ...
def sddmm(
    pattern: Pattern,
    a: Tensor,
    b: Tensor,
    scale: Tensor | None,
    scale_of_cols: bool,
    arg: Tensor | None,
    arg_of: int,
    out: Tensor,
    threads: int,
) -> None: ...
def spmm_backward(
    pattern: Pattern,
    a: Tensor,
    b: Tensor,
    w: Tensor | None,
    scale: Tensor | None,
    scale_of_cols: bool,
    arg: Tensor | None,
    arg_of: int,
    y: Tensor | None,
    out: Tensor,
    threads: int,
) -> None: ...
def gram(a: Rows, b: Rows, groups: Sequence[int], out: Tensor, threads: int) -> None: ...
def combine(a: Rows, weights: Tensor, groups: Sequence[int], out: Rows, accumulate: bool, threads: int) -> None: ...
def task_weights(
    method: int,
    gram: Tensor,
    preference: Tensor | None,
    order: Tensor | None,
    parameter: float,
    state: Tensor | None,
    out: Tensor,
) -> None: ...
def attention(
    pattern: Pattern,
    value: Tensor,
    dst: Tensor | None,
    src: Tensor | None,
    type: Tensor | None,
    edge: Tensor | None,
    edge_type: Tensor | None,
    seed: Tensor | None,
    slope: float,
    dropout: float,
    drop_logits: bool,
    y: Tensor,
    lse: Tensor,
    threads: int,
) -> None: ...
def attention_backward(
    pattern: Pattern,
    back: Pattern,
    g: Tensor,
    g_lse: Tensor | None,
    y: Tensor,
    lse: Tensor,
    value: Tensor,
    dst: Tensor | None,
    src: Tensor | None,
    type: Tensor | None,
    edge: Tensor | None,
    edge_type: Tensor | None,
    seed: Tensor | None,
    slope: float,
    dropout: float,
    drop_logits: bool,
    d_value: Tensor,
    d_dst: Tensor | None,
    d_src: Tensor | None,
    d_type: Tensor | None,
    d_edge: Tensor | None,
) -> None: ...
def relation_gate(
    z: Tensor,
    logits: Tensor,
    weight: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    activation: int,
    y: Tensor,
    threads: int,
) -> None: ...
def relation_gate_backward(
    u: Tensor,
    z: Tensor,
    logits: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    d_z: Tensor,
    d_logits: Tensor,
    d_weight: Tensor | None,
    partial: Tensor | None,
    threads: int,
) -> None: ...
def gatv2_score(
    pattern: Pattern,
    x_dst: Tensor,
    x_src: Tensor,
    att: Tensor,
    at_dst: Tensor | None,
    at_src: Tensor | None,
    slope: float,
    out: Tensor,
    threads: int,
) -> None: ...
def gatv2_backward(
    pattern: Pattern,
    back: Pattern,
    g: Tensor,
    x_dst: Tensor,
    x_src: Tensor,
    att: Tensor,
    at_dst: Tensor | None,
    at_src: Tensor | None,
    slope: float,
    d_dst: Tensor | None,
    d_src: Tensor | None,
    d_att: Tensor | None,
    threads: int,
) -> None: ...
def edge_energy(
    pattern: Pattern,
    a: Tensor | None,
    c: Tensor | None,
    v: Tensor | None,
    field: Tensor,
    weight: Tensor,
    label_src: Tensor,
    label_dst: Tensor,
    to: int,
    field_order: int,
    shift_order: int,
    factor: float,
    out: Tensor,
    threads: int,
) -> None: ...
def gibbs(
    children: Pattern,
    field: Tensor,
    coupling: Tensor,
    start: Tensor,
    known: Tensor | None,
    order: Tensor,
    seed: Tensor,
    burn_in: int,
    normalised: bool,
    label: Tensor,
    mean: Tensor,
    threads: int,
) -> None: ...
def concrete(
    logits: Tensor,
    v: Tensor | None,
    src: Tensor | None,
    dst: Tensor | None,
    seed: Tensor,
    order: int,
    temperature: float,
    explore: float,
    out: Tensor,
    threads: int,
) -> None: ...
def concrete_draw(
    logits: Tensor, seed: Tensor, explore: float, words: Tensor, row_ptr: Tensor, threads: int
) -> None: ...
def concrete_edges(words: Tensor, row_ptr: Tensor, col: Tensor, threads: int) -> None: ...
def gather_relu(
    pattern: Pattern,
    h: Tensor | None,
    s: Tensor | None,
    t: Tensor | None,
    at_h: Tensor,
    at_s: Tensor,
    at_t: Tensor,
    out: Tensor,
    threads: int,
) -> None: ...
def gather_relu_backward(
    pattern: Pattern,
    back: Pattern,
    g: Tensor,
    at_h: Tensor,
    at_s: Tensor,
    at_t: Tensor,
    d_h: Tensor | None,
    d_s: Tensor | None,
    d_t: Tensor | None,
    threads: int,
) -> None: ...
def rspmm(
    pattern: Pattern,
    two: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor | None,
    w: Tensor | None,
    scale: Tensor | None,
    arg: Tensor | None,
    to: int,
    message: int,
    half: int,
    reduce: int,
    y: Tensor,
    new_arg: Tensor | None,
    threads: int,
) -> None: ...
def intersect(
    pattern: Pattern,
    pairs: Tensor,
    without: Tensor | None,
    counts: Tensor,
    both: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    threads: int,
) -> None: ...
def relu_sum(
    pattern: Pattern,
    x: Tensor | None,
    e: Tensor | None,
    at_x: Tensor,
    at_e: Tensor,
    y: Tensor,
    threads: int,
) -> None: ...
def relu_sum_backward(
    back: Pattern,
    g: Tensor,
    at_x: Tensor,
    at_e: Tensor,
    d_x: Tensor | None,
    d_e: Tensor | None,
    threads: int,
) -> None: ...
def block_spmm(pattern: Pattern, blocks: Tensor, x: Tensor, transposed: bool, y: Tensor, threads: int) -> None: ...
def block_sddmm(pattern: Pattern, g: Tensor, x: Tensor, out: Tensor, threads: int) -> None: ...

class NeighborSample:
    def nodes_per_hop(self, type: int) -> list[int]: ...
    def edges_per_hop(self, type: int) -> list[int]: ...
    def copy_nodes(self, type: int, node: Tensor, batch: Tensor | None) -> None: ...
    def copy_edges(self, type: int, row: Tensor, col: Tensor, edge: Tensor) -> None: ...

def neighbor_sample(
    patterns: Sequence[Pattern],
    ends: Sequence[tuple[int, int]],
    fanouts: Sequence[Sequence[int]],
    seeds: Sequence[Tensor | None],
    sizes: Sequence[int],
    replace: bool,
    disjoint: bool,
    seed: int,
    threads: int,
) -> NeighborSample: ...
def simd() -> str: ...
def set_simd(name: str) -> None: ...
def simd_levels() -> list[str]: ...
def uses_exchange_api() -> bool: ...
def set_exchange_api(on: bool) -> None: ...

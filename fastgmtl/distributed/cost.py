r"""What a step of training by several processes costs: bytes and messages as formulas, and seconds by a simple model.

Numbers are those of one rank. A sum over W ranks of M bytes is taken to send :math:`2 M (W - 1) / W` in
:math:`2 (W - 1)` messages (a ring); rows that are exchanged are sent once to each rank that needs them.
"""

from __future__ import annotations

from dataclasses import dataclass

SUMS = 8  # bytes of a number of batch norm, which is summed in float64


@dataclass(frozen=True)
class Encoder:
    """The encoder of method ``shared``: ``layers`` of width d with batch norm, P parameters in N tensors, T tasks."""

    layers: int
    width: int
    parameters: int
    tensors: int
    tasks: int
    itemsize: int = 4


@dataclass(frozen=True)
class Share:
    """What a rank has: n nodes, edges into them, h rows of a halo, s rows that others need, of how many other ranks."""

    nodes: float
    edges: float
    halo: float
    sent: float
    neighbours: float


@dataclass(frozen=True)
class Cost:
    """Of a training step. exchanged: bytes of rows sent. reduced: bytes given to sums over ranks, ``sums`` of them.

    messages: sent by this rank. moved: bytes that aggregation reads and writes in memory.
    """

    exchanged: float
    reduced: float
    sums: int
    messages: float
    moved: float


@dataclass(frozen=True)
class Machine:
    """Bytes per second between ranks and in memory, seconds a message."""

    network: float
    latency: float
    memory: float


def partition_step(encoder: Encoder, share: Share, ranks: int) -> Cost:
    r"""A step of ``--dist partition``, forward and backward.

    .. math::
        \text{exchanged} = L d b \, (s + h), \qquad
        \text{reduced} = b (P + N + 2T) + 16 L (2 d + 1), \qquad
        \text{moved} = 2 L d b \, (|E| + 2 n + h) + 4 L |E|

    with b bytes a number: each layer sends s rows forward and h back; batch norm sums d + 1 and d numbers in float64,
    and the same backward; gradients, which of them are there, and losses are one sum. An edge reads a row of d numbers
    and its column (4 bytes, or 8 in both directions together), forward and backward.
    """
    d, b, layers = encoder.width, encoder.itemsize, encoder.layers
    exchanged = layers * d * b * (share.sent + share.halo)
    reduced = b * (encoder.parameters + encoder.tensors + 2 * encoder.tasks) + 2 * layers * (2 * d + 1) * SUMS
    sums = 1 + 4 * layers
    messages = 2 * layers * share.neighbours + sums * 2 * (ranks - 1)
    moved = 2 * layers * d * b * (share.edges + 2 * share.nodes + share.halo) + 8 * layers * share.edges
    return Cost(exchanged, reduced, sums, messages, moved)


def episodes_step(encoder: Encoder, ranks: int) -> Cost:
    """A meta-step of ``--dist episodes``: one sum of all gradients."""
    reduced = encoder.itemsize * (encoder.parameters + encoder.tensors + 2 * encoder.tasks)
    return Cost(0, reduced, 1, 2 * (ranks - 1), 0)


def surgery(tasks: int, parameters: float, ranks: int, way: str, itemsize: int = 4) -> float:
    r"""Bytes that a rank sends for the gradients of T tasks (``sync`` of :func:`fastgmtl.gradients.backward`).

    all_reduce: :math:`2 T P (W - 1) / W`. reduce_scatter: :math:`(T + 1) P (W - 1) / W`. features, and local_gram:
    :math:`2 P (W - 1) / W`; and the :math:`T^2` inner products, in float64, of all but the first.
    """
    ring = (ranks - 1) / ranks
    gram = 2 * ring * 8 * tasks**2
    rows = {"all_reduce": 2.0 * tasks, "reduce_scatter": tasks + 1.0, "features": 2.0, "local_gram": 2.0}
    if way not in rows:
        raise ValueError(f"surgery: way must be one of {', '.join(rows)}, got {way!r}")
    return rows[way] * parameters * itemsize * ring + (0 if way == "all_reduce" else gram)


def seconds(cost: Cost, ranks: int, machine: Machine) -> tuple[float, float]:
    """(network, memory): the time of the messages, and that of the aggregation, behind which rows may travel."""
    sent = cost.exchanged + 2 * cost.reduced * (ranks - 1) / ranks
    return sent / machine.network + cost.messages * machine.latency, cost.moved / machine.memory


def even_share(nodes: float, edges: float, ranks: int, cut: float, repeats: float) -> Share:
    """A rank's share where all have the same: ``cut`` of the edges come from other ranks, ``repeats`` to a row."""
    halo = edges / ranks * cut / repeats
    return Share(nodes / ranks, edges / ranks, halo, halo, min(ranks - 1, halo))

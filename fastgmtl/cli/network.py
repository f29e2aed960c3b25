"""Graphs that a method has learned, each picture with the CSV of its edges."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path

import networkx
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastgmtl.cli import checkpoint
from fastgmtl.cli.picture import INK
from fastgmtl.methods import Network

HEAD = ("network", "from", "to", "strength", "probability")
POSITIVE, NEGATIVE = "#1f6f8b", "#c0392b"
SHOWN = 0.05  # edges that are less probable are in the CSV alone
MOST_NAMES = 60


def write(folder: Path, name: str, title: str, networks: Sequence[Network]) -> None:
    """Write ``name.csv`` (a line for each edge) and ``name.png``: width is strength, opacity is probability."""
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(HEAD)
    for network in networks:
        for source, target, strength, probability in network.edges:
            ends = network.nodes[source], network.nodes[target]
            lines.writerow((network.title, *ends, f"{strength:.6g}", f"{probability:.6g}"))
    checkpoint.write_text(folder / f"{name}.csv", text.getvalue())
    buffer = BytesIO()
    _figure(title, networks).savefig(buffer, format="png", dpi=140)
    checkpoint.write(folder / f"{name}.png", lambda file: file.write(buffer.getvalue()))


def _figure(title: str, networks: Sequence[Network]) -> Figure:
    side = max(5.0, 0.16 * max(len(network.nodes) for network in networks))
    figure = Figure(figsize=(side * len(networks), side + 0.4), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    # One layout for all, so that they can be compared.
    whole = networkx.DiGraph()
    whole.add_nodes_from(range(max(len(network.nodes) for network in networks)))
    whole.add_edges_from((s, t) for network in networks for s, t, _, p in network.edges if p >= SHOWN)
    places = networkx.circular_layout(whole) if len(whole) < 3 else networkx.spring_layout(whole, seed=0, k=1.5)
    for place, network in enumerate(networks):
        _draw(figure.add_subplot(1, len(networks), place + 1), network, places)
    return figure


def _draw(axes: Axes, network: Network, places: dict[int, tuple[float, float]]) -> None:
    edges = [edge for edge in network.edges if edge[3] >= SHOWN]
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(len(network.nodes)))
    graph.add_edges_from((source, target) for source, target, _, _ in edges)
    most = max((abs(strength) for _, _, strength, _ in edges), default=1.0) or 1.0
    networkx.draw_networkx_nodes(graph, places, ax=axes, node_size=260, node_color="#f3efe6", edgecolors=INK)
    for source, target, strength, probability in edges:
        networkx.draw_networkx_edges(
            graph,
            places,
            edgelist=[(source, target)],
            ax=axes,
            width=0.6 + 2.6 * abs(strength) / most,
            alpha=min(1.0, probability),
            edge_color=POSITIVE if strength >= 0 else NEGATIVE,
            node_size=260,
            connectionstyle="arc3,rad=0.08",
        )
    if len(network.nodes) <= MOST_NAMES:
        names = dict(enumerate(network.nodes))
        networkx.draw_networkx_labels(graph, places, names, ax=axes, font_size=7, font_color=INK)
    axes.set_title(network.title, loc="left", fontsize=9, fontweight="bold", color=INK)
    axes.set_axis_off()

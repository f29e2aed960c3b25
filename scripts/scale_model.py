"""What the cost model of fastgmtl.distributed.cost says of a graph on many ranks: a prediction, not a measurement."""

from __future__ import annotations

import argparse

from fastgmtl.distributed.cost import Encoder, Machine, even_share, partition_step, seconds, surgery


def main() -> None:
    """Print a table by number of ranks."""
    arguments = argparse.ArgumentParser(description=__doc__)
    for name, value, what in (
        ("nodes", 1e9, "N"),
        ("edges", 1e10, "E"),
        ("width", 32, "d"),
        ("layers", 2, "of the encoder"),
        ("tasks", 4, "T"),
        ("cut", 0.3, "share of the edges between ranks"),
        ("repeats", 2.0, "edges to a row of the halo"),
        ("network", 25e9, "bytes per second that a rank sends"),
        ("latency", 2e-5, "seconds a message"),
        ("memory", 1e11, "bytes per second that a rank reads"),
    ):
        arguments.add_argument(f"--{name}", type=float, default=value, help=f"{what} (default: {value:g})")
    arguments.add_argument("--ranks", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    given = arguments.parse_args()
    width, layers, tasks = int(given.width), int(given.layers), int(given.tasks)
    parameters = layers * (2 * width**2 + 3 * width) + width * (width + 1) + tasks * (width + 1)
    encoder = Encoder(layers, width, parameters, 5 * layers + 2 + 2 * tasks, tasks)
    machine = Machine(given.network, given.latency, given.memory)
    print("a model, not a measurement")
    print(
        "ranks  nodes     edges     halo      sent MB   summed KB  messages  network s  memory s  step s    surgery KB"
    )
    for ranks in given.ranks:
        share = even_share(given.nodes, given.edges, ranks, given.cut if ranks > 1 else 0, given.repeats)
        cost = partition_step(encoder, share, ranks)
        network, memory = seconds(cost, ranks, machine)
        cells = (
            f"{ranks:<5d}",
            *(f"{v:<8.2e}" for v in (share.nodes, share.edges, share.halo)),
            f"{cost.exchanged / 1e6:<8.1f}",
            f"{cost.reduced / 1e3:<9.1f}",
            f"{cost.messages:<8.0f}",
            *(f"{v:<8.3f}" for v in (network, memory, max(network, memory))),
            f"{surgery(tasks, parameters, ranks, 'reduce_scatter') / 1e3:.1f}",
        )
        print("  ".join(cells))


if __name__ == "__main__":
    main()

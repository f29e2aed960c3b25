"""Arguments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import fastgmtl
from fastgmtl.cli import data as data_commands
from fastgmtl.cli import options
from fastgmtl.cli.bench import bench as run_bench
from fastgmtl.cli.errors import CliError
from fastgmtl.cli.train import Request
from fastgmtl.cli.train import train as run_train
from fastgmtl.distributed import Led, Lost, follows
from fastgmtl.methods import METHODS, MODES, TrainConfig


def _keys() -> str:
    """The keys of --set, once for the methods that share them."""
    by_config: dict[type[TrainConfig], list[str]] = {method.config_type: [] for method in METHODS.values()}
    for name, method in METHODS.items():
        by_config[method.config_type].append(name)
    return "; ".join(f"{', '.join(names)}: {options.describe(config)}" for config, names in by_config.items())


app = typer.Typer(
    name="python -m fastgmtl",
    help="Graph multi-task learning: T tasks over one graph, in one pass.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(no_args_is_help=True, help="Store large graphs, check them, show data sets.")
app.add_typer(data_app, name="data")


@app.command()
def train(
    method: Annotated[str | None, typer.Option(help=f"{', '.join(METHODS)} (default: shared)")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="debian, synthetic, tu:NAME, moleculenet:NAME, stored:DIR, a folder ... (default: debian)"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of weights, dropout and splits (default: 0)")] = None,
    seeds: Annotated[int | None, typer.Option(help="how many, from --seed on (default: 1)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    out: Annotated[Path | None, typer.Option(help="folder (default: results/METHOD-DATA)")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=f"keys of {_keys()}")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ... (default: auto)")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: PyTorch's)")] = None,
    dist: Annotated[
        str | None, typer.Option(help=f"how the processes of torchrun share the work: {', '.join(MODES)}")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="start again in a folder in use")] = False,
) -> None:
    """Train a method on a data set; without options: shared on debian, about a minute."""
    request = Request(
        method=method,
        data=data,
        seed=seed,
        seeds=seeds,
        device=device,
        threads=threads,
        settings=tuple(settings or ()),
        out=out,
        resume=resume,
        overwrite=overwrite,
        dist=dist,
    )
    raise typer.Exit(run_train(_console(), request))


@data_app.command("build")
def data_build(
    edges: Annotated[list[Path], typer.Argument(help="text (two columns), .npy or .parquet, one or more, in turn")],
    out: Annotated[Path, typer.Option(help="folder for the graph")],
    num_nodes: Annotated[int | None, typer.Option(help="(default: rows of --features, or largest index + 1)")] = None,
    features: Annotated[Path | None, typer.Option(help="npy [N, F]")] = None,
    dtype: Annotated[str, typer.Option(help="that features are stored in: float32, float64, bfloat16, float16")] = (
        "float32"
    ),
    labels: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="npy: integers [N] classes, floats [N] numbers, floats [N, L] labels"),
    ] = None,
    split: Annotated[Path | None, typer.Option(help="npy [N]: 0 train, 1 val, 2 test, -1 none")] = None,
    edge_ids: Annotated[bool, typer.Option("--edge-ids", help="store positions of edges, for edge weights")] = False,
    memory: Annotated[str, typer.Option(help="to stay below, as 512MiB or 4GiB")] = "4GiB",
    source: Annotated[str, typer.Option(help="where the data is from, and its licence")] = "",
) -> None:
    """Store the graph of edge lists of any size, to be trained on with --data stored:DIR; stopped, it goes on."""
    data_commands.build_graph(
        _console(),
        edges,
        out,
        memory,
        labels or [],
        num_nodes=num_nodes,
        features=features,
        dtype=dtype,
        split=split,
        edge_ids=edge_ids,
        source=source,
    )


@data_app.command("check")
def data_check(folder: Annotated[Path, typer.Argument(help="of a stored graph")]) -> None:
    """Read every byte of a stored graph: indices in range, checksums right."""
    data_commands.check_graph(_console(), folder)


@data_app.command("show")
def data_show(name: Annotated[str, typer.Argument(help="as of train --data")]) -> None:
    """Sizes of a data set, where it is from, and its tasks with their labels by split."""
    data_commands.show(_console(), name)


@app.command()
def info() -> None:
    """Versions, devices, threads and, for every operator, what would run."""
    print(fastgmtl.info())


@app.command()
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="ops, layers, gradients, meta, methods, or spmm, overhead ... (default: all)"),
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="the .jsonl file of an earlier run")] = None,
) -> None:
    """Measure the operators beside their peers (in a checkout of the repository)."""
    raise typer.Exit(run_bench(names or [], compare))


def _console() -> Console:
    # A log has no width: tables are not squeezed into the 80 columns that rich assumes for it.
    return Console(width=None if sys.stdout.isatty() else 160, quiet=follows())


def run(arguments: list[str]) -> int:
    """Run the command line. Returns the exit code; whatever the user can mend is one message."""
    try:
        app(args=arguments)
    except SystemExit as end:
        return int(end.code or 0)
    except Led:  # rank 0 says what is wrong
        return 1
    except CliError as error:
        if not follows():
            print(f"error: {error}", file=sys.stderr)
        return error.code
    except Lost as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0

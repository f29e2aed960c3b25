"""The command train: from what the user asked to one run a seed."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import fastgmtl
from fastgmtl import distributed
from fastgmtl.cli import checkpoint, options, picture, report
from fastgmtl.cli.errors import CliError, unknown
from fastgmtl.cli.folder import check, make, read_json, write_json
from fastgmtl.cli.run import Plan, Run, Stop, again, launcher
from fastgmtl.data import names
from fastgmtl.distributed import World
from fastgmtl.methods import METHODS, MODES

INTERRUPTED = 130
DEFAULTS: dict[str, Any] = {"method": "shared", "data": "debian", "seed": 0, "seeds": 1}


@dataclass(frozen=True)
class Request:
    """The options as given; None where one was left out."""

    method: str | None
    data: str | None
    seed: int | None
    seeds: int | None
    device: str | None
    threads: int | None
    settings: tuple[str, ...]
    out: Path | None
    resume: bool
    overwrite: bool
    dist: str | None = None


def train(console: Console, request: Request) -> int:
    """Train as asked. Returns the exit code: 0, or 130 when interrupted."""
    if request.resume and request.overwrite:
        raise CliError("--resume and --overwrite: one of them, not both")
    out = request.out or _default_out(request)
    world = distributed.join(torch.device(_device(request.device or "auto")))
    try:
        return _train(console, request, out, world)
    finally:
        distributed.leave()


def _train(console: Console, request: Request, out: Path, world: World) -> int:
    plan = world.lead(lambda: _checked(request, out, world))
    torch.set_num_threads(plan.threads)
    with Stop(console) as stop:
        try:
            code = _runs(console, plan, out, stop, request, world)
        except KeyboardInterrupt:
            _say(console, "interrupted")
            code = INTERRUPTED
        except RuntimeError as error:
            if (lost := distributed.lost(world, error)) is None:
                raise
            raise distributed.Lost(f"{lost}; to go on: {_to_go_on(plan, out, world)}") from None
    if code and (out / "config.json").exists():
        _say(console, f"to go on: {_to_go_on(plan, out, world)}")
    return code


def _to_go_on(plan: Plan, out: Path, world: World) -> str:
    return shlex.join([*launcher(plan.dist, world.size), "--resume", "--out", str(out)])


def _checked(request: Request, out: Path, world: World) -> Plan:
    """The plan. Nothing is changed."""
    plan = resolve(request, out)
    check(out, request.resume, request.overwrite)
    if plan.dist is None and world.size > 1:
        raise CliError(f"--dist: {world.size} processes need a way to share the work: {', '.join(MODES)}")
    if plan.dist is not None:
        able = [name for name, method in METHODS.items() if plan.dist in method.modes]
        if plan.method not in able:
            raise CliError(f"--dist {plan.dist}: {plan.method} cannot be trained so; these can: {', '.join(able)}")
    return plan


def resolve(request: Request, out: Path) -> Plan:
    """Fill in what was left out: from the run in the folder when resuming, else the defaults."""
    stored = _stored(out) if request.resume else {}
    asked = {key: getattr(request, key) for key in DEFAULTS}
    values = {key: _first(asked[key], stored.get(key), DEFAULTS[key]) for key in DEFAULTS}
    if values["method"] not in METHODS:
        raise unknown("--method", values["method"], METHODS)
    if values["seeds"] < 1:
        raise CliError(f"--seeds: at least 1 is required, got {values['seeds']}")
    if not 0 <= values["seed"] < 2**63:
        raise CliError(f"--seed: 0 or more is required, got {values['seed']}")
    values["data"] = _data(values["data"])
    dist = request.dist or stored.get("dist")
    if dist is not None and dist not in MODES:
        raise unknown("--dist", dist, MODES)
    same_method = values["method"] == stored.get("method")
    config = options.parse(
        METHODS[values["method"]].config_type, request.settings, stored.get("config") if same_method else None
    )
    plan = Plan(
        **values,
        device=_device(_first(request.device, stored.get("device"), "auto")),
        threads=_threads(_first(request.threads, stored.get("threads"), torch.get_num_threads())),
        config=config,
        version=fastgmtl.__version__,
        dist=dist,
    )
    wrong = checkpoint.differences(stored, plan.describe()) if stored else []
    if wrong:
        raise CliError(f"--resume: {out} holds another run:\n  " + "\n  ".join(wrong))
    return plan


def _runs(console: Console, plan: Plan, out: Path, stop: Stop, request: Request, world: World) -> int:
    """One run, or one a seed. Nothing is written before the data is read and the model built."""
    outcomes: list[report.Results] = []
    histories, constants = [], []
    sources: dict[str, None] = {}  # each once, in order
    for seed in range(plan.seed, plan.seed + plan.seeds):
        path = out / f"seed{seed}" if plan.seeds > 1 else out
        run = Run(console, dataclasses.replace(plan, seed=seed, seeds=1), path, world)
        if not outcomes and run.leads:
            _say(console, run.dataset.summary() + "\n")
            make(out, request.overwrite)
            if plan.seeds > 1:
                write_json(out / "config.json", plan.describe())
        if not run.train(stop, request.resume):
            _say(console, f"interrupted after epoch {run.trainer.epoch}; checkpoint {path / 'last.pt'}")
            return INTERRUPTED
        outcomes.append(run.finish())
        sources[run.dataset.source] = None
        histories.append(run.logs.history())
        constants.append(run.constants())
        report.show(console, outcomes[-1])
    if plan.seeds > 1 and run.leads:
        result = report.merged(outcomes)
        described = {**plan.describe(), "dataset": {"source": "; ".join(sources)}}
        report.write(out, result, described, again(plan, out, world.size))
        mean = {name: sum(c[name] for c in constants) / len(constants) for name in constants[0]}
        title = f"{plan.method} on {plan.data}, {plan.seeds} seeds: mean and deviation"
        picture.draw(out / "curves.png", title, run.dataset.tasks, histories, mean)
        report.show(console, result)
    _say(console, report.NOTE)
    _say(console, f"picture     {out / 'curves.png'}")
    _say(console, f"report      {out / 'report.md'}")
    _say(console, f"checkpoint  {path / 'best.pt'}")
    return 0


def _default_out(request: Request) -> Path:
    method, data = request.method or DEFAULTS["method"], request.data or DEFAULTS["data"]
    return Path("results") / f"{method}-{Path(data).name.replace(':', '-')}"


def _stored(out: Path) -> dict[str, Any]:
    path = out / "config.json"
    if not path.exists():
        raise CliError(f"--resume: there is no run in {out} (no config.json); leave --resume out")
    stored = read_json(path)
    optional = {"dist"}  # what a run of one process does without
    missing = [field.name for field in dataclasses.fields(Plan) if field.name not in {*stored, *optional}]
    if missing:
        raise CliError(f"{path} lacks {', '.join(missing)}: it is not the config.json of a run")
    return stored


def _data(name: str) -> str:
    """The name; a folder or file as a full path, so that a run can go on from anywhere."""
    if name.startswith("stored:"):
        return f"stored:{Path(name.removeprefix('stored:')).resolve()}"
    return str(Path(name).resolve()) if name not in names() and Path(name).exists() else name


def _device(text: str) -> str:
    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise unknown("--device", text, ("auto", "cpu", "cuda")) from None
    if device.type not in ("cpu", "cuda"):
        raise unknown("--device", text, ("auto", "cpu", "cuda"))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CliError(f"--device: {text} is not there, PyTorch sees {torch.cuda.device_count()} GPUs; take cpu")
    return text


def _threads(number: int) -> int:
    if number < 1:
        raise CliError(f"--threads: at least 1 is required, got {number}")
    return number


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _say(console: Console, text: str) -> None:
    """Print as it is: no markup, no colours, no wrapping of paths and commands."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)

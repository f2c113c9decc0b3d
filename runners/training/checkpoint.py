"""A training on disk, so that it can go on after its process has ended: one safetensors file, whole or not there.

    <folder>/<trial_id>-<precision>.safetensors
        model.<parameter>             as trained, fp32; a tied head is the embedding and stored once
        optimizer.<key>.<parameter>   the optimizer's state: AdamW's step and moments, Muon's momentum
        losses                        (step,) float64, each step's mean training loss in nats
        metadata                      `Header` as JSON

Where the data stands isn't stored: the order of windows follows from the seed, their number from the step. So a
training that goes on from here takes the same steps as one that was never interrupted, bit for bit on a CPU.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.runners.data.inventory import fingerprint
from sweeper.values.errors import UsageError
from sweeper.values.records import Config, Job
from sweeper.values.run_folder import replacing
from sweeper.values.schedule import Branch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sweeper.runners.training.training import Training

FORMAT = 1
"""Raised when the same file would be read as something else."""
PARTS = 10
"""Checkpoints of a training, unless told otherwise."""
_KEY = "sweeper"
_MODEL, _OPTIMIZER, _LOSSES = "model.", "optimizer.", "losses"
_DATA = "data_fingerprint"


@dataclass(frozen=True, kw_only=True)
class Header:
    """Whose training a checkpoint is and how far it had come: `step` of `steps`, after `seconds` of each clock.

    `branches` are those that it has taken, the fields of `sweeper.values.schedule.Branch`.
    """

    config: Mapping[str, Any]
    config_id: str
    seed: int
    precision: str
    step: int
    steps: int
    seconds: Mapping[str, float]
    data_fingerprint: str
    branches: Sequence[Mapping[str, Any]] = ()
    format: int = FORMAT

    @property
    def finished(self) -> bool:
        """Whether every step of the training was taken."""
        return self.step == self.steps


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where a run's checkpoints are, how often they're written, whether a training goes on from one.

    `every` in steps; None: about PARTS times in a training. The last step is always followed by one.
    """

    folder: Path
    every: int | None = None
    resume: bool = False

    def path(self, job: Job) -> Path:
        """The checkpoint of a job. A second try at another precision has its own."""
        return self.folder / f"{job.trial_id}-{job.precision}.safetensors"

    def last(self, job: Job, *, data_fingerprint: str) -> Saved | None:
        """What the job goes on from: None where it wasn't to, or nothing whole is there.

        A further attempt after a failure goes on from what an earlier one has left. UsageError: the checkpoint is
        that of another training, or its data has changed.
        """
        if not self.resume and job.attempt == 1:
            return None
        path = self.path(job)
        header = read_header(path)
        if header is None:
            return None
        checked(
            path,
            header,
            config_id=job.config.config_id,
            seed=job.seed,
            precision=job.precision,
            steps=job.steps,
            data_fingerprint=data_fingerprint,
        )
        return Saved(path=path, header=header)

    def of(self, config: Config) -> list[tuple[Path, Header]]:
        """The whole checkpoints of a config's trainings, with their headers, by name."""
        found = [(path, read_header(path)) for path in sorted(self.folder.glob(f"{config.config_id}-s*.safetensors"))]
        return [(path, header) for path, header in found if header is not None]

    def cut(self, segments: Sequence[int], *, start: int) -> list[int]:
        """Steps between two looks at the clock, from step `start`, cut where a checkpoint is due."""
        ends = {start + sum(segments[: index + 1]) for index in range(len(segments))}
        last = max(ends, default=start)
        if self.every is not None:
            ends |= set(range(start - start % self.every + self.every, last, self.every))
        whole = [start, *sorted(ends)]
        return [after - before for before, after in itertools.pairwise(whole)]

    def due(self, step: int, *, steps: int) -> bool:
        """Whether a checkpoint follows step `step` (counted from 1) of `steps`."""
        if step == steps:
            return True
        return step % self.every == 0 if self.every else step * PARTS >= steps

    def save(
        self,
        training: Training,
        *,
        losses: Sequence[float],
        branches: Sequence[Branch],
        seconds: Mapping[str, float],
        data_fingerprint: str,
    ) -> None:
        """Write the training's checkpoint: the earlier one stays until this one is on disk, all of it.

        CantWrite or OSError where it can't be written.
        """
        import torch

        job = training.job
        header = Header(
            config=job.config.to_dict(),
            config_id=job.config.config_id,
            seed=job.seed,
            precision=job.precision,
            step=training.step_index,
            steps=job.steps or 0,
            seconds=dict(seconds),
            data_fingerprint=data_fingerprint,
            branches=[asdict(branch) for branch in branches],
        )
        tensors = {**_state(training), _LOSSES: torch.tensor(losses, dtype=torch.float64)}
        path = self.path(job)
        with replacing(path, alone=True) as temporary:
            save_tensors(tensors, temporary, metadata={_KEY: json.dumps(asdict(header))})


def save_tensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: dict[str, str]) -> None:
    """Write `path` as a safetensors file. OSError where it can't be written, with the system's number for why."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))  # I/O error: No space left on device (os error 28)
        raise OSError(int(found[1]), os.strerror(int(found[1]))) if found else OSError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that a job goes on from."""

    path: Path
    header: Header

    @property
    def branches(self) -> list[Branch]:
        """Those that the training had taken."""
        return [Branch(**branch) for branch in self.header.branches]

    def load_into(self, training: Training) -> list[float]:
        """Set a freshly built training to where this one stood; its losses so far, in nats.

        Raises RuntimeError where the checkpoint's tensors aren't those of the training.
        """
        from safetensors.torch import load_file

        tensors = load_file(self.path)
        losses: list[float] = tensors.pop(_LOSSES).tolist()
        _load_parameters(training.model, tensors)
        states: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(_OPTIMIZER):
                key, _, parameter = name.removeprefix(_OPTIMIZER).partition(".")
                states.setdefault(parameter, {})[key] = tensor
        _load_optimizer(training, states)
        training.step_index = self.header.step
        return losses


def _state(training: Training) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in training.model.named_parameters()}
    tensors = {f"{_MODEL}{name}": parameter.detach().contiguous() for parameter, name in names.items()}
    for parameter, state in training.optimizer.state.items():
        for key, value in state.items():
            tensors[f"{_OPTIMIZER}{key}.{names[parameter]}"] = value.detach().contiguous()
    return tensors


def _load_parameters(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    import torch

    own = dict(model.named_parameters())
    saved = {name.removeprefix(_MODEL): value for name, value in tensors.items() if name.startswith(_MODEL)}
    shapes = {name: tuple(value.shape) for name, value in saved.items()}
    if shapes != {name: tuple(value.shape) for name, value in own.items()}:
        raise RuntimeError("the checkpoint's parameters aren't those of the model as built")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved[name])


def _load_optimizer(training: Training, states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Through the optimizer's own `load_state_dict`, which knows on which device each of its tensors belongs."""
    names = {parameter: name for name, parameter in training.model.named_parameters()}
    optimizer = training.optimizer
    own = optimizer.state_dict()
    numbered = [number for group in own["param_groups"] for number in group["params"]]
    named = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state = {number: dict(states[name]) for number, name in zip(numbered, named, strict=True) if name in states}
    optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})


def read_header(path: Path) -> Header | None:
    """A checkpoint's header; None where there is no file, or not all of it. UsageError: it's something else."""
    contents = _contents(path)
    if contents is None:
        return None
    try:
        plain = json.loads(contents["__metadata__"][_KEY])
        if plain["format"] != FORMAT:
            raise UsageError(f"{path}: a checkpoint of format {plain['format']}, this version reads {FORMAT}")
        return Header(**plain)
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{path}: not a checkpoint that sweeper has written; move it away") from None


def _contents(path: Path) -> dict[str, Any] | None:
    """The JSON at the start of a safetensors file, which says where each tensor lies; None unless all is there."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                return None
            contents: dict[str, Any] = json.loads(file.read(length))
    except FileNotFoundError:
        return None
    except ValueError:
        return None
    ends = [entry["data_offsets"][1] for name, entry in contents.items() if name != "__metadata__"]
    return contents if 8 + length + max(ends, default=0) == size else None


def parameters_of(path: Path) -> dict[str, Tensor]:
    """A checkpoint's parameters under the model's own names."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(_MODEL)]  # noqa: SIM118, it has no __iter__
        return {name.removeprefix(_MODEL): file.get_tensor(name) for name in names}


def checked(path: Path, header: Header, **expected: object) -> tuple[Path, Header]:
    """The same, or UsageError where the header's fields aren't those expected of it."""
    found = {name: getattr(header, name) for name in expected}
    if differing := [name for name in expected if found[name] != expected[name] and name != _DATA]:
        said = ", ".join(f"{name} {found[name]}, not {expected[name]}" for name in differing)
        raise UsageError(f"{path}: the checkpoint of another training ({said}): move it away, or leave --resume out")
    if _DATA in expected and found[_DATA] != expected[_DATA]:
        raise UsageError(
            f"{path}: the data has changed since this checkpoint was written (fingerprint {found[_DATA]}, now "
            f"{expected[_DATA]}): bring the old data back, or leave --resume out to begin anew"
        )
    return path, header


def outlook(checkpoints: Checkpoints, config: Config, *, settled: Container[str], data_path: str | None) -> list[str]:
    """What is left of a config's earlier trainings but the `settled` ones, and what becomes of it: a sentence each.

    UsageError: one is that of another training, or is to be gone on with and its data has changed.
    """
    said = []
    for path, header in checkpoints.of(config):
        trial_id = f"{config.config_id}-s{header.seed}"
        checked(path, header, config_id=config.config_id, seed=int(path.name.split("-")[1].removeprefix("s")))
        if trial_id in settled:
            continue
        at = f"seed {header.seed} ({header.precision}) has come to step {header.step:,} of {header.steps:,}"
        if checkpoints.resume:
            shape, recipe = config.ours
            now = fingerprint(recipe.data, data_path, shape.vocab_size)
            checked(path, header, data_fingerprint=now)
            said.append(f"{at}, and goes on from there")
        else:
            said.append(f"{at}; it begins anew, --resume would go on from there")
    if checkpoints.resume and not said:
        said.append("no checkpoint to go on from: what is missing begins at its first step")
    return said

"""How speed and memory go with layers, width, FFN and micro-batch: the claims of the guide that sweeper replaces.

    python benchmarks/guide/guide_scaling.py [--device cpu|cuda] [--scale small|guide|toy] [--precision P] [--rounds N]
                                       [--axes AXIS,…] [--minutes N] [--out FILE]

One thing at a time is varied about a base, at equal tokens per optimizer step. Every point is a speed job (a study's
probe) in a process of its own, in an order that is shuffled anew in each round, so that drift of the machine isn't
taken for scaling. The same command again goes on where the last one ended, with more `--rounds` too; a round that isn't
whole doesn't count. `guide_audit.py` reads the record.

Memory is what the job takes on its device. CUDA: the peak that torch's allocator has reserved, which has no CUDA
context in it. CPU: the peak of the process's resident memory less that just before the job, when the process has
trained a tiny model and let go of it, so that libraries and compiler are in both; another process has compiled the
point's kernels before, so that all rounds load them alike. The two aren't the same: a CPU's holds what compiled code
takes and what glibc keeps of freed memory. Beside it stands what `sweeper plan` predicts, which counts tensors alone.

Every point accumulates gradients over two micro-batches at least: with one there are no gradients yet while
activations are at their peak, and memory would fall where the micro-batch reaches the whole step.

Exit codes: 0 measured, or out of time · 2 wrong arguments, or no such device · 4 something failed · 130 interrupted.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "guide")]

from gpu import source_digest  # noqa: E402
from gpu_steps import harness  # noqa: E402
from gpu_steps.rows import Rows, Task  # noqa: E402
from gpu_steps.scale import PRECISIONS  # noqa: E402
from provenance import RESULTS, provenance  # noqa: E402

SETTINGS = "settings.json"
BASE = "base"
DESCRIPTION = {
    "cuda": "peak reserved by torch's allocator",
    "cpu": "peak resident memory of the process less that before the job, after a tiny model's in the same process",
}
SECONDS = {"cpu": 45.0, "cuda": 40.0}
"""Of one point, roughly."""
KEPT = ("status", "tokens_per_s", "low", "high", "step_ms", "peak_memory_bytes", "predicted_bytes", "shape",
        "batch_size", "grad_accum_steps", "seconds")  # fmt: skip
SURROUNDINGS = ("load_average", "threads", "precision", "graph_breaks", "attention", "device_state", "notes")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A base and the sizes tried about it, one axis at a time. FFN is int(8/3 · d_model) where the width is varied."""

    d_model: int
    n_layers: int
    head_dim: int
    kv_groups: int
    vocab_size: int
    seq_len: int
    batch_size: int
    tokens_per_step: int
    compile: bool
    sizes: Mapping[str, Sequence[int]]

    def shape(self, axis: str = "", size: int = 0) -> dict[str, Any]:
        """`sweeper.model.shape` fields of a point."""
        names = ("d_model", "n_layers", "head_dim", "kv_groups", "vocab_size")
        fields = {**{name: getattr(self, name) for name in names}, "tie_embeddings": False}
        return fields | ({axis: size} if axis not in ("", "batch_size") else {})

    def base(self) -> dict[str, int]:
        """The base's size on every axis."""
        return {
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "ffn_hidden": self.d_model * 8 // 3,
            "batch_size": self.batch_size,
        }

    def points(self, axes: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Label → (axis, size); the base stands for all axes and is measured once."""
        found = {BASE: ("", 0)}
        for axis in axes:
            found |= {f"{axis} {size}": (axis, size) for size in self.sizes[axis] if size != self.base()[axis]}
        return found


SCALES = {
    # The guide's own main configuration.
    "guide": Scale(
        d_model=768, n_layers=32, head_dim=64, kv_groups=3, vocab_size=32768, seq_len=1024, batch_size=8,
        tokens_per_step=98304, compile=True,
        sizes={"n_layers": (8, 16, 32, 48), "d_model": (384, 576, 768, 960, 1152),
               "ffn_hidden": (1024, 2048, 3072, 4096), "batch_size": (1, 2, 4, 8, 16)},
    ),
    # As large a part of its memory is activations as of the guide's.
    "small": Scale(
        d_model=192, n_layers=8, head_dim=32, kv_groups=3, vocab_size=4096, seq_len=128, batch_size=8,
        tokens_per_step=4096, compile=True,
        sizes={"n_layers": (2, 4, 8, 16), "d_model": (96, 192, 288, 384, 480),
               "ffn_hidden": (256, 512, 1024, 2048), "batch_size": (1, 2, 4, 8, 16)},
    ),
    # A test of this command.
    "toy": Scale(
        d_model=48, n_layers=1, head_dim=16, kv_groups=3, vocab_size=256, seq_len=32, batch_size=2,
        tokens_per_step=256, compile=False,
        sizes={"n_layers": (1, 4), "d_model": (48, 96), "ffn_hidden": (128, 256), "batch_size": (2, 4)},
    ),
}  # fmt: skip

TINY = {"n_layers": 1, "d_model": 32, "head_dim": 16, "kv_groups": 2, "ffn_hidden": 64, "vocab_size": 64,
        "tie_embeddings": True}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what isn't measured yet; the exit code."""
    asked = _parsed(arguments)
    # Points are found by their processes in the same places.
    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:3], os.environ.get("PYTHONPATH", "")])
    harness.PROCESSES.set_forkserver_preload(harness.PRELOADED)
    device_name, lacking = harness.asked_device(asked.device)
    if lacking:
        return _wrong(lacking)
    head = {"device": device_name, "settings": settings(asked), "memory": DESCRIPTION[asked.device]}
    try:
        report = opened(asked.out, head)
    except ValueError as error:
        return _wrong(f"{error}: --out names another file")
    report.begin({**provenance("torch", "numpy"), "source": source_digest(), "minutes": asked.minutes})
    steps = planned(SCALES[asked.scale], asked.axes, rounds=asked.rounds, device=asked.device)
    with tempfile.TemporaryDirectory(prefix="sweeper-scaling-") as folder:
        (Path(folder) / SETTINGS).write_text(json.dumps(head["settings"]))
        task = Task(
            device=asked.device, device_name=device_name, folder=folder, source=source_digest(),
            deadline=time.monotonic() + 60 * asked.minutes,
        )  # fmt: skip
        harness.run_steps(steps, report, task)
    return 4 if harness.failed(report, steps) else 0


def settings(asked: argparse.Namespace) -> dict[str, Any]:
    """What figures depend on, as the record keeps it."""
    scale = SCALES[asked.scale]
    return json.loads(
        json.dumps(
            {
                "device": asked.device,
                "scale": asked.scale,
                "precision": asked.precision,
                **asdict(scale),
                "base": scale.base(),
            }
        )
    )


def opened(path: Path, head: Mapping[str, Any]) -> harness.Report:
    """The record at `path`, to be gone on with. ValueError where it is one of other settings or of another device."""
    report = harness.Report(path, head)
    if path.exists() and (before := json.loads(path.read_text()).get("settings")) != head["settings"]:
        raise ValueError(f"{path} was measured with other settings ({before})")
    return report


def planned(scale: Scale, axes: Sequence[str], *, rounds: int, device: str) -> list[harness.Step]:
    """Every point once in each round, in an order that is the round's own."""
    steps = []
    for number in range(1, rounds + 1):
        labels = list(scale.points(axes))
        random.Random(number).shuffle(labels)
        steps += [
            harness.Step(
                name=step_name(label, number),
                what="one point",
                function="guide_scaling:measure",
                seconds={device: SECONDS[device]},
            )
            for label in labels
        ]
    return steps


def step_name(label: str, number: int) -> str:
    """The key of a point's measurement in a round."""
    return f"round {number}: {label}"


def measure(rows: Rows) -> None:
    """The process of one point."""
    told = json.loads((rows.folder / SETTINGS).read_text())
    scale = SCALES[told["scale"]]
    axis, size = scale.points(tuple(scale.sizes))[rows.task.step.partition(": ")[2]]
    rows.add("point", lambda: figures_at(rows, scale, told["precision"], axis, size))


def figures_at(rows: Rows, scale: Scale, precision: str, axis: str, size: int) -> dict[str, Any]:
    """Speed and memory of one point."""
    from gpu_steps.jobs import Bench, figures, outcome

    from sweeper.runners.device.host_memory import return_freed_memory
    from sweeper.runners.device.memory import resident_bytes

    bench = Bench(rows)
    job = bench.job(
        scale.shape(axis, size), precision, batch_size=size if axis == "batch_size" else scale.batch_size,
        tokens_per_step=scale.tokens_per_step, seq_len=scale.seq_len, compile=scale.compile,
    )  # fmt: skip
    before = 0
    if rows.task.device == "cpu":
        tiny = bench.job(TINY, precision, batch_size=1, tokens_per_step=64, seq_len=32, compile=scale.compile)
        in_a_fork(lambda: train_briefly(tiny, bench.device), lambda: train_briefly(job, bench.device))
        train_briefly(tiny, bench.device)
        gc.collect()
        return_freed_memory()
        before = resident_bytes()
    found = figures(outcome(job))
    peak = found["peak_memory_bytes"]
    return {
        **{name: found[name] for name in KEPT if name in found},
        "before_bytes": before,
        "memory_bytes": None if peak is None else peak - before,
        "environment": {name: found["environment"].get(name) for name in SURROUNDINGS},
    }


def in_a_fork(*functions: Callable[[], None]) -> None:
    """Call functions in a process forked from this one: what they leave on disk stays, their memory doesn't.

    So kernels are compiled already when memory is measured, in the first round as in later ones.
    """
    child = os.fork()
    if child == 0:
        try:
            for function in functions:
                function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"the process that compiles ended with status {status}: see above")


def train_briefly(job: Any, device: Any) -> None:
    """One step of a job's training, which is then let go of."""
    from sweeper.runners.data.dataset import open_data, train_batches
    from sweeper.runners.device.compile_cache import use_compile_cache
    from sweeper.runners.device.host_memory import keep_freed_memory
    from sweeper.runners.training.between_jobs import clear_up
    from sweeper.runners.training.training import build_training

    keep_freed_memory()
    use_compile_cache(device)
    recipe, batch_size = job.config.recipe, job.execution.batch_size
    dataset = open_data(recipe.data, job.data_path, job.config.shape.vocab_size)
    batches = train_batches(dataset, seed=0, batch_size=batch_size, seq_len=recipe.seq_len, device=device)
    training = build_training(job=job, device=device, batches=batches)
    training.timed_steps(1)
    batches.close()
    del training
    clear_up(device, ended=True)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--scale", choices=tuple(SCALES), help="default: guide on cuda, small on cpu")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), help="default: bf16 on cuda, fp32 on cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--axes", type=_axes, default=tuple(SCALES["guide"].sizes), help="default: all four")
    parser.add_argument("--minutes", type=float, default=60.0, help="no point begins later (default 60)")
    parser.add_argument("--out", type=Path, help="default: guide_scaling_DEVICE.json in benchmarks/results")
    asked = parser.parse_args(arguments)
    cuda = asked.device == "cuda"
    asked.scale = asked.scale or ("guide" if cuda else "small")
    asked.precision = asked.precision or ("bf16" if cuda else "fp32")
    asked.out = asked.out or RESULTS / f"guide_scaling_{asked.device}.json"
    return asked


def _axes(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    known = tuple(SCALES["guide"].sizes)
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"no axis {', '.join(unknown)}: there are {', '.join(known)}")
    return names


def _wrong(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

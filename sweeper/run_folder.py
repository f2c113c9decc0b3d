"""Every path of a run folder, in one place: `runs/<study>/<profile>/`."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where one study under one profile keeps what was asked and measured."""

    root: Path

    @classmethod
    def of(cls, *, out: Path, study: str, profile: str) -> RunFolder:
        """The folder of `study` under `profile` below `out` (usually `runs`)."""
        return cls(root=(out / study / profile).absolute())

    @property
    def study(self) -> Path:
        """The study as resolved."""
        return self.root / "study.yaml"

    @property
    def plan(self) -> Path:
        """What `sweeper plan --json` prints."""
        return self.root / "plan.json"

    @property
    def ledger(self) -> Path:
        """The source of truth."""
        return self.root / "ledger.jsonl"

    @property
    def frontier(self) -> Path:
        """The frontier as JSON."""
        return self.root / "frontier.json"

    @property
    def comparison(self) -> Path:
        """Several results side by side, as JSON."""
        return self.root / "comparison.json"

    @property
    def figure(self) -> Path:
        """The frontier drawn."""
        return self.root / "frontier.png"

    @property
    def vector_figure(self) -> Path:
        """The same without its title, for a paper."""
        return self.root / "frontier.svg"

    @property
    def report(self) -> Path:
        """The self-contained page."""
        return self.root / "report.html"

    @property
    def logs(self) -> Path:
        """One file per job: what the job itself printed."""
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        """One file per training that `sweeper train` may go on with."""
        return self.root / "checkpoints"

    @property
    def models(self) -> Path:
        """One folder per finished training of `sweeper train`, as Hugging Face has models."""
        return self.root / "hf"

    @property
    def lock(self) -> Path:
        """Held (flock) by the one driver that may write here."""
        return self.root / ".lock"

    @property
    def tracking_lock(self) -> Path:
        """Held (flock) by the one process that writes this folder's runs to MLflow."""
        return self.root / ".mlflow.lock"


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old or the new file, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)

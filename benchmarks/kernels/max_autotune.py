"""What Inductor's max-autotune brings to a trial's speed, and what it costs in compile time.

    python benchmarks/kernels/max_autotune.py [--device cpu|cuda] [--windows N] [--out FILE]

The shapes, the turns and the intervals are those of `benchmarks/trial_vs_peers.py`; both compile from empty caches.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from provenance import RESULTS, provenance
from trial_vs_peers import SHAPES, add_setting_options, compare, first_step, task_of, write_shards


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_setting_options(parser)
    parser.add_argument("--out", type=Path, default=RESULTS / "max_autotune.json")
    arguments = parser.parse_args()
    settings = {key: value for key, value in vars(arguments).items() if key != "out"}
    result: dict[str, Any] = {**provenance("torch", "triton", "numpy"), "settings": settings, "shapes": {}}
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(Path(folder) / "shards")
        first_step("autotuned", task_of(SHAPES["middle"], arguments, shards), cache=Path(folder) / "not-counted")
        for name in arguments.shapes.split(","):
            task = task_of(SHAPES[name], arguments, shards)
            found = compare(task, folder=Path(folder) / name, windows=arguments.windows, names=("sweeper", "autotuned"))
            result["shapes"][name] = found
            print(name, json.dumps({key: found[key] for key in ("ratios", "first_step_s")}), flush=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

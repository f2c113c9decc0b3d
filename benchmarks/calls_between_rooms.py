"""Calls that go up: one config is trained in-process, and each call from a room to one above it is counted.

    python benchmarks/calls_between_rooms.py [--source FOLDER] [--rooms FILE] [--out FILE]

A call is one of Python's own, in any thread, from code of one room to code of another; what a caller was handed counts
where it stands, so that callbacks are seen too. `--source` is the checkout that is traced (this one), `--rooms` a JSON
object of the rooms of its modules, where they don't lie in folders of these names. Runners and the model are in no
order with the rooms: calls from and to them aren't counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from provenance import RESULTS, ROOT, provenance

LEVEL = {"stats": 1, "ledger": 1, "recommend": 7, "compare": 7, "tracking": 8, "report": 8} | {
    "values": 0, "study": 2, "planning": 3, "measurements": 4, "search": 5, "frontier": 6, "running": 9, "commands": 10
}  # fmt: skip
STUDY = """\
name: traced
model: {vocab_size: 256, d_model: 32, head_dim: 16, n_kv_heads: 1, tie_embeddings: true, ffn_hidden: 64}
axes: {n_layers: [1]}
trial: {data: text, tokens: 2k, seq_len: 64, batch_size: 4, precision: fp32, compile: false, eval_tokens: 4096}
"""
TRACED = """
import collections, json, os, sys, threading
source, rooms, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
sys.path.insert(0, source)
package = os.path.join(os.path.realpath(source), "sweeper") + os.sep
levels, known, counts = json.loads(sys.argv[4]), {}, collections.Counter()

def room(code):
    name = code.co_filename
    if name not in known:
        path = os.path.realpath(name)
        module = path[len(package):].removesuffix(".py").replace(os.sep, ".") if path.startswith(package) else ""
        known[name] = rooms.get(module, module.partition(".")[0]) if module else ""
        known[name] = known[name] if known[name] in levels else ""
    return known[name]

def seen(frame, event, argument):
    if event == "call" and frame.f_back is not None:
        called, caller = room(frame.f_code), room(frame.f_back.f_code)
        if called and caller:
            up = levels[called] > levels[caller]
            counts["up" if up else "within" if called == caller else "down"] += 1
            if up:
                counts[caller + " -> " + called] += 1

if os.path.exists(package + "cli.py"):  # a checkout from before the rooms
    from sweeper.cli import main
else:
    from sweeper.commands.main import main
threading.setprofile(seen)
sys.setprofile(seen)
code = main(["run", "study.yaml", "--runner", "in-process"])
sys.setprofile(None)
json.dump({"code": code, **counts}, open(out, "w"))
"""


def traced(source: Path, rooms: dict[str, str]) -> dict[str, int]:
    """The calls by direction, and those that go up by their rooms."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "study.yaml").write_text(STUDY)
        (folder / "text").mkdir()
        for number in range(40):
            (folder / "text" / f"{number}.txt").write_text(f"text {number} " * 400)
        program = [sys.executable, "-c", TRACED, str(source), json.dumps(rooms), "counts.json", json.dumps(LEVEL)]
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        subprocess.run(program, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, int] = json.loads((folder / "counts.json").read_text())
    if found.pop("code"):
        raise SystemExit("the traced run failed")
    return dict(sorted(found.items(), key=lambda item: (" " in item[0], -item[1])))


def main() -> None:
    """Trace, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=ROOT)
    parser.add_argument("--rooms", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "calls_between_rooms.json")
    asked = parser.parse_args()
    rooms = json.loads(asked.rooms.read_text()) if asked.rooms else {}
    found = traced(asked.source.resolve(), rooms)
    print(json.dumps(found, indent=2))
    asked.out.write_text(json.dumps({**provenance(), "rooms": rooms, "calls": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

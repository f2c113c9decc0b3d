"""How long 100,000 ledger lines take to read, and what they hold in memory: typed, and as dicts by the reader before.

    python benchmarks/scale/read_ledger.py [--lines 100000] [--rounds 5] [--out FILE]

The lines are those of the recorded ledgers, again and again, each time with recipes of their own, so that configs are
as many as in ledgers of that length. The two readers take turns, each in a process of its own: CPU seconds of reading,
and by how much the process has grown when all is read (and at its peak). The reader before is that of commit 84be6f6.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from provenance import RESULTS, ROOT, provenance

READ = """
import gc, json, os, resource, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from sweeper.ledger import file
from sweeper.values.errors import DamagedLedger

def ids(record):
    return {"probe_id", "config_id"} if record["type"] in ("asked", "speed", "final", "failed") else set()

def before(path):
    lines = path.read_bytes().split(b"\\n")[:-1]
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DamagedLedger(f"{path}:{number}: not a JSON line ({error}); mend or remove this line") from None
        if not isinstance(record, dict) or "type" not in record or not ids(record) <= record.keys():
            raise DamagedLedger(f"{path}:{number}: not a ledger record; mend or remove this line")
        records.append(record)
    return records

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

path, read = Path(sys.argv[2]), {"before": before, "typed": file.read}[sys.argv[3]]
own = resident()
began = time.process_time()
lines = read(path)
seconds = time.process_time() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"lines": len(lines), "seconds": seconds, "bytes": resident() - own, "peak_bytes": peak - own}))
"""
READERS = ("before", "typed")


def write_lines(path: Path, count: int) -> dict[str, int]:
    """So many lines into `path`; how many there are of each type."""
    recorded = [line for found in sorted(RESULTS.glob("*/ledger.jsonl")) for line in found.read_text().splitlines()]
    types: dict[str, int] = {}
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            again, place = divmod(number, len(recorded))
            line = recorded[place].replace('"tokens_per_step": ', f'"tokens_per_step": {again + 1}')
            kind = json.loads(line)["type"]
            types[kind] = types.get(kind, 0) + 1
            file.write(line + "\n")
    return types


def measure(path: Path, reader: str) -> dict[str, float]:
    """One reading, in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", READ, str(ROOT), str(path), reader], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "read_ledger.json")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        types = write_lines(path, asked.lines)
        size = path.stat().st_size
        rounds = [{reader: measure(path, reader) for reader in READERS} for _ in range(asked.rounds)]
    what = ("seconds", "bytes", "peak_bytes")
    medians = {reader: {name: median(one[reader][name] for one in rounds) for name in what} for reader in READERS}
    result = {
        "lines": asked.lines,
        "types": types,
        "file_bytes": size,
        "median": medians,
        "typed ÷ before": {name: median(one["typed"][name] / one["before"][name] for one in rounds) for name in what},
        "rounds": rounds,
        "provenance": provenance("msgspec"),
    }
    asked.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "rounds"}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()

"""Where containers put a study (`container.sh`): the README's ten lines and their report end as they should.

Only root can make such a place. The small form has one shape, one seed and few tokens.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ledger_lines import plain_lines
from tiny_study import write_text

ROOT = Path(__file__).parents[3]
CONTAINER = Path(__file__).with_name("container.sh")
SMALLER = {
    "n_layers: [1, 2, 4]": "n_layers: [1]",
    "tokens: 0.3M, seq_len": "tokens: 20k, seq_len",
    "seeds: 3, eval_tokens: 131072": "seeds: 1, eval_tokens: 8192",
}
COMMANDS = {
    "cores": "python -c 'from sweeper.values.machine import cpu_count; print(cpu_count())'",
    "plan": "sweeper plan first.yaml",
    "wide_plan": "env COLUMNS=120 sweeper plan first.yaml",
    "run": "sweeper run first.yaml",
    "report": "sweeper report first.yaml",
    "homeless_plan": "env -u HOME sweeper plan first.yaml",
    "homeless_run": "env -u HOME sweeper run homeless.yaml {runner} --out homeless",
    "home_that_cant_be_written": "env HOME=/ sweeper run tiny.yaml --out closed_home",
    "cache_that_cant_be_written": (
        "env SWEEPER_CACHE_DIR=/nowhere sweeper run tiny.yaml --runner in-process --out cacheless"
    ),
    "results_that_cant_be_written": "mkdir --mode 500 closed && sweeper run tiny.yaml --runner in-process --out closed",
    "logs_that_cant_be_written": (
        "mkdir -p logless/tiny/full && mkdir --mode 500 logless/tiny/full/logs && "
        "sweeper run tiny.yaml --runner in-process --out logless"
    ),
}
TINY = """\
name: tiny
model: {vocab_size: 256, d_model: 32, head_dim: 16, n_kv_heads: 1, tie_embeddings: true, ffn_hidden: 64}
axes: {n_layers: [1]}
trial: {data: text, tokens: 2k, seq_len: 64, batch_size: 4, precision: fp32, compile: false, eval_tokens: 4096}
"""


def why_not() -> str:
    """Why this machine can't make such a place, "" where it can."""
    if os.geteuid() != 0:
        return "not root, who alone may mount folders and become another user"
    tried = subprocess.run(
        ["unshare", "--mount", "--ipc", "--pid", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "none", "/dev/shm"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if tried.returncode == 0 else f"root may not mount folders here: {tried.stderr.strip()}"


pytestmark = [
    pytest.mark.skipif(bool(why := why_not()), reason=f"no container can be made on this machine: {why}"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module", params=["small", pytest.param("readme", marks=pytest.mark.campaign)])
def ran(request, tmp_path_factory):
    """The folder of all COMMANDS' results: NAME.code, NAME.out and NAME.err."""
    folder = tmp_path_factory.mktemp("container")
    study = re.search(r"```yaml\n(name: first\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    for large, small in SMALLER.items() if request.param == "small" else ():
        assert large in study
        study = study.replace(large, small)
    (folder / "first.yaml").write_text(study)
    (folder / "tiny.yaml").write_text(TINY)
    # Compiling once from an empty cache is enough for the small form.
    (folder / "homeless.yaml").write_text(TINY if request.param == "small" else study)
    write_text(folder / "text")
    lines = [f'sweeper() {{ {sys.executable} -m sweeper "$@"; }}', f'python() {{ {sys.executable} "$@"; }}']
    lines += ["export -f sweeper python"]
    runner = "--runner in-process" if request.param == "small" else ""  # one run that starts Ray is enough for it
    for name, command in COMMANDS.items():
        command = command.replace("{runner}", runner)
        # `env` runs programs only, no functions.
        command = re.sub(r"^env (.*?) sweeper", rf"env \1 {sys.executable} -m sweeper", command)
        lines.append(f"{{ {command}; }} >{name}.out 2>{name}.err; echo $? >{name}.code")
    (folder / "commands.sh").write_text("\n".join(lines) + "\n")
    needed = {sys.base_prefix, sys.prefix, str(ROOT), *(path for path in sys.path if os.path.isdir(path))}
    subprocess.run([CONTAINER, folder, *sorted(needed), "--", "bash", "commands.sh"], check=True, cwd=folder)
    return folder


def said(ran, name, *, code=0):
    """What a command printed, in one line; its standard error has to be empty where it ends well."""
    out, err = ((ran / f"{name}.{stream}").read_text() for stream in ("out", "err"))
    assert int((ran / f"{name}.code").read_text()) == code, out + err
    assert "Traceback" not in err
    assert code or not err, err
    return " ".join((err if code else out).split())


def test_its_quota_is_one_core(ran):
    assert said(ran, "cores") == "1"


def test_the_plan_is_made(ran):
    assert "are feasible" in said(ran, "plan")


def test_the_study_runs_and_reports(ran):
    answer = said(ran, "run")
    assert "report: runs/first/full/report.html" in answer
    assert "MLflow did not take" not in answer
    results = ran / "runs" / "first" / "full"
    finals = [record for record in plain_lines(results / "ledger.jsonl") if record["type"] == "final"]
    assert {record["status"] for record in finals} == {"ok"}
    assert all(record["device"].endswith(", 1 thread") for record in finals)
    assert len(finals) == 1 or "Train " in answer
    assert len(finals) == json.loads((results / "plan.json").read_text())["totals"]["trials"]
    assert all((results / name).stat().st_size > 1000 for name in ("report.html", "frontier.png", "frontier.json"))
    assert (ran / "runs" / "mlflow.db").stat().st_size > 100_000
    assert "report: runs/first/full/report.html" in said(ran, "report")


@pytest.mark.parametrize("name", ["plan", "run", "report"])
def test_no_line_is_wider_than_the_terminal(ran, name):
    assert max(map(len, (ran / f"{name}.out").read_text().splitlines())) <= 40


def test_a_number_is_whole_or_absent(ran):
    narrow, wide = (re.findall(r"[+-]?\d[\d.,]*[%kMGT]?", said(ran, name)) for name in ("plan", "wide_plan"))
    assert set(narrow) <= set(wide)


def test_what_is_written_is_its_owners_alone(ran):
    results = [path for path in (ran / "runs").rglob("*") if path.is_file()]
    assert len(results) > 8
    assert {oct(path.stat().st_mode & 0o777) for path in results} == {"0o600"}, "as umask 077 says"


def test_a_user_without_a_home_can_do_the_same(ran):
    assert "are feasible" in said(ran, "homeless_plan")
    assert "report: homeless/" in said(ran, "homeless_run")


def test_a_home_that_cant_be_written_is_no_hindrance(ran):
    assert "report: closed_home/tiny/full/report.html" in said(ran, "home_that_cant_be_written")


def test_what_cant_be_written_is_said_before_anything_trains(ran):
    said_of_cache = said(ran, "cache_that_cant_be_written", code=2)
    assert said_of_cache == (
        "the data cache /nowhere can't be written (Permission denied): SWEEPER_CACHE_DIR names another place"
    )
    for name, folder in (("results", "closed"), ("logs", "logless")):
        message = said(ran, f"{name}_that_cant_be_written", code=2)
        assert f"Permission denied, so results can't be kept in {folder}/tiny/full: name another folder" in message
        assert "loss" not in (ran / f"{name}_that_cant_be_written.out").read_text()

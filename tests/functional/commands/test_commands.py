"""Every command as a user types it: what it refuses and how, what it takes, what it says. Trains next to nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_cases import STUDY as BARE_STUDY
from command_cases import go_to_a_study

from sweeper.commands.main import main
from sweeper.study.loader import load
from sweeper.values import machine

STUDIES = Path(__file__).parents[3] / "studies"
SHIPPED = sorted(STUDIES.glob("*.yaml"))
STUDY = f"{BARE_STUDY}profiles:\n  cpu: {{}}\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a study and its data, gone to; a machine without a GPU."""
    go_to_a_study(tmp_path, monkeypatch, STUDY)
    devices(monkeypatch, 0)
    return tmp_path


def devices(monkeypatch, count):
    monkeypatch.setattr(machine, "gpu_count", lambda: count)


@pytest.fixture
def said(capsys):
    """Runs a command in this process, which must end with the code expected; what it printed."""

    def run(*arguments, code=0):
        try:
            ended = main([str(argument) for argument in arguments])
        except SystemExit as refused:
            ended = refused.code
        out, err = capsys.readouterr()
        assert ended == code, out + err
        assert "Traceback" not in err
        assert "fault of sweeper's own" not in err
        return err if code else out

    return run


@pytest.fixture
def folder(place):
    """A run folder as `run` leaves it, without results."""
    root = place / "runs" / "tiny" / "cpu"
    root.mkdir(parents=True)
    (root / "study.yaml").write_text(STUDY.partition("profiles")[0].replace("data: text", f"data: {place / 'text'}"))
    (root / "plan.json").write_text('{"profile": "cpu"}')
    (root / "ledger.jsonl").write_text("")
    return root


def without_training(monkeypatch):
    """Let `run` and `train` say what they are about to do, and stop there."""
    handed_on = {}
    monkeypatch.setattr(
        "sweeper.commands.run.execute", lambda run, console, **options: handed_on.update(options, run=run)
    )
    return handed_on


# What is light, exact, and shipped


@pytest.mark.parametrize("arguments", [["--help"], ["check", "tiny.yaml"], ["plan", "tiny.yaml"], ["shape"]])
def test_quick_commands_import_nothing_heavy(place, arguments):
    code = (
        "import sys; from sweeper.commands.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pandas'} & set(sys.modules); sys.exit(', '.join(heavy) or None)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


@pytest.mark.parametrize(
    ("flags", "published"),
    [
        ("--n_layers 30 --d_model 576 --n_heads 9 --n_kv_heads 3 --ffn_hidden 1536 --vocab_size 49152", 134515008),
        ("--n_layers 32 --d_model 960 --n_heads 15 --n_kv_heads 5 --ffn_hidden 2560 --vocab_size 49152", 361821120),
        ("--n_layers 30 --d_model 576 --n_heads 9 --n_kv_heads 3 --ffn_hidden 1536 --vocab_size 32000", 124635456),
    ],
    ids=["SmolLM2-135M", "SmolLM2-360M", "MobileLLM-125M"],
)
def test_shape_counts_published_models_exactly(said, flags, published):
    counted = json.loads(said("shape", *flags.split(), "--tie_embeddings", "--json"))
    assert counted["params"]["total"] == published


def test_the_default_study_has_seven_depths_on_its_budget(said):
    plan = json.loads(said("plan", STUDIES / "depth_vs_ffn.yaml", "--profile", "full", "--json"))
    totals = [config["params"]["total"] for config in plan["configs"]]
    assert len({config["shape"]["n_layers"] for config in plan["configs"]}) == len(totals) == 7
    assert all(abs(total - 180e6) <= 0.02 * 180e6 for total in totals)


@pytest.mark.parametrize("study", SHIPPED, ids=lambda study: study.stem)
def test_shipped_studies_plan_under_every_profile(said, place, study):
    assert "no faults" in said("check", study)
    for profile in ("full", *yaml.safe_load(study.read_text())["profiles"]):
        plan = json.loads(said("plan", study, "--profile", profile, "--json"))
        assert plan["profile"] == profile
        assert plan["lattice"]["feasible"] == len(plan["configs"]) > 1


def test_nothing_feasible_is_exit_code_3(said, place):
    budget = "budget.params={target: 1M, tolerance: 1%}"
    assert "nothing is feasible" in said("plan", "tiny.yaml", "--set", budget, code=3)


# What is refused


@pytest.mark.parametrize(
    "arguments",
    [
        "check none.yaml",
        "check text",
        "plan none.yaml",
        "plan tiny.yaml --profile gpu",
        "plan tiny.yaml --set trial.tokens=soon",
        "plan tiny.yaml --json --csv",
        "run none.yaml",
        "run tiny.yaml --runner slurm",
        "run tiny.yaml --set resources.gpus=1",
        "status none.yaml",
        "status text",
        "report none.yaml",
        "report tiny.yaml",
        "report text",
        "recommend none.yaml",
        "recommend tiny.yaml",
        "recommend text",
        "recommend tiny.yaml --max-params many",
        "shape --n_layers 0",
        "shape none",
        "train --tokens soon --dry_run",
        "train --data nowhere --dry_run",
        "ui --port 0",
        "ui --port 99999999",
        "ui --port http",
        "ui --out tiny.yaml",
        "ui --out nowhere",
        "schema now",
        "unknown",
    ],
)
def test_wrong_input_is_exit_code_2(said, place, arguments):
    assert said(*arguments.split(), code=2).strip()


@pytest.mark.parametrize("command", ["status", "report", "recommend"])
@pytest.mark.parametrize("options", [["--profile", "cpu"], ["--set", "trial.seeds=2"], ["--out", "elsewhere"]])
def test_a_run_folder_takes_no_options_of_a_study(said, folder, command, options):
    assert f"leave {options[0]} out" in said(command, folder, *options, code=2)


@pytest.mark.parametrize("command", ["plan", "run"])
def test_plan_and_run_take_no_folder(said, folder, command):
    assert "is a folder: name the YAML file of a study" in said(command, folder, code=2)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--batch_size 0", ["--batch_size 0: write a whole number of at least 1"]),
        ("--grad_accum_steps 0", ["--grad_accum_steps 0: write a whole number of at least 1"]),
        ("--seq_len -5", ["--seq_len -5: write a whole number of at least 1"]),
        ("--seeds 0", ["--seeds 0: write a whole number of at least 1"]),
        ("--use_fp8 --precision fp32", ["--use_fp8 and --precision fp32", "leave one"]),
        ("--use_fp8 --precision bf16", ["--use_fp8 and --precision bf16"]),
        ("--n_heads 12 --head_dim 32", ["--n_heads and --head_dim: 12 heads of 32 make 384, not d_model 768"]),
        ("--n_kv_heads 6 --kv_groups 3", ["--n_kv_heads 6 and --kv_groups 3: 12 heads in groups of 3 share 4"]),
        ("--n_heads 7", ["--n_heads: d_model 768 can't be split", "6 heads of 128"]),
        (
            "wide --n_layers 0 --batch_size 0 --tokens soon --lr 0 --data nowhere --seeds 0 --use_fp8 --precision bf16",
            ["wide:", "--n_layers 0", "--batch_size 0", "--tokens: ", "--lr: ", "--data: ", "--seeds 0", "--use_fp8"],
        ),
    ],
)
def test_train_names_every_wrong_flag_at_once(said, place, flags, expected):
    lines = said("train", *flags.split(), "--dry_run", code=2)
    for text in expected:
        assert text in lines
    assert all(line.startswith(("--", "wide")) for line in lines.splitlines())


@pytest.mark.parametrize("flags", ["--n_heads 12 --head_dim 32", "--n_kv_heads 6 --kv_groups 3", "--seq_len -5"])
def test_shape_refuses_the_same(said, flags):
    assert flags.split()[0] in said("shape", *flags.split(), code=2)


@pytest.mark.parametrize("flags", ["--n_heads 12 --head_dim 64", "--n_kv_heads 4 --kv_groups 3", "--head_dim 128"])
def test_flags_that_agree_are_taken(said, flags):
    shape = json.loads(said("shape", *flags.split(), "--json"))["shape"]
    given = dict(zip(flags.split()[::2], map(int, flags.split()[1::2]), strict=True))
    shape["kv_groups"] = shape["n_heads"] // shape["n_kv_heads"]
    assert {name: shape[name.removeprefix("--")] for name in given} == given


@pytest.mark.parametrize("out", ["file", "/proc/foo"])
@pytest.mark.parametrize("command", [["run", "tiny.yaml"], ["train", "--data", "text", "--n_layers", "1"]])
def test_results_that_cannot_be_kept(said, place, out, command):
    Path("file").touch()
    refused = said(*command, "--out", out, code=2)
    assert "results can't be kept in" in refused
    assert "--out" in refused


# What is taken as it is meant


@pytest.mark.parametrize(
    ("tokens", "lr"), [("1000000", "0.001"), ("1M", "1e-3"), ("1e6", "0.1%"), ("1_000_000", ".001")]
)
def test_train_takes_numbers_however_written(place, monkeypatch, said, tokens, lr):
    handed_on = without_training(monkeypatch)
    said("train", "--tokens", tokens, "--lr", lr, "--data", "text", "--batch_size", "1", "--grad_accum_steps", "1")
    trial = handed_on["run"].loaded.study.trial
    assert (trial.tokens, trial.optimizer.lr) == (1_000_000, 0.001)
    assert (trial.batch_size, trial.grad_accum_steps, trial.precision) == (1, 1, "bf16")


@pytest.mark.parametrize(("count", "gpus", "said_of_it"), [(0, 0, "assumed: 2 cores"), (2, 1, "TFLOP/s of a GPU")])
def test_train_estimates_for_the_device_it_will_use(said, place, monkeypatch, count, gpus, said_of_it):
    devices(monkeypatch, count)
    monkeypatch.setattr(machine, "cpu_count", lambda: 2)
    handed_on = without_training(monkeypatch)
    said("train", "--data", "text")
    run = handed_on["run"]
    assert said_of_it in run.plan.calibration.source
    assert run.loaded.study.resources.gpus == handed_on["gpus"] == gpus


@pytest.mark.parametrize(
    ("count", "resources", "gpus", "source"),
    [
        (0, "", 0, "cores"),
        (2, "", 1, "of a GPU"),
        (2, "resources: {gpus: 0}\n", 0, "cores"),
        (2, "resources: {cpus: 1}\n", 1, "of a GPU"),
    ],
)
def test_a_job_has_a_gpu_where_there_is_one(said, place, monkeypatch, count, resources, gpus, source):
    study = place / "tiny.yaml"
    study.write_text(study.read_text() + resources)
    monkeypatch.setattr(machine, "cpu_count", lambda: 2)
    before = json.loads(said("plan", "tiny.yaml", "--json"))
    devices(monkeypatch, count)
    plan = json.loads(said("plan", "tiny.yaml", "--json"))
    assert source in plan["estimate"]["source"]
    assert [c["config_id"] for c in plan["configs"]] == [c["config_id"] for c in before["configs"]]
    handed_on = without_training(monkeypatch)
    opening = " ".join(said("run", "tiny.yaml").split())
    assert handed_on["gpus"] == gpus
    surprise = "on the CPU (resources.gpus is 0; this machine has 2 GPUs)"
    assert (surprise in opening) == (count > gpus == 0)
    assert "resources" not in handed_on["run"].loaded.resolved or resources


@pytest.mark.parametrize(
    ("count", "options", "expected"),
    [
        (0, [], "profile cpu (no GPU here)"),
        (1, [], "profile full (1 GPU here)"),
        (2, [], "profile full (2 GPUs here)"),
        (0, ["--profile", "full"], "profile full (as asked)"),
    ],
)
def test_run_begins_with_the_profile_and_why(said, place, monkeypatch, count, options, expected):
    devices(monkeypatch, count)
    without_training(monkeypatch)
    assert f"tiny, {expected}, results in" in " ".join(said("run", "tiny.yaml", *options).split())


@pytest.mark.parametrize(
    ("command", "goes_on"),
    [
        ("run tiny.yaml", "the same command goes on"),
        ("train --data text", "the same command with --resume goes on"),
        ("plan tiny.yaml", ""),
        ("ui --out text", ""),
    ],
)
def test_only_what_trains_says_that_it_goes_on(said, place, monkeypatch, command, goes_on):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    (place / "text" / "mlflow.db").touch()
    monkeypatch.setattr("sweeper.commands.run.execute", interrupted)
    monkeypatch.setattr("subprocess.call", interrupted)
    if command.startswith("plan"):
        monkeypatch.setattr("sweeper.commands.plan.opened", interrupted)
    end = said(*command.split(), code=130)
    assert goes_on in end
    assert ("goes on" in end) == bool(goes_on)
    assert "interrupted" in end


# Run folders that are damaged, or from elsewhere


@pytest.mark.parametrize("command", ["status", "report", "recommend"])
def test_a_damaged_ledger_says_where(said, folder, command):
    (folder / "ledger.jsonl").write_text('{"type": "asked"\n{}\n')
    for study in (folder, "tiny.yaml"):
        assert f"sweeper: {folder / 'ledger.jsonl'}:1: not a JSON line" in said(command, study, code=1)


def test_fresh_sets_a_damaged_ledger_aside(said, folder, monkeypatch):
    without_training(monkeypatch)
    (folder / "ledger.jsonl").write_text("not JSON\n")
    assert "not a JSON line" in said("run", "tiny.yaml", code=1)
    assert "the earlier results are now in" in " ".join(said("run", "tiny.yaml", "--fresh").split())
    assert not folder.exists()
    (aside,) = folder.parent.iterdir()
    assert (aside / "ledger.jsonl").read_text() == "not JSON\n"


@pytest.mark.parametrize("plan", ["", "{", "[]", "{}", '{"profile": 1}', "\udcff"])
def test_a_damaged_plan_leaves_the_folders_name(said, folder, monkeypatch, plan):
    (folder / "plan.json").write_text(plan, errors="surrogateescape")
    seen = {}
    monkeypatch.setattr("sweeper.commands.opening.planned", lambda loaded, *_: seen.update(profile=loaded.profile))
    monkeypatch.setattr("sweeper.running.study_run.StudyRun.replayed", lambda run, records: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["status", str(folder), "--debug"])
    assert seen == {"profile": "cpu"}


def test_a_run_folder_needs_no_data(said, place):
    run = [sys.executable, "-m", "sweeper", "run", "tiny.yaml", "--runner", "in-process"]
    ran = subprocess.run(run, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (place / "text").rename(place / "elsewhere")
    moved = (place / "runs" / "tiny" / "cpu").rename(place / "copied")
    assert json.loads(said("status", moved, "--json"))["jobs"] == {"ok": 2}
    assert len(json.loads(said("report", moved, "--json"))["frontiers"][0]["points"]) == 2
    for command in ("status", "report"):
        assert "no embedded data and no path" in said(command, "tiny.yaml", code=2)


def test_status_says_whether_a_driver_is_alive(said, folder, monkeypatch):
    from sweeper.ledger.file import Ledger

    seen = []
    monkeypatch.setattr("sweeper.commands.status.status_json", lambda *_, live, **__: seen.append(live) or {})
    said("status", folder, "--json")
    with Ledger(folder / "ledger.jsonl", lock=folder / ".lock"):
        said("status", folder, "--json")
    assert seen == [False, True]


def test_the_command_to_go_on_is_remembered(said, folder, monkeypatch):
    handed_on = without_training(monkeypatch)
    said("run", "tiny.yaml", "--set", "trial.optimizer.betas=[0.9, 0.99]", "--out", "runs", "--fresh")
    command = "sweeper run tiny.yaml --profile cpu --set 'trial.optimizer.betas=[0.9, 0.99]' --out runs"
    assert handed_on["run"].command == command


def test_only_a_folder_that_is_looked_back_at_may_lack_its_data(place):
    (place / "text").rename(place / "elsewhere")
    assert load(place / "tiny.yaml", data_must_exist=False).data_path == place / "text"

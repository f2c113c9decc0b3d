"""What the doctor concludes from facts, and that its marks, its words and its exit code agree."""

import io
import sqlite3

import pytest
from rich.console import Console

from sweeper.commands import doctor
from sweeper.commands.doctor import examine
from sweeper.report.findings import findings_text
from sweeper.values.findings import can_run

H200 = {"name": "NVIDIA H200", "capability": [9, 0], "total_bytes": 141 * 2**30, "free_bytes": 140 * 2**30, "fp8": True}
A100 = {"name": "NVIDIA A100", "capability": [8, 0], "total_bytes": 80 * 2**30, "free_bytes": 79 * 2**30, "fp8": False}


def facts(tmp_path, *devices, **changed):
    plain = {
        "torch": {"version": "2.13.0", "cuda": "13.0" if devices else None, "driver": "595.10", "devices": devices,
                  "kernels": str(tmp_path / "kernels"), "kernels_bytes": 2**20},
        "torchao": {"version": "0.18.0"},
        "transformer_engine": {"version": None},
        "compile": {"device": "cuda" if devices else "cpu", "seconds": 4.2},
        "data": {"corpora": {"python-stdlib": {"files": 700, "bytes": 12_000_000}}, "cache": str(tmp_path / "cache"),
                 "cache_bytes": 2**20},
    }  # fmt: skip
    return {**plain, **changed}


def found(tmp_path, *devices, files=None, uri=None, runs=None, monkeypatch=None, **changed):
    if monkeypatch:
        monkeypatch.setattr(doctor, "devices_present", lambda: len(devices) if files is None else files)
    uri = uri or f"sqlite:///{tmp_path / 'mlflow.db'}"
    findings = examine(facts(tmp_path, *devices, **changed), runs=runs or tmp_path / "runs", tracking_uri=uri)
    assert all(finding.mend for finding in findings if finding.state == "wrong")
    return findings


def by_name(findings):
    return {finding.name: finding for finding in findings}


def shown(findings):
    written = io.StringIO()
    Console(width=100, file=written).print(findings_text(findings))
    return " ".join(written.getvalue().split())


def test_a_machine_without_a_gpu_runs_studies_on_its_cpu(tmp_path, monkeypatch):
    findings = found(tmp_path, monkeypatch=monkeypatch)
    assert can_run(findings)
    states = {name: finding.state for name, finding in by_name(findings).items()}
    assert (states["CUDA"], states["FP8"], states["transformer-engine"]) == ("absent", "absent", "absent")
    assert "Studies run here, on the CPU." in shown(findings)


def test_a_gpu_is_described(tmp_path, monkeypatch):
    findings = found(tmp_path, H200, A100, monkeypatch=monkeypatch)
    cuda = by_name(findings)["CUDA"].found
    assert "NVIDIA H200 (capability 9.0, 141.0 GiB, 140.0 GiB free); NVIDIA A100" in cuda
    assert "driver 595.10" in cuda
    assert by_name(findings)["transformer-engine"].mend.startswith("pip install")
    assert "Studies run here, on the GPU." in shown(findings)


@pytest.mark.parametrize(("devices", "state"), [((H200,), "ok"), ((A100,), "absent"), ((H200, A100), "absent")])
def test_fp8_is_hardware_from_capability_8_9(tmp_path, monkeypatch, devices, state):
    assert by_name(found(tmp_path, *devices, monkeypatch=monkeypatch))["FP8"].state == state


@pytest.mark.parametrize(
    ("torch", "hidden", "state", "said"),
    [
        ({"version": "2.13.0+cpu", "cuda": None, "driver": "595.10"}, None, "wrong", "built without CUDA"),
        ({"version": "2.13.0", "cuda": "13.0", "driver": "470.1"}, None, "wrong", "can't use it (driver 470.1)"),
        ({"version": "2.13.0", "cuda": "13.0", "driver": "595.10"}, "", "absent", "CUDA_VISIBLE_DEVICES is empty"),
        ({"version": "2.13.0", "cuda": "13.0", "driver": "595.10"}, "-1", "absent", "CUDA_VISIBLE_DEVICES is -1"),
    ],
)
def test_a_device_that_torch_cannot_use_says_why(tmp_path, monkeypatch, torch, hidden, state, said):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    findings = found(tmp_path, files=1, monkeypatch=monkeypatch, torch={**torch, "devices": []})
    assert by_name(findings)["CUDA"].state == state
    assert said in by_name(findings)["CUDA"].found
    assert can_run(findings)


@pytest.mark.parametrize(
    ("probe", "name", "runs"),
    [
        ("torch", "torch", False),
        ("torchao", "torchao", True),
        ("compile", "torch.compile", True),
        ("data", "embedded data", True),
        ("transformer_engine", "transformer-engine", True),
    ],
)
def test_a_probe_that_fails_is_a_finding(tmp_path, monkeypatch, probe, name, runs):
    findings = found(tmp_path, monkeypatch=monkeypatch, **{probe: {"error": "ImportError: libfoo.so"}})
    assert "ImportError: libfoo.so" in by_name(findings)[name].found
    assert can_run(findings) == runs
    assert ("Studies run here" in shown(findings)) == runs
    if not runs:
        assert "Studies don't run here: mend torch first." in shown(findings)


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no_such_package"))
    findings = found(tmp_path, monkeypatch=monkeypatch, torchao={"version": None})
    assert by_name(findings)["packages"].found == "missing: no_such_package"
    assert by_name(findings)["torchao"].state == "wrong"
    assert not can_run(findings)


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    findings = found(tmp_path, monkeypatch=monkeypatch, runs=tmp_path / "file")
    assert by_name(findings)["results"].state == "wrong"
    assert not can_run(findings)


def test_little_room_is_a_fault_that_does_not_stop_studies(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "LITTLE_DISK_BYTES", 2**60)
    findings = found(tmp_path, monkeypatch=monkeypatch)
    assert by_name(findings)["results"].state == "wrong"
    assert can_run(findings)


def test_mlflows_store(tmp_path, monkeypatch):
    def state(uri):
        finding = by_name(found(tmp_path, monkeypatch=monkeypatch, uri=uri))["MLflow"]
        return finding.state, finding.found

    assert state(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}")[0] == "ok"
    with sqlite3.connect(tmp_path / "store.db") as store:
        store.execute("CREATE TABLE runs (id)")
    store.close()
    assert state(f"sqlite:///{tmp_path / 'store.db'}")[0] == "ok"
    (tmp_path / "damaged.db").write_text("no database " * 100)
    assert state(f"sqlite:///{tmp_path / 'damaged.db'}")[0] == "wrong"
    away, said = state("http://127.0.0.1:9")
    assert away == "wrong"
    assert "doesn't answer (" in said

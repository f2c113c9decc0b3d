"""Lines are read as values: all that older versions wrote, nothing that a later one did, and no field lost."""

import json
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest
from ledger_lines import as_line, as_lines, plain_lines, record_of

from sweeper.commands.main import main
from sweeper.ledger.file import read
from sweeper.ledger.lines import asked_record, event_record
from sweeper.ledger.merge import merge
from sweeper.ledger.typed import AskedLine, FinalLine, OtherLine, OutcomeLine, RungLine, line_of
from sweeper.values.errors import DamagedLedger, UsageError
from sweeper.values.records import SCHEMA, Config
from tests.fakes import make_final, make_job

ROOT = Path(__file__).parents[3]
LEDGERS = sorted((ROOT / "benchmarks" / "results").glob("*/ledger.jsonl"))
STUDY = "name: s\ntrial: {tokens: 1M}\n"


def written(folder, *records):
    folder.mkdir()
    (folder / "study.yaml").write_text(STUDY)
    (folder / "plan.json").write_text(json.dumps({"profile": "full"}))
    (folder / "ledger.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def as_plain(value):
    """A typed value as the JSON that it was read from."""
    if isinstance(value, msgspec.Raw):
        return json.loads(bytes(value))
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {one.name: as_plain(getattr(value, one.name)) for one in fields(value)}
    return value


def names(line):
    return {one.encode_name: one.name for one in msgspec.structs.fields(line)}


@pytest.mark.parametrize("path", LEDGERS, ids=lambda path: path.parent.name)
def test_every_recorded_line_says_what_its_json_says(path):
    for line, record in zip(read(path), plain_lines(path), strict=True):
        assert line.kind == record["type"]
        own = names(line)
        assert set(record) - {"type", "params"} <= set(own)
        for name, value in record.items():
            if name in own and name != "job":
                found = as_plain(getattr(line, own[name]))
                known = found if not isinstance(value, dict) else {key: found[key] for key in value}
                assert known == value, (line.kind, name)
        if isinstance(line, OutcomeLine):
            assert line.config == Config.from_dict(record)
            assert line.config.config_id == line.config_id
            assert line.job.job_id == line.job_id
            again = json.loads(json.dumps(event_record(line.event)))
            same = ("config_id", "recipe", "val_loss", "curve", "notes", "environment", "seconds")
            assert [again[name] for name in same] == [record[name] for name in same]
        if isinstance(line, AskedLine):
            assert line.job.config == Config.from_dict(record["job"]["config"])
            assert line.job.ids().items() <= record.items()


def test_whole_numbers_in_a_config_stay_what_they_are():
    """An id is of what was declared: 1 and 1.0 are two."""
    record = json.loads(json.dumps(event_record(make_final(make_job()))))
    record["recipe"]["optimizer"]["grad_clip"] = 1
    found = as_line(record).config.recipe.optimizer.grad_clip
    assert (found, type(found)) == (1, int)


def test_lines_of_one_config_share_it_and_a_curve_is_decoded_when_asked_for():
    one, other = as_lines(event_record(make_final(make_job(seed))) for seed in (0, 1))
    assert one.config is other.config
    assert isinstance(one._curve, msgspec.Raw)
    assert one.curve == ((1024, 5.5), (51200, 2.5), (102400, 1.6))


def test_an_unknown_field_is_kept_where_ledgers_are_merged(tmp_path):
    rung = {**record_of("rung"), "gradient_norm": 0.5}
    final = {**record_of("final"), "peak_power_w": 700}
    final["environment"] = {**final["environment"], "room_celsius": 21}
    assert as_line(final).environment["room_celsius"] == 21
    a, b = written(tmp_path / "a", rung), written(tmp_path / "b", rung, final)
    assert plain_lines(merge([a, b], tmp_path / "c").folder.ledger) == json.loads(json.dumps([rung, final]))


def test_a_line_of_an_unknown_type_is_no_result_and_is_kept(tmp_path):
    other = {"schema": SCHEMA, "type": "heartbeat", "time": "2026-01-01T00:00:00Z", "trial_id": "x"}
    (line,) = as_lines([other])
    assert isinstance(line, OtherLine)
    assert (line.kind, line.time) == ("heartbeat", other["time"])
    a, b = written(tmp_path / "a", other), written(tmp_path / "b", record_of("rung"))
    assert plain_lines(merge([a, b], tmp_path / "c").folder.ledger)[0] == other


@pytest.mark.parametrize("later", [{}, {"seed": None, "execution": "fast"}], ids=["as ours", "of other fields"])
def test_a_line_of_a_later_version_is_refused_by_name(tmp_path, later):
    folder = written(tmp_path / "a", record_of("rung"), {**record_of("final"), **later, "schema": SCHEMA + 1})
    said = rf"ledger\.jsonl:2: a line of a later version \(schema {SCHEMA + 1}, this version reads up to {SCHEMA}\)"
    with pytest.raises(UsageError, match=said):
        read(folder / "ledger.jsonl")


def test_a_command_refuses_a_ledger_of_a_later_version(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = written(tmp_path / "a", {**record_of("rung"), "schema": SCHEMA + 1})
    assert main(["merge", "a", str(written(tmp_path / "b", record_of("rung"))), "--out", "c"]) == 2
    assert f"{folder.name}/ledger.jsonl:1: a line of a later version" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"val_loss": "low"}, r"Expected `float \| null`, got `str` - at `\$\.val_loss`"),
        ({"shape": {"n_layers": 1}}, "missing 7 required keyword-only arguments"),
        ({"status": "fine"}, r"Invalid enum value 'fine' - at `\$\.status`"),
    ],
)
def test_a_damaged_field_is_named(tmp_path, change, why):
    folder = written(tmp_path / "a", {**record_of("final"), **change})
    with pytest.raises(DamagedLedger, match=rf"ledger\.jsonl:1: not a ledger record \(.*{why}"):
        read(folder / "ledger.jsonl")


def test_text_that_is_no_unicode_is_read_as_it_was_written(tmp_path):
    """The name of a file that isn't UTF-8, as an error of the system says it."""
    path = written(tmp_path / "a", record_of("failed", error="no \udc80 file")) / "ledger.jsonl"
    (line,) = read(path)
    assert line.error == "no \udc80 file"
    assert line.config == make_job().config


def test_an_event_is_the_line_that_it_will_be_without_its_time_and_curve():
    event = make_final(make_job(3), notes=("one",))
    line, whole = line_of(event), as_line({**event_record(event), "curve": []})
    assert line == whole
    assert isinstance(line, FinalLine)
    assert (line.time, line.curve) == ("", ())


def test_lines_know_their_jobs():
    job = make_job(2)
    asked, rung, final = as_lines(
        [asked_record(job), {**record_of("rung"), **job.ids()}, event_record(make_final(job))]
    )
    assert isinstance(rung, RungLine)
    assert {asked.job_id, rung.job_id, final.job_id, final.job.job_id} == {job.job_id}
    assert asked.job == job

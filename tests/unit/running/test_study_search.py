"""What a study's search asks for: on several devices the longest jobs first, so that they end together."""

import heapq

import pytest
from ledger_lines import as_lines, record_of

from sweeper.planning.plan import make_plan
from sweeper.running.study_run import StudyRun
from sweeper.running.study_search import StudySearch
from sweeper.study.loader import load
from sweeper.study.schema import SeedRange
from sweeper.values.records import Job
from sweeper.values.run_folder import RunFolder
from tests.fakes import make_final

STUDY = """\
name: x
model: {d_model: 64, vocab_size: 256, tie_embeddings: true}
axes: {n_layers: [1, 2, 3, 4, 6, 8, 12, 16, 24]}
trial: {data: python-stdlib, tokens: 1M, seq_len: 64, batch_size: 4, precision: fp32, seeds: 2}
"""


def search(tmp_path, more=""):
    path = tmp_path / "x.yaml"
    path.write_text(STUDY + more)
    loaded = load(path)
    return StudySearch(loaded=loaded, configs=make_plan(loaded, cpus=2).configs)


def played(driver, seconds, devices):
    """All jobs in the order asked for, and when the last ends."""
    asked, running, now = [], [], 0.0
    while True:
        while len(running) < devices and isinstance(job := driver.ask(), Job):
            asked.append(job)
            heapq.heappush(running, (now + seconds[job.config.config_id], len(asked), job))
        if not running:
            return asked, now
        now, _, job = heapq.heappop(running)
        driver.tell(make_final(job))


@pytest.mark.parametrize("more", ["", "search: {method: random, trials: 6}\n"])
def test_on_several_devices_the_longest_come_first_within_each_seed(tmp_path, more):
    found = search(tmp_path, more)
    seconds = {planned.config.config_id: planned.seconds for planned in found.candidates}
    in_order, whole = played(found.driver(at_a_time=1), seconds, devices=4)
    longest_first, shorter = played(found.driver(at_a_time=4), seconds, devices=4)
    assert {job.job_id for job in in_order} == {job.job_id for job in longest_first}, "the same jobs"
    for seed in (0, 1):
        own = [seconds[job.config.config_id] for job in longest_first if job.seed == seed]
        assert own == sorted(own, reverse=True)
    assert [job.seed for job in longest_first] == sorted(job.seed for job in longest_first)
    assert shorter < whole


def test_on_one_device_the_order_is_the_study_s(tmp_path):
    asked, _ = played(
        search(tmp_path).driver(), dict.fromkeys((c.config.config_id for c in search(tmp_path).candidates), 1), 1
    )
    depths = [job.config.shape.n_layers for job in asked]
    assert depths == [1, 2, 3, 4, 6, 8, 12, 16, 24] * 2


def test_seeds_that_were_trained_count_though_a_range_would_not_ask_for_them(tmp_path):
    """Two seeds for every config, then three in a row of one, and a fifth that nobody's fourth leads to."""
    found = search(tmp_path)
    trial = found.loaded.study.trial.model_copy(update={"seeds": SeedRange(min=2, max=5)})
    study = found.loaded.study.model_copy(update={"trial": trial})
    loaded = found.loaded.model_copy(update={"study": study})
    run = StudyRun(loaded=loaded, plan=make_plan(loaded, cpus=2), folder=RunFolder(root=tmp_path / "r"))
    config_id = run.plan.configs[0].config.config_id
    records = as_lines(record_of("final", config_id=config_id, seed=seed) for seed in (0, 1, 2, 4))
    counted = run.seeds(run.search.driver(), records)
    assert counted.pop(config_id) == 3
    assert set(counted.values()) == {2}

"""Which trials are stopped, by hand-made curves; and that a stopped one is kept out of what it must be kept out of."""

import math
import random
from dataclasses import replace

import pytest

from sweeper.ledger.typed import line_of
from sweeper.planning.plan import make_plan
from sweeper.running.study_run import StudyRun
from sweeper.search.early_stop import SuccessiveHalving
from sweeper.study.loader import load
from sweeper.values.events import Continue, Rung, Stop
from sweeper.values.run_folder import RunFolder
from tests.fakes import make_final, make_job


def rung(number, loss, *, at, steps=100, seed=0):
    job = make_job(seed, n_layers=number)
    job = replace(job, config=replace(job.config, recipe=replace(job.config.recipe, steps=steps)))
    return Rung(job=job, tokens=int(at * steps * 1024), loss=loss)


def test_nothing_is_decided_before_the_grace_and_each_milestone_once():
    halving = SuccessiveHalving(grace=0.3)
    for number in range(1, 30):
        assert isinstance(halving.tell(rung(number, float(number), at=0.2)), Continue)
    told = [halving.tell(rung(number, float(number), at=0.3)) for number in range(1, 10)]
    # Of one and of two all go on; of n, those with fewer than ceil(n / 3) better ones.
    assert [isinstance(answer, Stop) for answer in told] == [False, False, True, True, True, True, True, True, True]
    assert isinstance(halving.tell(rung(9, 0.0, at=0.5)), Continue)
    assert isinstance(halving.tell(rung(2, 9.0, at=0.9)), Continue), "the first at its milestone"


def test_the_best_third_goes_on_and_not_one_more():
    halving = SuccessiveHalving(grace=0.3)
    for number in range(1, 10):
        halving.tell(rung(number, float(number), at=0.3))
    assert isinstance(halving.tell(rung(20, 2.5, at=0.3)), Continue), "the third of ten"
    assert isinstance(halving.tell(rung(21, 3.5, at=0.3)), Stop), "the fifth of eleven, a third being 3.7"
    assert isinstance(halving.tell(rung(22, 2.7, at=0.3)), Continue), "the fourth of twelve"
    assert isinstance(halving.tell(rung(23, 2.9, at=0.3)), Continue), "the fifth of thirteen, a third being 4.3"


def test_in_a_random_order_about_a_third_goes_on_and_the_best_always():
    source = random.Random(0)
    losses = list(range(1, 91))
    went_on = []
    for _ in range(20):
        source.shuffle(losses)
        halving = SuccessiveHalving(grace=0.3)
        kept = [loss for n, loss in enumerate(losses) if isinstance(halving.tell(rung(n, loss, at=0.31)), Continue)]
        assert 1 in kept
        went_on.append(len(kept))
    assert 26 <= sum(went_on) / len(went_on) <= 38


def test_losses_are_compared_at_equal_tokens_alone():
    halving = SuccessiveHalving(grace=0.3)
    for number in range(1, 10):
        halving.tell(rung(number, 1.0, at=0.3))
    assert isinstance(halving.tell(rung(50, 9.0, at=0.3, steps=200)), Continue)
    assert isinstance(halving.tell(rung(51, 9.0, at=0.3)), Stop)
    assert isinstance(halving.tell(rung(52, math.nan, at=0.3)), Stop)


def test_further_seeds_of_a_config_that_went_on_are_not_judged():
    halving = SuccessiveHalving(grace=0.3)
    for number in range(1, 10):
        halving.tell(rung(number, float(number), at=0.3))
    assert isinstance(halving.tell(rung(1, 99.0, at=0.3, seed=1)), Continue)
    assert isinstance(halving.tell(rung(20, 99.0, at=0.3)), Stop)


def test_a_trial_that_is_run_again_is_judged_by_its_latest_loss():
    halving = SuccessiveHalving(grace=0.3)
    for number in range(1, 7):
        halving.tell(rung(number, float(number), at=0.3))
    halving.tell(rung(1, 0.5, at=0.01))
    assert isinstance(halving.tell(rung(1, 99.0, at=0.3)), Stop)


@pytest.mark.parametrize("grace", [0.01, 0.3, 0.99])
def test_a_milestone_lies_before_the_end(grace):
    halving = SuccessiveHalving(grace=grace)
    stopped = [isinstance(halving.tell(rung(n, float(n), at=1.0)), Stop) for n in range(1, 8)]
    assert stopped == [False, False, True, True, True, True, True]


def test_a_study_goes_on_after_first_seeds_were_stopped(tmp_path):
    """Their configs want no second seed, and it isn't counted into what is left."""
    text = "name: x\nmodel: {d_model: 64, vocab_size: 256, tie_embeddings: true}\naxes: {n_layers: [1, 2]}\n"
    text += "trial: {data: python-stdlib, tokens: 1M, seq_len: 64, batch_size: 4, precision: fp32, seeds: 2}\n"
    (tmp_path / "x.yaml").write_text(text + "search: {early_stop: {method: asha, grace: 30%}}\n")
    loaded = load(tmp_path / "x.yaml", profile="full")
    run = StudyRun(loaded=loaded, plan=make_plan(loaded, cpus=2), folder=RunFolder(root=tmp_path / "run"))
    whole = run.seconds_missing(run.search.driver())
    stopped = make_final(run.search.driver().ask(), status="stopped_early", val_loss=None, val_bpb=None)
    driver = run.replayed([line_of(stopped)])
    assert run.seconds_missing(driver) < 0.7 * whole

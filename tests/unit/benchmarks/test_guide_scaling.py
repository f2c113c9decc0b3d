"""The audit's fits, against data of known truth and scipy's curve_fit, and its verdicts, which follow the data."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.optimize import curve_fit

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT / "benchmarks" / "guide"), str(ROOT / "benchmarks")]

import guide_audit  # noqa: E402
import scaling_fits as fits  # noqa: E402
from guide_scaling_page import section  # noqa: E402

SAID = yaml.safe_load(guide_audit.CLAIMS.read_text())["scaling"]
SIZES = {
    "n_layers": (2, 4, 8, 16),
    "d_model": (96, 192, 288, 384, 480),
    "ffn_hidden": (256, 512, 1024, 2048),
    "batch_size": (1, 2, 4, 8, 16),
}
BASE = {"n_layers": 8, "d_model": 192, "ffn_hidden": 512, "batch_size": 8}


@pytest.mark.parametrize("power", [-1.0, 0.7, 2.0])
def test_exponents_intervals_hold_the_truth_as_often_as_they_say(power):
    draw, sizes, held, runs = np.random.default_rng(1), np.array(SIZES["n_layers"]), 0, 400
    for _ in range(runs):
        found = fits.exponent(sizes, 5 * sizes**power * np.exp(draw.normal(0, 0.05, len(sizes))))
        held += found.low <= power <= found.high
    assert 0.92 <= held / runs <= 0.98


def test_exponents_of_exact_data_are_exact():
    found = fits.exponent([1, 3, 10], [2.0, 18.0, 200.0])
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))


@pytest.mark.parametrize("degree", [1, 2])
def test_curves_are_those_of_scipy(degree):
    sizes = np.array(SIZES["d_model"], dtype=float)
    values = np.polyval([0.02, 3, 400][-degree - 1 :], sizes) * np.array([1.01, 0.99, 1.02, 0.97, 1.0])
    best, covariance = curve_fit(
        lambda x, *c: sum(ci * x**i for i, ci in enumerate(c)), sizes, values, p0=[1.0] * (degree + 1), sigma=values
    )
    found = fits.curve(sizes, values, degree=degree)
    assert found.coefficients == pytest.approx(best, rel=1e-4)
    assert found.covariance == pytest.approx(covariance, rel=1e-3)
    assert found.degrees_of_freedom == 4 - degree
    shown = found.at(300)
    assert found.r_squared == pytest.approx(
        1 - ((values - [found.at(x) for x in sizes]) ** 2).sum() / ((values - values.mean()) ** 2).sum()
    )
    assert found.ratio(300, 400).value == pytest.approx(found.at(400) / shown)
    assert found.constant_share(300).value == pytest.approx(best[0] / shown, rel=1e-3)


def test_intervals_of_ratio_and_share_are_those_of_their_slopes_by_the_coefficients():
    sizes = (1, 2, 4, 8, 16)
    found = fits.curve(sizes, [118.0, 141, 183, 255, 430], degree=1)
    step, t = 1e-6 * found.coefficients, 3.182446  # of three degrees of freedom

    def half(function):
        slopes = [(function(found.coefficients + d) - function(found.coefficients)) / d.sum() for d in np.diag(step)]
        return t * np.sqrt(slopes @ found.covariance @ slopes)

    ratio, share = found.ratio(8, 16), found.constant_share(8)
    grown = half(lambda c: np.log((c[0] + 16 * c[1]) / (c[0] + 8 * c[1])))
    assert np.log(ratio.high / ratio.value) == pytest.approx(grown, rel=1e-4)
    assert share.high - share.value == pytest.approx(half(lambda c: c[0] / (c[0] + 8 * c[1])), rel=1e-4)


def test_intervals_of_ratio_and_share_hold_the_truth_as_often_as_they_say():
    draw, sizes, runs, ratios, shares = np.random.default_rng(2), np.array(SIZES["batch_size"]), 400, 0, 0
    truth = 100.0 + 20.0 * sizes
    for _ in range(runs):
        found = fits.curve(sizes, truth * np.exp(draw.normal(0, 0.02, len(sizes))), degree=1)
        ratio, share = found.ratio(8, 16), found.constant_share(8)
        ratios += ratio.low <= 420 / 260 <= ratio.high
        shares += share.low <= 100 / 260 <= share.high
    assert 0.92 <= ratios / runs <= 0.98
    assert 0.92 <= shares / runs <= 0.98


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.92, 2.08, "holds"),
        (1.88, 2.0, "isn't decided"),
        (1.5, 2.5, "isn't decided"),
        (1.7, 1.9, "doesn't hold"),
        (2.11, 2.2, "doesn't hold"),
    ],
)
def test_a_verdict_is_the_whole_intervals(low, high, verdict):
    assert fits.near(fits.Estimate(value=(low + high) / 2, low=low, high=high), 2.0, tolerance=0.05) == verdict
    power = fits.Estimate(value=1.0, low=np.log2(low), high=np.log2(high))
    assert fits.near_power(power, 1.0, tolerance=0.05) == verdict


@pytest.mark.parametrize(
    ("sizes", "values", "message"),
    [
        ((1, 2), (1, 2), "too few"),
        ((1, 2, 3), (1, 0, 3), "positive"),
        ((1, 2, 2), (1, 2, 3), "one value for each"),
    ],
)
def test_what_has_no_fit_says_why(sizes, values, message):
    with pytest.raises(ValueError, match=message):
        fits.exponent(sizes, values)


def record(speed, memory, *, rounds=2, device="cpu", noise=0.0):
    """A record as `guide_scaling.py` writes it, of functions of the sizes' fractions of the base."""
    draw = np.random.default_rng(0)
    steps = {}
    for number in range(1, rounds + 1):
        for axis, sizes in SIZES.items():
            for size in sizes:
                label = "base" if size == BASE[axis] else f"{axis} {size}"
                by = np.exp(draw.normal(0, noise, 2)) if noise else (1, 1)
                point = {
                    "status": "ok", "tokens_per_s": 1000 * speed(axis, size / BASE[axis]) * by[0],
                    "memory_bytes": 1e8 * memory(axis, size / BASE[axis]) * by[1],
                    "predicted_bytes": 8e7 * proportional(axis, size / BASE[axis]),
                }  # fmt: skip
                steps[f"round {number}: {label}"] = {"status": "done", "rows": {"point": point}}
    settings = {"device": device, "precision": "fp32", "vocab_size": 4096, "seq_len": 128, "base": BASE, "sizes": SIZES}
    return {"device": f"some {device}", "settings": settings, "steps": steps}


def proportional(axis, x):
    return x ** {"n_layers": 1, "d_model": 2, "ffn_hidden": 1, "batch_size": 1}[axis]


def with_a_constant(axis, x):
    return 0.5 + 0.5 * proportional(axis, x)


def written(folder, *records):
    for i, one in enumerate(records):
        (folder / f"guide_scaling_{i}.json").write_text(json.dumps(one))
    return "\n".join(section(SAID, folder))


def verdicts(text):
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[-1] for row in rows if len(row) == 4 and row[0] != "claim"}


MEMORY = ("Memory linear in layers", "32 layers ≈ 2x memory of 16 layers", "Memory quadratic in d_model",
          "Memory linear in batch size", "batch 16 = 2x memory of batch 8")  # fmt: skip
SPEED = ("Fewer layers: faster", "Smaller d_model: faster", "Smaller FFN: faster")


@pytest.mark.parametrize(
    ("memory", "noise", "verdict"),
    [(proportional, 0, "holds"), (with_a_constant, 0, "doesn't hold"), (proportional, 0.3, "isn't decided")],
)
def test_verdicts_on_memory_follow_the_data(tmp_path, memory, noise, verdict):
    found = verdicts(written(tmp_path, record(lambda axis, x: 1 / x, memory, noise=noise)))
    assert {claim: found[claim] for claim in MEMORY} == dict.fromkeys(MEMORY, verdict)


@pytest.mark.parametrize(
    ("speed", "noise", "verdict"),
    [(-0.5, 0, "holds"), (0.5, 0, "doesn't hold"), (0.0, 0.1, "isn't decided")],
)
def test_verdicts_on_speed_follow_the_data(tmp_path, speed, noise, verdict):
    found = verdicts(written(tmp_path, record(lambda axis, x: x**speed, proportional, noise=noise)))
    assert {claim: found[claim] for claim in SPEED} == dict.fromkeys(SPEED, verdict)


def test_the_figures_are_those_of_the_data(tmp_path):
    text = written(tmp_path, record(lambda axis, x: x**-0.8, with_a_constant))
    assert "some cpu, fp32; L8 d192 f512 V4096, micro-batch 8 × 128" in text
    assert "tokens/s ∝ x^b, b = -0.80 [-0.80, -0.80]" in text
    # Half of the base's memory is constant: from half the layers 0.75 → 1, two thirds of the former.
    assert "4 → 8: × 1.33 [1.33, 1.33]; by the plan's formula × 2.00" in text
    assert "whose constant is 67% [67, 67] of the memory at 4" in text
    assert "8 → 16: × 1.50 [1.50, 1.50]" in text
    # 1 + (4/3)² over 2.
    assert "192 → 256: × 1.39 [1.39, 1.39]" in text
    assert "| layers | 2, 4, 8, 16 | 2 | -0.80 [-0.80, -0.80] |" in text


def test_a_round_that_isnt_whole_counts_for_nothing(tmp_path):
    data = record(lambda axis, x: 1 / x, proportional, rounds=3)
    whole = written(tmp_path, data)
    del data["steps"]["round 3: n_layers 2"]
    data["steps"]["round 3: n_layers 4"]["rows"]["point"]["tokens_per_s"] = 1e9
    cut = written(tmp_path, data)
    assert cut == whole.replace("| layers | 2, 4, 8, 16 | 3 |", "| layers | 2, 4, 8, 16 | 2 |") != whole


def test_what_is_out_of_memory_or_unmeasured_is_said(tmp_path):
    data = record(lambda axis, x: 1 / x, proportional)
    data["steps"]["round 1: batch_size 16"]["rows"]["point"] = {"status": "out_of_memory"}
    for number in (1, 2):
        del data["steps"][f"round {number}: ffn_hidden 1024"]
        data["steps"][f"round {number}: n_layers 2"]["rows"]["point"]["memory_bytes"] = -1
    text = written(tmp_path, data)
    assert (
        "Left out: layers: its memory can't be told from the process's own; FFN: no whole round; "
        "micro-batch 16 is out of memory." in text
    )
    assert "| micro-batch | 1, 2, 4, 8 | 2 |" in text
    assert verdicts(text)["Smaller FFN: faster"] == verdicts(text)["Fewer layers: faster"] == "not measured"


def test_the_page_says_what_its_devices_leave_open(tmp_path):
    assert "Nothing is recorded yet" in written(tmp_path)
    cpu = record(lambda axis, x: 1 / x, proportional)
    assert "All of this is a CPU's" in written(tmp_path, cpu)
    both = written(tmp_path, cpu, record(lambda axis, x: 1 / x, with_a_constant, device="cuda"))
    assert "All of this is a CPU's" not in both
    assert both.count("| 32 layers ≈ 2x memory of 16 layers |") == 2
    assert both == written(tmp_path)


def study(losses, *, seeds=3, sd=0.01, ffn=None, params=None):
    """A study's frontier.json, of losses by depth; 4 layers have them at the higher of two learning rates."""
    points = [
        {
            "shape": {"n_layers": layers, "d_model": 96, "ffn_hidden": (ffn or {}).get(layers, 256)}, "batch_size": 4,
            "recipe": {"tokens": 1_000_000, "optimizer": {"name": "adamw", "lr": lr}},
            "params": {"trunk": params or 1000 * layers},
            "objectives": {"val_loss": {"mean": loss + 0.5 * ((lr == 2e-3) != (layers == 4)), "n": seeds}},
        }
        for layers, loss in losses.items() for lr in (1e-3, 2e-3)
    ]  # fmt: skip
    noise = {"val_loss": {"residual_sd": sd, "degrees_of_freedom": 12}}
    return {"study": "made-up", "profile": "cpu", "frontiers": [{"device": "d", "noise": noise, "points": points}]}


@pytest.mark.parametrize(
    ("losses", "more", "verdict"),
    [
        ({2: 2.0, 4: 1.9, 8: 1.8}, {}, "holds"),
        ({2: 1.8, 4: 1.9, 8: 1.8}, {}, "doesn't hold"),
        ({2: 2.0, 4: 1.9, 8: 1.8}, {"sd": 0.2}, "isn't decided"),
        ({2: 1.8, 4: 1.9}, {"params": 5, "ffn": {2: 512}}, "doesn't hold, at equal parameters"),
    ],
)
def test_verdicts_on_quality_follow_the_recorded_studies(tmp_path, losses, more, verdict):
    (tmp_path / "made_up").mkdir()
    (tmp_path / "made_up" / "frontier.json").write_text(json.dumps(study(losses, **more)))
    text = "\n".join(section(SAID, tmp_path))
    assert verdicts(text)["More layers: generally better"] == verdict
    assert text.count("| More layers: generally better |") == 1
    assert verdicts(text)["Wider FFN: better"] == "not measured"
    assert f"L2 f{512 if 'ffn' in more else 256} {losses[2]:.3f}" in text

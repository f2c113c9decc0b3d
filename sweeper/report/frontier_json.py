"""`frontier.json`: what the frontier holds, as plain values."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from sweeper.frontier.answer import answer, main_device
from sweeper.frontier.frontiers import Frontier
from sweeper.stats.additive_fit import CONFIDENCE, POWER
from sweeper.values.records import SCHEMA, with_configs

MOST_TIES = 5000
"""Pairs of tied configs that are listed: of a thousand configs nearly half a million may be tied."""


def frontier_json(found: Frontier) -> dict[str, Any]:
    """`frontier.json` as plain values, the answer first; of many ties those of the lowest losses."""
    cut = [replace(one, ties=one.ties[:MOST_TIES]) for one in found.frontiers]
    whole = replace(found, frontiers=tuple(cut))
    plain = {"answer": _answer(found), **with_configs(asdict(whole), whole)}
    for one, own in zip(plain["frontiers"], found.frontiers, strict=True):
        one["ties_left_out"] = len(own.ties) - len(one["ties"])
        del one["fits"]
        one["noise"] = {"confidence": CONFIDENCE, "power": POWER, **one["noise"]}
    return {"schema": SCHEMA, **plain}


def _answer(found: Frontier) -> dict[str, Any]:
    """The lines, and what they say as values: ids are those of configs, differences are in nats to the choice."""
    plain: dict[str, Any] = {"lines": list(answer(found)), "choice": None, "as_good": [], "ruled_out": [], "open": None}
    if not any(one.points for one in found.frontiers):
        return plain
    one = main_device(found)
    decision, points = one.decision, {point.point_id: point for point in one.points}
    if decision.choice is None:
        return plain
    chosen = points[decision.choice]
    plain["choice"] = {"config_id": chosen.config_id, "batch_size": chosen.batch_size, "by": decision.by}
    plain["as_good"] = [points[against.point_id].config_id for against in decision.as_good]
    plain["ruled_out"] = [
        {
            "config_id": points[out.point_id].config_id,
            "difference": out.difference,
            "low": out.low,
            "high": out.high,
        }
        for out in decision.ruled_out
    ]
    if (still := decision.open) is not None:
        ids = [points[point_id].config_id for point_id in still.point_ids]
        plain["open"] = {"configs": ids, **{k: v for k, v in asdict(still).items() if k != "point_ids"}}
    return plain

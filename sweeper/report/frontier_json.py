"""`frontier.json`: what the frontier holds, as plain values."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from sweeper.frontier.answer import answer
from sweeper.frontier.frontiers import Frontier
from sweeper.stats.additive_fit import CONFIDENCE, POWER
from sweeper.values.records import SCHEMA, with_configs

MOST_TIES = 5000
"""Pairs of tied configs that are listed: of a thousand configs nearly half a million may be tied."""


def frontier_json(found: Frontier) -> dict[str, Any]:
    """`frontier.json` as plain values, with the answer's sentences; of many ties those of the lowest losses."""

    cut = [replace(one, ties=one.ties[:MOST_TIES]) for one in found.frontiers]
    whole = replace(found, frontiers=tuple(cut))
    plain = {"answer": list(answer(found)), **with_configs(asdict(whole), whole)}
    for one, own in zip(plain["frontiers"], found.frontiers, strict=True):
        one["ties_left_out"] = len(own.ties) - len(one["ties"])
        del one["fits"]
        one["noise"] = {"confidence": CONFIDENCE, "power": POWER, **one["noise"]}
    return {"schema": SCHEMA, **plain}

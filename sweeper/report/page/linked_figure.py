"""The frontier's figure made to be hovered, focused and clicked: each point a link, with room for a finger."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIT_RADIUS = 9
"""Of the invisible disc around a point, in the figure's units: a marker's is 3.25."""
_POINT = re.compile(r'<g id="point-(\d+)-(\d+)">(<title>.*?</title>)(.*?)</g>\s*</g>', re.DOTALL)
_USE = re.compile(r'<use [^>]*\bx="([^"]*)" y="([^"]*)"')
_STYLE = re.compile(r"<style.*?</style>", re.DOTALL)
_FONTS = re.compile(r"font-family: [^;\"]*; ?")


def linked_svg(svg: str, frontier_json: Mapping[str, Any], targets: Mapping[str, str]) -> str:
    """`frontier_svg`'s `svg` with each named point as a link to the page's element, `targets` by config id.

    A link's `data-point` is "panel-index" of frontiers and points in `frontier_json`, its `data-config` the config id.
    What figures set for a whole page (a style sheet, fonts) is left to the page.
    """
    frontiers = frontier_json["frontiers"]

    def link(found: re.Match[str]) -> str:
        panel, index, title, drawn = found.groups()
        config_id = frontiers[int(panel)]["points"][int(index)]["config_id"]
        place = _USE.search(drawn)
        assert place is not None, "a marker is drawn by a <use> element"
        x, y = place.groups()
        return (
            f'<a class="point" id="point-{panel}-{index}" href="#{targets[config_id]}" data-point="{panel}-{index}" '
            f'data-config="{config_id}">{title}{drawn}</g><circle class="hit" cx="{x}" cy="{y}" r="{HIT_RADIUS}"/></a>'
        )

    svg = _POINT.sub(link, svg)
    svg = _FONTS.sub("", _STYLE.sub("", svg, count=1))
    return svg.replace("<svg ", '<svg data-step="-1" ', 1)  # points stand fastest first: to the right is back

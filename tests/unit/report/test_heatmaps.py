"""Heat maps: over which quantities, which value stands where, and how it is coloured."""

from __future__ import annotations

import re

import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex

from sweeper.report.page.heatmaps import heat_maps

SHAPE = {
    "n_layers": 1, "d_model": 96, "n_heads": 3, "n_kv_heads": 1, "head_dim": 32, "ffn_hidden": 256, "vocab_size": 256,
}  # fmt: skip


def one(*cells, standing="dominated"):
    """A frontier of points (shape changes, loss, speed)."""
    return {
        "points": [
            {
                "shape": {**SHAPE, **shape}, "config_id": f"{i:012x}", "label": f"p{i}", "standing": standing,
                "objectives": {"val_loss": {"mean": loss}, "tokens_per_s": {"mean": speed}},
            }
            for i, (shape, loss, speed) in enumerate(cells)
        ]
    }  # fmt: skip


def grid(depths, widths, **other):
    return [
        ({"n_layers": n, "d_model": d, **other}, 3 - n / 100 - d / 1e4, 1e6 / n / d) for n in depths for d in widths
    ]


def where(cell, heat):
    """Column and row from the top."""
    return round((cell.x - 46) / heat.cell_width), round((cell.y - 4) / heat.cell_height)


def test_depth_goes_up_and_width_to_the_right_and_each_value_stands_at_its_place():
    depths, widths = (2, 4, 8), (64, 128, 256, 512)
    maps = heat_maps(one(*grid(depths, widths)))
    assert maps.title == "Depth × width"
    loss, speed = maps.maps
    assert (loss.across, loss.down, loss.two_way) == ("width (d_model)", "depth (layers)", True)
    for heat, text in ((loss, lambda n, d: f"{3 - n / 100 - d / 1e4:.3f}"), (speed, lambda n, d: 1e6 / n / d)):
        for cell in heat.cells:
            column, row = where(cell, heat)
            n, d = depths[::-1][row], widths[column]
            assert cell.config_id == f"{depths.index(n) * 4 + column:012x}"
            if heat is loss:
                assert cell.text == text(n, d)
            assert cell.title.startswith(f"d{d} L{n}: ")
    assert "Crossed out" not in maps.note


def test_brighter_is_better_in_both_maps_on_cividis():
    loss, speed = heat_maps(one(*grid((1, 2), (64, 128)))).maps
    best, worst = to_hex(colormaps["cividis"](1.0)), to_hex(colormaps["cividis"](0.0))
    by_fill = [{cell.fill: cell for cell in heat.cells} for heat in (loss, speed)]
    assert by_fill[0][best].title.startswith("d128 L2")
    assert by_fill[0][worst].title.startswith("d64 L1")
    assert by_fill[1][best].title.startswith("d64 L1")
    assert by_fill[1][worst].title.startswith("d128 L2")
    assert (by_fill[0][best].ink, by_fill[0][worst].ink) == ("#000000", "#ffffff")
    assert (loss.worst, loss.best) == (loss_text(by_fill[0][worst]), loss_text(by_fill[0][best]))
    assert (loss.stops[0], loss.stops[-1]) == (worst, best)


def loss_text(cell):
    return re.search(r": ([\d.]+) ", cell.title)[1]


def test_text_on_every_colour_has_contrast():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    points = [({"n_layers": n, "d_model": d}, 2 + n + 8 * d, 1.0 + n * d) for n in range(8) for d in range(8)]
    for heat in heat_maps(one(*points)).maps:
        for cell in heat.cells:
            dark, bright = sorted((luminance(cell.fill), luminance(cell.ink)))
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, "WCAG 2.1, AA"


def test_a_place_without_a_result_is_shown_as_such():
    maps = heat_maps(one(*grid((1, 2, 3), (64, 128))[:-1]))
    for heat in maps.maps:
        (missing,) = [cell for cell in heat.cells if cell.fill is None]
        assert where(missing, heat) == (1, 0)
        assert missing.title == "d128 L3: no result"
        assert missing.config_id is None
    assert "Crossed out: no result." in maps.note


def test_of_several_results_each_map_shows_its_best_and_says_so():
    cells = [*grid((1, 2), (64, 128)), ({"n_layers": 2, "d_model": 128, "ffn_hidden": 512}, 2.0, 1.0)]
    maps = heat_maps(one(*cells))
    loss, speed = ({where(cell, heat): cell for cell in heat.cells} for heat in maps.maps)
    assert (loss[1, 0].text, loss[1, 0].index) == ("2.000", 4)
    assert speed[1, 0].index == 3
    assert "Up to 2 results share a cell, which shows the best of them" in maps.note


def test_at_a_fixed_width_it_is_depth_against_ffn():
    cells = [({"n_layers": n, "ffn_hidden": f}, 3.0 + n / f, n * f * 1.0) for n in (1, 2) for f in (64, 128, 256)]
    maps = heat_maps(one(*cells))
    assert maps.title == "Depth × FFN"
    assert maps.maps[0].across == "FFN (ffn_hidden)"


def test_what_follows_from_the_other_is_one_row():
    maps = heat_maps(one(*[({"n_layers": n, "ffn_hidden": 512 // n}, 3.0 + n, 1.0 + n) for n in (1, 2, 4, 8)]))
    assert maps.title == "Depth and FFN"
    assert {where(cell, maps.maps[0]) for cell in maps.maps[0].cells} == {(column, 0) for column in range(4)}
    assert [text for _, _, text, anchor in maps.maps[0].ticks if anchor == "middle"] == [
        "1", "512", "2", "256", "4", "128", "8", "64",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "cells",
    [
        [],
        grid((1,), (64,)),
        grid((1,), (64, 128, 256, 512)),
        grid((1, 2, 3), (64,), ffn_hidden=5)[:3],
        [({"n_layers": n, "d_model": 64 * (n * 17 % 41)}, 3.0, 1.0) for n in range(1, 42)],
    ],
    ids=["nothing", "one", "one quantity", "three cells", "too wide"],
)
def test_there_is_no_map_where_it_would_show_nothing(cells):
    assert heat_maps(one(*cells)) is None


def test_values_are_written_where_there_is_room():
    few, many = (heat_maps(one(*grid(range(1, 5), range(64, 64 * (n + 1), 64)))) for n in (6, 30))
    assert all(cell.text for cell in few.maps[0].cells)
    assert not any(cell.text for cell in many.maps[0].cells)
    assert len([tick for tick in many.maps[0].ticks if tick[3] == "middle"]) < 30

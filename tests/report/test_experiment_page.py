"""The page of an experiment: what it holds, that a slider moves the fit, that nothing on it runs or loads."""

import json
import math
import re

import pytest

from cheaplip.report.aggregate import Estimate, MeasuredRow
from cheaplip.report.figure_2 import path_panel, write_page
from support.browser import browse, needs_chromium
from support.run_folders import EVIL

X = [-4.0, -2.0, 0.0, 2.0, 4.0]
CHAIN = (0.0, 10.0, 1.0, 1e-10)
KINDS = {"sigmoid": CHAIN, "squared": CHAIN, "linear": CHAIN, "path": (1.0, 0.1, 0.01), "discrepancy": (0.3,)}


def fit(kind, weight, seed):
    values = [math.cos(x) / (1 + weight) + 0.01 * seed for x in X]
    return {"kind": kind, "lambda": weight, "risk": 0.01 + weight, "lipschitz": 1 / (1 + weight), "fit": values, "seed": seed}


@pytest.fixture(scope="module")
def curves():
    fits = [fit(kind, weight, seed) for seed in (0, 1) for kind, weights in KINDS.items() for weight in weights]
    data = [{"seed": seed, "x": [-3.5, 0.1, 3.5], "y": [0.3, 0.0, 0.2]} for seed in (0, 1)]
    return {"x": X, "truth": [max(abs(x) - 3, 0) / 2 for x in X], "data": data, "fits": fits}


@pytest.fixture(scope="module")
def page(tmp_path_factory, curves):
    estimate = {"risk": Estimate(0.25, 0.5, 2, None), "lipschitz_lower": Estimate(0.12345, None, 1, None)}
    labels = [{"fit": "path", "lambda": "1"}, {"fit": "path", "lambda": "0.1"}, {"fit": EVIL, "lambda": "0"}]
    rows = [MeasuredRow(label, estimate if i else {"risk": Estimate(0.1, None, 1, None)}, 2) for i, label in enumerate(labels)]
    out = tmp_path_factory.mktemp("page")
    write_page(curves, rows, out, {"seeds": [0, 1], "git": EVIL})
    return out / "index.html"


def test_the_page_has_every_figure_and_number(page):
    text = page.read_text()
    for part in ("Figure 2", "The weight found by itself", "Risk against Lipschitz", "Try it", "In numbers", "Provenance"):
        assert part in text
    assert text.count('role="img"') == 4
    assert "0.25<small>± 0.5</small>" in text
    assert "0.123" in text  # a lower bound, rounded down
    assert EVIL not in text
    assert text.count('class="sortable"') == 2  # one a kind of fit


def test_without_the_parts_of_a_figure_it_is_left_out(tmp_path, curves):
    path = [one for one in curves["fits"] if one["kind"] == "path"]
    write_page({**curves, "fits": path}, [], tmp_path, {})
    text = (tmp_path / "index.html").read_text()
    assert "Figure 2 of the paper" not in text
    assert "Try it" in text


def test_the_steps_lie_on_the_drawing(curves):
    panel = path_panel(curves)
    assert [step["label"].split(":")[0] for step in panel.steps] == ["λ = 0.01", "λ = 0.1", "λ = 1"]
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', panel.drawing).groups())
    axis = []  # the height of the constant 0, from two points of each step
    for step, weight in zip(panel.steps, (0.01, 0.1, 1.0), strict=True):
        points = [tuple(map(float, point.split(","))) for point in step["points"].split()]
        assert all(0 < x < width and 0 < y < height for x, y in points)
        top, bottom = points[2][1], points[1][1]
        values = [1 / (1 + weight), math.cos(2) / (1 + weight)]
        axis.append(top + (bottom - top) * values[0] / (values[0] - values[1]))
    assert max(axis) - min(axis) < 0.5


@needs_chromium
def test_the_slider_moves_the_fit(page, tmp_path):
    drive = """<script>
    const panel = document.querySelector(".path"), slider = panel.querySelector("input"), seen = [];
    const line = panel.querySelector("polyline"), output = panel.querySelector("output");
    const note = () => seen.push(line.getAttribute("points"), output.textContent);
    note(); slider.value = 2; slider.dispatchEvent(new Event("input")); note();
    document.querySelector("table.sortable th:nth-child(2) button").click();
    seen.push(document.querySelector("table.sortable tbody td:nth-child(2)").textContent, slider.ariaValueText);
    document.title = JSON.stringify(seen);
    </script></body>"""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    driven = tmp_path / "driven.html"
    driven.write_text(text.replace("</body>", drive))
    dom, console = browse(driven, tmp_path / "profile")
    assert console == []
    before, first, after, second, sorted_first, spoken = json.loads(re.search(r"<title>(\[.*?\])</title>", dom)[1])
    assert before != after
    assert first.startswith("λ = 0.01: risk 0.02")
    assert second.startswith("λ = 1: risk 1.01")
    assert spoken == second
    assert sorted_first == "1"


@needs_chromium
def test_the_browser_has_nothing_to_complain_about(page, tmp_path):
    dom, console = browse(page, tmp_path / "profile")
    assert console == []
    assert "risk 0.02" in dom  # the script ran

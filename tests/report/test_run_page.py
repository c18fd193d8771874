"""The report page: what it holds, that it loads and runs nothing, and the page in a real browser."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cheaplip.errors import InputError
from cheaplip.report import write_report
from cheaplip.report.style import PALETTE
from cheaplip.run_folder import Run, find_runs
from support.browser import browse, needs_chromium
from support.elements import parse
from support.run_folders import EVIL, three_methods, write_pairs, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return find_runs([three_methods(tmp_path_factory.mktemp("runs"))])


@pytest.fixture(scope="module")
def page(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(runs, tmp_path_factory.mktemp("report"))


def test_page_has_every_section_and_needs_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("so that networks are compared at equal accuracy. &minus;1 % is a tolerance") == 1
    elements = parse(text)
    for section in (
        "Training",
        "Accuracy against",
        "How the weight",
        "Lipschitz constant",
        "Pairs before",
        "Provenance",
    ):
        assert f">{section}" in text
    assert all(link.startswith(("data:", "#")) for link in elements.links)
    assert "http://" not in text
    assert "https://" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", text))
    assert len(elements.ids) == len(set(elements.ids))
    assert all(image["alt"] for image in elements.images)
    assert len(elements.images) == 12  # 3 pairs, 2 points, before and after
    drawings = re.findall(r"<svg viewBox[^>]*>", text.replace('<svg class="swatch" ', ""))
    assert sum('role="img"' in drawing for drawing in drawings) == 5
    assert "cheaplip demo --seed 0" in text
    assert "1,200 samples" in text
    assert "eps = 1" in text


def in_order(levels: list[int]) -> bool:
    """Whether a page of these headings has one title, and none is of a level whose parent is missing."""
    return levels[0] == 1 not in levels[1:] and all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_headings_and_tables_have_an_order_for_screen_readers(page: Path, tmp_path: Path) -> None:
    two = three_methods(tmp_path / "runs", seeds=1)
    write_pairs(write_run(two / "other", data="other"))
    several = write_report(find_runs([two]), tmp_path / "out").read_text(encoding="utf-8")
    for text, deepest in ((page.read_text(encoding="utf-8"), 4), (several, 5)):
        assert '<html lang="en">' in text
        found = parse(text)
        assert in_order(found.levels)
        assert max(found.levels) == deepest
        assert found.tags.count("caption") == found.tags.count("table")
        assert "<th>" not in text


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_from_the_page(page: Path, scheme: int) -> None:
    """4.5 for text and 3 for lines: level AA of WCAG 2.2."""
    named = [dict(re.findall(r"--(\w+): (#\w{6})", rule)) for rule in re.findall(r":root \{ (--page.*?)\}", page.read_text())]
    backgrounds = named[scheme]["page"], named[scheme]["hover"]
    texts = {"soft": named[scheme]["soft"], "ink": PALETTE["ink"][scheme], "clip": PALETTE["clip"][scheme]}
    lines = {name: colours[scheme] for name, colours in PALETTE.items() if name not in ("ink", "faint")}
    for least, colours in ((4.5, texts), (3.0, lines)):
        for name, colour in colours.items():
            assert min(contrast(colour, background) for background in backgrounds) >= least, name


def test_page_depends_on_nothing_but_the_runs(runs: list[Run], page: Path, tmp_path: Path) -> None:
    assert write_report(runs, tmp_path / "new" / "folder").read_bytes() == page.read_bytes()
    assert sorted(file.name for file in page.parent.iterdir()) == ["index.html", "table.csv", "table.json", "table.md"]


def test_pairs_are_shown_across_training_with_the_names_of_their_classes(tmp_path: Path) -> None:
    names = ["T-shirt", "trouser", EVIL, *"defghij"]
    run = write_run(tmp_path / "run", class_names=names)
    for name in ("pairs.npz", "pairs-10.npz", "pairs-2.npz"):
        write_pairs(run, k=1, file=name)
    text = write_report(find_runs([run]), tmp_path / "out").read_text(encoding="utf-8")
    stages = re.findall(r'class="moment">\s*<h4 class="small-title">([^<]*)', text)
    assert stages == ["before ascent", "after ascent, epoch 2", "after ascent, epoch 10", "after ascent"]
    assert not re.search(r"predicted class \d", text)
    assert EVIL not in text


def test_certified_accuracy_is_drawn_where_a_run_has_it(tmp_path: Path) -> None:
    points = [{"eps": eps, "certified_accuracy": 0.9 - 0.4 * eps, "n": 360} for eps in (0.3, 0.5, 1.0)]
    locally = [{**point, "certified_accuracy": 0.8, "n": 40} for point in points]
    write_run(tmp_path / "a", certified=points, certified_locally=locally)
    write_run(tmp_path / "b", method="standard")
    text = write_report(find_runs([tmp_path]), tmp_path / "out").read_text(encoding="utf-8")
    assert "What is proved" in text
    assert "Certified. CLIP 95 %: from 78 at 0.3 to 50 at 1. Certified locally. CLIP 95 %: from 80 at 0.3 to 80 at 1." in text
    row = json.loads((tmp_path / "out" / "table.json").read_text())["rows"][1]
    assert row["metrics"]["certified_0.5"] == {"mean": 0.7, "ci95": None, "n": 1, "samples": None}
    assert "certified_1.58" not in row["metrics"]
    assert "The bracket in training" in text
    assert "Upper end. CLIP 95 %: from" in text
    (tmp_path / "a" / "result.json").unlink()
    text = write_report(find_runs([tmp_path / "b"]), tmp_path / "out").read_text(encoding="utf-8")
    assert "What is proved" not in text
    assert "The bracket in training" not in text


def test_bad_arguments_are_refused(runs: list[Run], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one run"):
        write_report([], tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="an output folder that can be written"):
        write_report(runs, tmp_path / "file")


def test_report_does_not_import_torch() -> None:
    code = "import sys, cheaplip.report; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# The page in a browser


@needs_chromium
def test_browser_has_nothing_to_complain_about(page: Path, tmp_path: Path) -> None:
    # The page's own policy forbids every request, so an attempted one would be an error on the console.
    dom, console = browse(page, tmp_path)
    assert console == []
    assert "</footer>" in dom


@needs_chromium
def test_console_errors_would_be_seen(page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    spoilt = "</main><img src='https://example.org/x.png'><script>alert(1)</script>"
    broken.write_text(page.read_text(encoding="utf-8").replace("</main>", spoilt), encoding="utf-8")
    _, console = browse(broken, tmp_path / "profile")
    assert sum("Content Security Policy" in line for line in console) == 2


@needs_chromium
def test_tables_sort_and_the_page_fits_a_phone(page: Path, tmp_path: Path) -> None:
    check = """<script>
    const first = () => document.querySelector("table.sortable tbody th").textContent.trim();
    const heading = [...document.querySelectorAll("th")].find((th) => th.textContent.includes("Test"));
    const seen = [first()];
    for (let i = 0; i < 2; i++) { heading.querySelector("button").click(); seen.push(heading.ariaSort, first()); }
    const target = [...document.querySelectorAll("th")].find((th) => th.textContent.includes("Target"));
    target.querySelector("button").click();
    seen.push(first(), heading.ariaSort, document.querySelectorAll("th button").length > 10);
    const frame = document.createElement("iframe");
    frame.style.width = "390px"; frame.srcdoc = PAGE;
    frame.onload = () => {
      const inner = frame.contentDocument.documentElement;
      document.title = JSON.stringify([...seen, inner.scrollWidth <= 390]);
    };
    document.body.append(frame);
    </script></body>"""
    text = page.read_text(encoding="utf-8")
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    inner = json.dumps(free).replace("</", "<\\/")
    driven = tmp_path / "driven.html"
    driven.write_text(free.replace("</body>", check.replace("PAGE", inner)), encoding="utf-8")
    dom, console = browse(driven, tmp_path / "profile")
    assert console == []
    title = re.search(r"<title>(\[.*?\])</title>", dom)
    assert title is not None
    test_first = ["Standard", "descending", "Standard", "ascending"]
    seen = json.loads(title[1])
    assert seen[:4] == test_first
    assert seen[4] in ("CLIP", "Weight Reg.")
    assert seen[5:] == [seen[5], "none", True, True]
    assert seen[5] != "Standard"  # it has no target, and empty cells stay last

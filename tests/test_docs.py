"""The code blocks in docs/ run and do what the text says, and links inside the repository resolve."""

import re
from pathlib import Path

import pytest
import torch

import cheaplip
from support import paper_map, rules_table

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "results").rglob("*.md")), ROOT / "CONTRIBUTING.md"]


def test_a_step_with_a_certificate_lowers_the_upper_end():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", text, flags=re.S) if "certificate" in block]
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    x = torch.randn(64, 4)
    names = {"cheaplip": cheaplip, "model": model, "pairs": cheaplip.perturbed_pairs(x), "x": x, "y": (x[:, 0] > 0).long()}
    names["scheduler"] = cheaplip.ConstantWeight(100.0)
    names["optimizer"] = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = float(cheaplip.CertificateRegularizer(model, (4,)).bound().detach())
    exec(block, names)
    assert names["certificate"].upper_bound() < before


def test_the_table_of_rules_is_that_of_the_rules():
    do = "run python tests/support/rules_table.py"
    # rules that tests register are of other modules
    assert (ROOT / "docs" / "rules.md").read_text() == rules_table.page(), do


def test_the_paper_is_mapped_to_lines_that_are_there():
    do = "run python tests/support/paper_map.py"
    assert (ROOT / "docs" / "paper_to_code.md").read_text() == paper_map.page(), do


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link

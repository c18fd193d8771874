"""The code blocks in docs/ run and do what the text says, and links inside the repository resolve."""

import re
from contextlib import ExitStack
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import pytest
import torch

import cheaplip
from support import paper_map, rules_table
from support.searches import short_ascents, short_searches

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "results").rglob("*.md")), ROOT / "CONTRIBUTING.md"]


SLOW = {"integrations.md", "steering.md", "howto.md", "tutorial.md"}
"""Pages that need some seconds; these are run in full, with the searches that the reader has."""
OPTIONAL = ("lightning", "transformers", "skorch")


def code(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)


def given():
    """Names that the reference pages take for granted."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    own = {"MyLayer": type("MyLayer", (torch.nn.Linear,), {}), "MyActivation": type("MyActivation", (torch.nn.ReLU,), {})}
    names = {"cheaplip": cheaplip, "model": model, "x": x, "y": (x[:, 0] > 0).long(), "inputs": x, "slope": (0.0, 1.0), **own}
    names |= {"pairs": cheaplip.perturbed_pairs(x), "scheduler": cheaplip.ConstantWeight(100.0)}
    return names | {"optimizer": torch.optim.SGD(model.parameters(), lr=1e-4)}


def of_pages(pages):
    return [pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.name in SLOW)) for page in pages]


@pytest.mark.parametrize("page", of_pages(page for page in PAGES if (ROOT / "docs") in page.parents and code(page)))
@pytest.mark.filterwarnings("default:::transformers", "default:::torch", "default:::accelerate", "default:::lightning")
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """Without what only optional packages need, which are not installed everywhere."""
    monkeypatch.chdir(tmp_path)
    names = given()
    shorter = (short_searches(), short_ascents()) if page.name not in SLOW else ()
    with ExitStack() as stack:
        for context in shorter:
            stack.enter_context(context)
        for block in code(page):
            wanted = [name for name in OPTIONAL if re.search(rf"^(?:import|from) {name}\b", block, flags=re.M)]
            if all(map(find_spec, wanted)):
                exec(compile(block, str(page), "exec"), names)


def test_a_step_with_a_certificate_lowers_the_upper_end():
    (block,) = [block for block in code(ROOT / "docs" / "benchmarks.md") if "certificate" in block]
    names = given()
    before = float(cheaplip.CertificateRegularizer(names["model"], (4,)).bound().detach())
    exec(block, names)
    assert names["certificate"].upper_bound() < before


def test_every_public_name_is_on_the_page_of_the_api():
    names = {f"cheaplip.{name}" for name in cheaplip.__all__ if not isinstance(getattr(cheaplip, name), ModuleType)}
    modules = (cheaplip.data, cheaplip.models, cheaplip.sklearn)
    inside = {f"{module.__name__}.{name}" for module in modules for name in module.__all__}
    inside -= {"cheaplip.data.Dataset"}  # it is on top, too
    shown = re.findall(r"^::: (.*)$", (ROOT / "docs" / "api.md").read_text(), flags=re.M)
    assert names | inside <= set(shown)
    assert all(attrgetter(name.removeprefix("cheaplip."))(cheaplip) is not None for name in shown if "robustness" not in name)


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

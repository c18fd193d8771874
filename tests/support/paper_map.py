"""Writes docs/paper_to_code.md, from the paper's symbols to lines of code: `python tests/support/paper_map.py`.

Each entry says where to look: a file, and a piece of text of the line meant, which must be there once.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "paper_to_code.md"
HEAD = """# From the paper to the code

Made by `python tests/support/paper_map.py`; a test finds every line. Numbers are those of arXiv:2103.12531.

| in the paper | what it is | name | where |
|---|---|---|---|
"""
ENTRIES = (
    (
        "(1)",
        "a network of known constant 1, product of norms 2",
        "`absolute_value_network`",
        "experiments/section_3.py",
        "def absolute_value_",
    ),
    ("(2)", "the objective: mean loss + lambda Lip(f)", "`fit`", "training/loop.py", "total = loss + penalty"),
    ("lambda Lip(f, X_Lip)", "the term of (2)", "`PenaltyTerm`", "regularization/term.py", "return self.weight * penalty"),
    ("(3)", "the constant itself, between two bounds", "`lipschitz_bracket`", "bounds/bracket.py", "def lipschitz_bracket("),
    ("(4)", "the product of the layers' constants", "`product_of_norms`", "bounds/upper.py", "def product_of_norms("),
    ("(5), one pair", "the difference quotient", "`difference_quotient`", "pairs/quotient.py", "def quotient_of("),
    ("(5), max", "the penalty of some quotients", "`reduce_quotients`", "regularization/regularizer.py", "powered.max() if"),
    ("X_Lip", "the pair set", "`PairSet`", "pairs/sets.py", "class PairSet:"),
    ("X_Lip, images", "an input and a noisy copy", "`perturbed_pairs`", "pairs/sets.py", "def perturbed_pairs("),
    ("X_Lip, regression", "points of a box and noisy copies", "`uniform_pairs`", "pairs/sets.py", "def uniform_pairs("),
    ("(6)", "the norm of the weights", "`WeightNorm`", "regularization/weight_norm.py", "class WeightNorm("),
    ("Algorithm 1", "as printed", "`printed_step`", "pairs/ascent.py", "def printed_step("),
    ("Algorithm 1", "invariant to units (the default)", "`normalized_step`", "pairs/ascent.py", "def normalized_step("),
    ("Algorithm 1", "with acceptance (authors' code)", "`accepted_step`", "pairs/ascent.py", "def accepted_step("),
    ("Algorithm 2", "an epoch", "`fit`", "training/loop.py", "def _train_epoch("),
    ("Algorithm 2", "as printed, a minibatch at a time", "preset `paper`", "training/paper.py", "def steer_by_minibatch("),
    ("discrepancy principle", "lambda +- dlambda", "`additive_rule`", "regularization/discrepancy.py", "def additive_rule("),
    (
        "discrepancy principle",
        "PD control (the default)",
        "`multiplicative_rule`",
        "regularization/discrepancy.py",
        "def multi",
    ),
    ("(14)", "the paper's attack, not clamped", "`signed_pgd`", "robustness/attacks.py", "def signed_pgd("),
    ("Propositions 2 to 4", "as numbers", "`reproduce analysis`", "experiments/section_3.py", "Proposition 2: along"),
    (
        "Figure 2",
        "the regression with gaps",
        "`reproduce regression`",
        "experiments/figure_2.py",
        "Algorithm 2 on full batches",
    ),
    ("Table 1", "MNIST and Fashion-MNIST", "`reproduce mnist`", "experiments/table_1.py", "in equation (6)"),
)


def page() -> str:
    """The whole text."""
    return HEAD + "\n".join(row(*entry) for entry in ENTRIES) + "\n"


def row(paper: str, what: str, name: str, file: str, text: str) -> str:
    """One line of the table; `LookupError` unless the text is in one line of the file."""
    path = ROOT / "src" / "cheaplip" / file
    lines = [number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line]
    if len(lines) != 1:
        raise LookupError(f"{text!r} is in lines {lines} of {file}")
    return f"| {paper} | {what} | {name} | `{file}:{lines[0]}` |"


if __name__ == "__main__":
    PAGE.write_text(page())

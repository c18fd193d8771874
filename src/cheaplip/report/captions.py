"""The texts of the run page, for a reader who has not read the paper."""

from __future__ import annotations

from collections.abc import Sequence

from .aggregate import CERTIFIED_AT, METHOD_LABELS, Row, used_columns
from .run_values import bound_texts, distinct, metrics, numbers
from .tables import value_text

ABOUT_METHODS = {
    "standard": "Plain training, without a penalty.",
    "weight": "Weight regularisation: large weights cost something.",
    "clip": (
        "Cheap Lipschitz training (Bungert et al., 2021, arXiv:2103.12531): a steep answer costs something. Steepness "
        "is measured on pairs of inputs that are themselves moved, again and again, to where the network is steepest."
    ),
}

PUBLISHED = (
    "Our means with their 95 % intervals in colour; crosses are the values that the paper prints (or, for the network "
    "784-200-80-10, the README of its authors' code). The printed values are single numbers without a spread."
)
TRAINING = "Lines are means over the seeds, bands reach from the smallest to the largest seed; one seed has no band."
EPS = (
    "How far a sample may be moved, and how many samples the network then still gets right when the movement is chosen "
    "against it. A high curve that falls late is a robust network. The dotted line marks the length used in the table."
)
CERTIFIED = (
    "Thick, with marks: the share of test samples that are right and proved to stay so, however they are moved by at most "
    "eps. Dashed: the same by radii of each sample's own neighbourhood, for as many of the first test samples as the run had "
    "time for. Thin: the share that the strong attack leaves right. The truth lies between what is proved and the thin line."
)
TUNING = (
    "Above, the weight of the penalty; below, the training accuracy (for regression, the loss), with the target as a "
    "dashed line. While the network is better than its target the weight rises, and while it is worse the weight falls. "
    "A weight of zero, as while training warms up, has no place on a log scale."
)
BRACKET = (
    "The Lipschitz constant is the steepest slope of the network. It cannot be computed exactly, but it can be "
    "enclosed: lower ≤ Lip ≤ upper. Each bar spans that bracket for one run, the numbers are means over the seeds; "
    "small and short is good. A bar that runs out of the plot has no upper bound."
)
CLOSING = (
    "Runs whose penalty presses on both ends: above, the upper end that the certificate proves after each epoch; below, "
    "thin, the steepest of the pairs. The constant lies between."
)
PAIRS = (
    "What CLIP does to pairs of inputs of different classes: before and after the ascent, which moves both to where the "
    "network answers most differently; on the trained network and, where the run kept them, on the network of earlier "
    "epochs. The quotient is the change of the network's output divided by the distance of the two inputs. Below each "
    "input: what the network takes it for, and how sure it is."
)


def lead(rows: Sequence[Row]) -> str:
    """One sentence: what was compared."""
    runs = sum(row.n for row in rows)
    methods = len({row.method for row in rows})
    return f"{runs} training {'run' if runs == 1 else 'runs'}, {methods} {'method' if methods == 1 else 'methods'}."


def about_methods(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The paper's methods among `rows`, each with a sentence."""
    used = {row.method for row in rows}
    return [(METHOD_LABELS[method], text) for method, text in ABOUT_METHODS.items() if method in used]


def about_columns(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Each column of the table with what it means, how it was measured here, and on how many samples."""
    noise, eps, step, iterations, restarts = (_setting(rows, key) for key in ("noise", "eps", "step", "iterations", "restarts"))
    steps = f"{iterations} steps" if iterations else "steps"
    of_length = f" of {step}" if step else ""
    within = f"eps = {eps}" if eps else "eps"
    start = f"the best of {restarts} random starts" if restarts not in ("", "1") else "a random start"
    scope = _bounds(rows, "Scope", "scope")
    text = {
        "train_accuracy": "Share of the training samples classified correctly.",
        "test_accuracy": "The same on samples the network has never seen.",
        "noise_accuracy": (
            f"Test samples with Gaussian noise{noise and f' of standard deviation {noise}'} added to every value."
        ),
        "noise_accuracy_clamped": "The same noise, the noisy values then cut back to the range of the data.",
        "pgd_accuracy": (
            f"Test samples under the paper's attack, its eq. (14): {steps}{of_length} along the sign of the loss "
            f"gradient, each pulled back to a Euclidean distance of at most {within}. A weak attack: only its end "
            "counts, and its steps are coarse."
        ),
        "pgd_accuracy_clamped": "The same attack, every step cut back to the range of the data.",
        "strong_accuracy": (
            f"Test samples under a stronger attack: {steps} along the gradient of the margin, from {start}, towards any "
            f"other class and then towards each of the nearest ones, at most {within} away in Euclidean length and inside the "
            "range of the data. A sample counts as correct only if no step on the way fools the network."
        ),
        **{
            f"certified_{eps:g}": f"Share that is right and proved to stay so, however moved by at most {eps:g}."
            for eps in CERTIFIED_AT
        },
        "train_loss": "Mean loss on the training samples.",
        "test_loss": "Mean loss on samples the network has never seen.",
        "weight": "Factor of the penalty at the end of training: λ of CLIP, μ of Weight Reg.",
        "lipschitz_lower": "Lip is at least this: an example proves it. Rounded down." + _bounds(rows, "By", "lower"),
        "lipschitz_upper": "Lip is at most this: proven. Rounded up." + _bounds(rows, "By", "upper") + scope,
        "seconds": "Time of the run on the machine named below.",
    }
    return [
        (column.title + (" %" if column.kind == "percent" else ""), text[column.key] + _samples(rows, column.key))
        for column in used_columns(rows)
    ]


def missing_bounds(rows: Sequence[Row]) -> list[str]:
    """For each row without an upper bound, the reason that its runs give."""
    return [
        f"{row.label} has no upper bound: {reason}"
        for row in rows
        for reason in distinct([bound_texts(run).get("reason") for run in row.runs if "lipschitz_upper" not in metrics(run)])
    ]


def missed_targets(rows: Sequence[Row]) -> list[str]:
    """For each row whose runs say so, what is wrong with their target."""
    return [f"{row.label}: {note}" for row in rows for note in distinct([run.result.get("target_note") for run in row.runs])]


def _setting(rows: Sequence[Row], key: str) -> str:
    values = distinct([numbers(run.result.get("evaluation")).get(key) for row in rows for run in row.runs])
    return " or ".join(value_text(value, "number") for value in values)


def _samples(rows: Sequence[Row], key: str) -> str:
    counts = sorted({e.samples for row in rows if (e := row.metrics.get(key)) is not None and e.samples is not None})
    return f" {' or '.join(f'{count:,}' for count in counts)} samples." if counts else ""


def _bounds(rows: Sequence[Row], title: str, key: str) -> str:
    texts = distinct([bound_texts(run).get(key) for row in rows for run in row.runs])
    return f" {title}: {'; '.join(texts)}." if texts else ""

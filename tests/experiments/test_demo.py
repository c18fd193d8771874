import pytest

from cheaplip.errors import InputError
from cheaplip.experiments import demo
from cheaplip.report import write_report

NAMES = {f"{method}-{seed}" for method in ("standard", "weight", "clip") for seed in range(2)}


@pytest.mark.usefixtures("quick_bounds")
def test_three_methods_their_seeds_and_the_page(tmp_path, monkeypatch):
    assert demo.SEEDS == 3
    monkeypatch.setattr(demo, "SEEDS", 2)
    quick = {"epochs": 2, "warmup": 1, "hidden": (8,), "attack_samples": 20, "iterations": 2}
    quick |= {"curve_samples": 10, "curve": (0.4,)}
    monkeypatch.setattr(demo, "SETTINGS", demo.SETTINGS | quick | {"target": 0.2, "initial_weight": 0.01})
    runs = demo.run_demo(tmp_path)
    assert {run.folder.name for run in runs} == NAMES
    assert {(run.result["method"], run.result["seed"]) for run in runs} == {(name[:-2], int(name[-1])) for name in NAMES}
    page = write_report(runs, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "index.html", "table.md", "table.csv", "table.json"}
    assert "data:image/png" in page.read_text()
    with pytest.raises(InputError, match=r"without an earlier demo; got .*Choose another --out"):
        demo.run_demo(tmp_path)


@pytest.mark.slow
def test_clip_is_more_robust_at_equal_accuracy(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SEEDS", 1)
    standard, weight, clip = (
        next(run.result for run in runs if run.result["method"] == method)
        for runs in [demo.run_demo(tmp_path)]
        for method in ("standard", "weight", "clip")
    )
    assert clip["strong_accuracy"] > max(standard["strong_accuracy"], weight["strong_accuracy"])
    assert clip["test_accuracy"] > max(standard["test_accuracy"], weight["test_accuracy"]) - 0.02

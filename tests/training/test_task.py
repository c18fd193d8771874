import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from cheaplip import fit, matched_pairs
from cheaplip.data import load
from cheaplip.errors import InputError
from cheaplip.training.batches import TensorBatches, split
from cheaplip.training.presets import configure
from cheaplip.training.task import make_task
from support.networks import curve, dense, digits


@given(st.integers(40, 500), st.floats(0.05, 0.45), st.floats(0.05, 0.45), st.integers(0, 2**32 - 1))
def test_parts_are_disjoint_and_cover(n, pair_share, validation_share, seed):
    parts = split(n, pair_share=pair_share, validation_share=validation_share, seed=seed)
    assert sorted(torch.cat([parts.fit, parts.pairs, parts.validation]).tolist()) == list(range(n))
    assert len(parts.pairs) == round(n * pair_share)
    assert len(parts.validation) == round(n * validation_share)
    again = split(n, pair_share=pair_share, validation_share=validation_share, seed=seed)
    assert torch.equal(parts.fit, again.fit)


def test_mnist_gives_6000_pairs():
    assert len(split(60_000, pair_share=0.1, validation_share=0.05, seed=0).pairs) == 6_000
    assert not torch.equal(*(split(100, pair_share=0.1, validation_share=0.1, seed=seed).fit for seed in (0, 1)))


def test_parts_too_small_are_refused():
    match = "two samples at least.*got 20 samples: 17 to fit, 2 for pairs, 1 for validation"
    with pytest.raises(InputError, match=match):
        split(20, pair_share=0.1, validation_share=0.05, seed=0)
    assert len(split(20, pair_share=0.1, validation_share=0.0, seed=0).fit) == 18


@pytest.mark.parametrize("processes", [1, 3])
def test_an_epoch_visits_samples_once_in_full_batches(processes):
    indices = torch.arange(10, 110)
    x = torch.arange(120.0)[:, None]

    def of(rank=0, processes=1):
        return TensorBatches(x, x, indices=indices, batch_size=9, seed=1, rank=rank, processes=processes)

    ranks = [of(rank, processes) for rank in range(processes)]
    epochs = []
    for epoch in (1, 2):
        steps = list(zip(*([batch for batch, _ in rank.epoch(epoch)] for rank in ranks), strict=True))
        assert {len(batch) for batches in steps for batch in batches} == {9 // processes}
        assert len(steps) == len(ranks[0]) == 100 // 9
        ones = [batch for batch, _ in of().epoch(epoch)]  # however many processes share them, the batches are the same
        assert [set(torch.cat(step).flatten().tolist()) for step in steps] == [set(whole.flatten().tolist()) for whole in ones]
        seen = [float(v) for step in steps for batch in step for v in batch]
        assert len(set(seen)) == len(seen) == 99
        assert set(seen) <= set(range(10, 110))
        epochs.append(seen)
    assert epochs[0] != epochs[1]
    assert sorted(float(v) for rank in ranks for batch, _ in rank.all() for v in batch) == list(range(10, 110))


def test_processes_that_cannot_share_the_batches_evenly_are_refused():
    x = torch.arange(5.0)[:, None]
    for batch_size, processes in ((4, 3), (6, 6)):
        with pytest.raises(InputError, match=f"batches that {processes} processes can share evenly"):
            TensorBatches(x, x, indices=torch.arange(5), batch_size=batch_size, seed=0, processes=processes)


def test_a_batch_larger_than_the_data_is_all_of_it():
    x = torch.arange(5.0)[:, None]
    ((batch, _),) = TensorBatches(x, x, indices=torch.arange(5), batch_size=100, seed=0).epoch(1)
    assert sorted(batch.flatten().tolist()) == [0, 1, 2, 3, 4]


def task(data, model=None, **more):
    given = {name: more.pop(name) for name in ("pairs", "validation") if name in more}
    return make_task(data, model or dense(), configure(**more), Accelerator(), **given)


def test_a_dataset_brings_its_domain_and_nothing_is_held_out_for_what_is_given():
    x, y = digits(200)
    assert task(load("digits")).domain == (0, 1)
    held_out = task((x, y))
    assert held_out.domain is None
    assert (len(held_out.pair_inputs), len(held_out.validation[0]), len(held_out.batches.indices)) == (20, 10, 170)
    given = task((x, y), pairs=matched_pairs(x[:9]), validation=(x[:4], y[:4]))
    assert (given.pair_inputs, len(given.validation[0]), len(given.batches.indices)) == (None, 4, 200)


def test_measure_is_the_accuracy_of_the_fitting_part():
    x, y = digits(150)
    model = dense()
    with torch.no_grad():
        right = (model(x).argmax(1) == y)[task((x, y)).batches.indices]
    assert task((x, y)).measure(model) == (int(right.sum()) / 127, 127)
    loaded = task(DataLoader(TensorDataset(x, y), batch_size=40))
    assert loaded.measure(model)[1] == 150
    x, y = curve()
    regression = task((x, y), dense(inputs=1, outputs=1))
    assert regression.classification is False
    assert regression.measure(nn.Identity())[0] == pytest.approx(float((x - y)[regression.batches.indices].square().mean()))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(64), 0)])


X, Y = torch.rand(60, 64), torch.arange(60) % 10
BAD = {
    "label beyond the outputs": ((X, Y + 5), {}, "one output for each of the classes.*labels 5 to 14"),
    "negative label": ((X, Y - 1), {}, "labels -1 to 8"),
    "int32 labels": ((X, Y.int()), {}, "int64 labels"),
    "lengths": ((X, Y[:-1]), {}, "inputs .n, .input. and int64 labels"),
    "nan": ((X * torch.nan, Y), {}, "finite inputs"),
    "input shape": ((torch.rand(60, 3, 7), Y), {}, "a model that takes these inputs"),
    "nan values": ((X, torch.full((60, 10), torch.nan)), {}, "as many finite inputs"),
    "number of values": ((X, torch.rand(59, 10)), {}, "got x \\(60, 64\\) and y \\(59, 10\\)"),
    "shape of values": ((X, torch.rand(60)), {}, r"values of shape \('n', 10\); got \(60,\). Reshape"),
    "no samples": ((X[:0], Y[:0]), {}, "n >= 1"),
    "tiny": ((X[:10], Y[:10]), {}, "two samples at least in every part"),
    "validation labels": ((X, Y), {"validation": (X, torch.rand(60, 10))}, "validation labels like the training's"),
    "validation shape": ((X, Y), {"validation": (X[:, :9], Y)}, "a model that takes these inputs"),
    "best of regression": ((X, torch.rand(60, 10)), {"keep": "best-pgd"}, "classification with a validation part"),
    "best of a loader": (DataLoader(TensorDataset(X, Y)), {"keep": "best-pgd"}, "with a validation part"),
    "a stream": (DataLoader(Stream()), {}, "a DataLoader of batches .x, y.; got .*no len"),
    "loader without labels": (DataLoader(TensorDataset(X)), {}, "a DataLoader of batches"),
    "loader of nothing": (DataLoader(TensorDataset(X[:0], Y[:0])), {}, "a DataLoader of batches .x, y.; got StopIteration"),
    "loader and model": (DataLoader(TensorDataset(X, Y + 5), batch_size=60), {}, "labels 5 to 14"),
}


@pytest.mark.parametrize("case", BAD)
def test_data_that_do_not_fit_are_refused(case):
    data, more, match = BAD[case]
    with pytest.raises(InputError, match=match):
        task(data, **more)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (torch.ones(59), "weights of shape"),
        (-torch.ones(60), "finite and >= 0"),
        (torch.zeros(60), "all 0"),
        (torch.full((60,), torch.nan), "finite and >= 0"),
    ],
)
def test_unusable_weights_are_refused(weights, match):
    with pytest.raises(InputError, match=match):
        fit(dense(), (X, torch.randint(10, (60,))), sample_weight=weights)


def test_weights_belong_to_tensors():
    loader = DataLoader(TensorDataset(X, torch.randint(10, (60,))), batch_size=20)
    with pytest.raises(InputError, match="weights of the samples; got a DataLoader"):
        fit(dense(), loader, pairs=matched_pairs(X), sample_weight=torch.ones(60))

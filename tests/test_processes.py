"""Shares of rows: together they are all rows, whatever the number of processes."""

import sys

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from cheaplip import processes
from cheaplip.__main__ import main
from cheaplip.processes import gathered, in_shares, mean, require_same, share, summed, total


@given(st.integers(1, 9), st.integers(1, 12))
def test_the_shares_of_all_processes_make_the_whole(count, n):
    rows = torch.arange(1.0, n + 1)[:, None]
    parts, marked = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "count", lambda: count)
        patch.setattr(processes, "summed", lambda tensors: list(tensors))  # of this process alone
        for rank in range(count):
            patch.setattr(processes, "rank", lambda rank=rank: rank)
            mine, counts = share(rows)
            assert len(mine) == max(len(rows[rank::count]), 1)
            marked += mine.flatten().tolist() if counts else []
            parts.append(in_shares(lambda x: (x.square(), x.sum(1)), rows))
            assert torch.equal(gathered([mine], n)[0][rank::count], rows[rank::count])
    assert sorted(marked) == rows.flatten().tolist()
    squares, sums = (sum(results) for results in zip(*parts, strict=True))
    assert torch.equal(squares, rows.square())
    assert torch.equal(sums, rows.sum(1))


def test_one_process_asks_nobody():
    x = torch.ones(3)
    assert (processes.count(), processes.rank()) == (1, 0)
    assert summed([x])[0] is x
    assert total([1, 2.5]) == [1, 2.5]
    assert mean(0.3) == 0.3
    require_same([x], "the same x", "Nothing.")


@pytest.mark.parametrize("code", [0, 2])
def test_a_finished_command_leaves_the_group(monkeypatch, tmp_path, code):
    monkeypatch.setattr("cheaplip.cli.main", lambda: sys.exit(code))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        with pytest.raises(SystemExit):
            main()
        assert dist.is_initialized() is bool(code)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()

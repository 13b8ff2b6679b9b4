"""What an engine's worker makes of its configuration: a board that is large enough, and one worker alone that writes on it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from ananke_server.masking.board import ADDRESS_VARIABLE, BoardFile, Size
from ananke_server.masking.tickets import Ticket
from ananke_server.masking.worker import make_placements


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> Iterator[BoardFile]:
    file = BoardFile.create(Size(rows=4, words=2, processes=2))
    monkeypatch.setenv(ADDRESS_VARIABLE, file.address)
    yield file
    file.close()


def config(*, rows: int = 4, rank: int = 0, tensor: int = 1, pipeline: int = 1) -> SimpleNamespace:
    parallel = SimpleNamespace(rank=rank, world_size=tensor * pipeline, tensor_parallel_size=tensor)
    return SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=rows), parallel_config=parallel)


def test_a_worker_writes_on_the_board_that_the_environment_names(file: BoardFile) -> None:
    placements = make_placements(config())
    placements.place(3, Ticket(9, 1))
    placements.ask(1, np.array([3]))
    assert file.board().rows[1, 0]["ticket"] == 9


@pytest.mark.parametrize(("rows", "fits"), [(1, True), (4, True), (5, False)])
def test_a_board_too_small_for_the_batch_is_refused(file: BoardFile, rows: int, fits: bool) -> None:
    if fits:
        assert not make_placements(config(rows=rows))
    else:
        with pytest.raises(ValueError, match="made for 4 rows, and the engine may have 5"):
            make_placements(config(rows=rows))


@pytest.mark.parametrize(("tensor", "pipeline", "writer"), [(1, 1, 0), (2, 1, 0), (4, 1, 0), (1, 3, 2), (2, 2, 2), (4, 2, 4)])
def test_of_all_ranks_the_first_of_the_last_stage_alone_writes(file: BoardFile, tensor: int, pipeline: int, writer: int) -> None:
    ranks = range(tensor * pipeline)
    assert [rank for rank in ranks if make_placements(config(rank=rank, tensor=tensor, pipeline=pipeline)).writes] == [writer]

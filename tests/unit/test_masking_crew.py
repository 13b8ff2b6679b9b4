"""The crew: a real foreman and real mask processes, their answers, and their ends."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import pytest
from llguidance import LLMatcher
from masking_support import allowed_by
from small_tokenizer import small_source, small_tokenizer
from waiting import until

from ananke_server.constraints import Compiler
from ananke_server.launch import DEFAULT_MODEL
from ananke_server.masking.board import PARTS, Board, open_board
from ananke_server.masking.crew import CrewDeadError, MaskCrew, default_processes
from ananke_server.masking.placements import Placements
from ananke_server.masking.tickets import Failure, Outcome, Ticket
from ananke_server.masking.tokenizer import TokenizerSource, eos_mask, model_tokenizer, tokenizer_source

TOKENIZER = small_tokenizer()
CHOICE = 'start: "ab" | "true" | "12"'
LISTS = LLMatcher.grammar_from_json_schema({"type": "array", "items": {"type": "boolean"}})
LONG = 60.0


@contextmanager
def crew_of(processes: int, source: TokenizerSource | None = None, rows: int = 8) -> Iterator[MaskCrew]:
    crew = MaskCrew.start(source or small_source(), TOKENIZER, rows=rows, processes=processes, lexer_states=10_000)
    try:
        yield crew
    finally:
        crew.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(LONG):
            await scenario()

    asyncio.run(within_time())


def family(crew: MaskCrew) -> list[psutil.Process]:
    """The foreman and its mask processes."""
    foreman = psutil.Process(crew._process.pid)
    return [foreman, *foreman.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def expected(grammar: str, *output: int) -> set[int]:
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    assert all(matcher.consume_token(token) for token in output)
    return set(allowed_by(np.frombuffer(matcher.compute_bitmask(), dtype=np.int32)))


async def masks(placements: Placements, step: int, outputs: dict[int, list[int]]) -> dict[int, set[int]]:
    """By slot what a step of these slots, with their outputs, may sample."""
    board, slots = placements.board, [*outputs]
    for slot, output in outputs.items():
        board.lengths[slot], board.tokens[slot] = len(output), [0, *output][-1]
    asked = placements.ask(step, np.array(slots))
    board.arrived[0] = step
    await until(lambda: (board.done[asked.owners, 0] >= step).all())
    words = board.size.words
    return {slots[mask[words]]: set(allowed_by(mask[:words])) for mask in board.masks[step % PARTS, : asked.masks]}


def test_requests_of_several_processes_are_guided_and_counted() -> None:
    async def scenario() -> None:
        with crew_of(3) as crew:
            await crew.wait_until_up()
            await crew.wait_until_up()
            assert len(family(crew)) == 1 + 3
            board, bell = open_board(crew.address)
            placements = Placements(board, bell)
            grammars = {slot: (CHOICE, LISTS)[slot % 2] for slot in range(6)}
            tickets = {slot: Ticket(100 + slot, slot % 3) for slot in grammars}
            prepared = await asyncio.gather(*(crew.prepare(tickets[slot], grammar) for slot, grammar in grammars.items()))
            assert prepared == [(Failure.NONE, "")] * 6
            outputs: dict[int, list[int]] = {slot: [] for slot in grammars}
            for slot, ticket in tickets.items():
                placements.place(slot, ticket)
            for step in range(1, 5):
                allowed = await masks(placements, step, outputs)
                assert allowed == {slot: expected(grammars[slot], *output) for slot, output in outputs.items()}
                for slot, output in outputs.items():
                    output.append(min(allowed[slot]))
            times = await crew.times()
            assert [(counted["steps"], counted["rows"]) for counted in times] == [(4, 8)] * 3
            assert await crew.times() == [{}] * 3
            for ticket in tickets.values():
                outcome = await crew.release(ticket)
                assert (outcome.failure, outcome.steps, outcome.resumed) == (Failure.NONE, 4, 0)
                assert 0 < outcome.us_mean <= outcome.us_p99
            assert await crew.release(Ticket(100, 0)) == Outcome()
            assert not crew.is_dead
            assert not crew._answers

    run(scenario)


def test_a_mask_process_has_its_own_connection_and_no_other() -> None:
    """One that kept another's open would keep the model process from seeing its end."""

    async def scenario() -> None:
        with crew_of(3) as crew:
            await crew.wait_until_up()
            for process in family(crew)[1:]:
                links = [os.readlink(f"/proc/{process.pid}/fd/{name}") for name in os.listdir(f"/proc/{process.pid}/fd")]
                assert sum(link.startswith("socket:") for link in links) == 1

    run(scenario)


def test_a_faulty_grammar_fails_its_own_ticket() -> None:
    async def scenario() -> None:
        with crew_of(2) as crew:
            bad, good = Ticket(1, 1), Ticket(2, 1)
            results = await asyncio.gather(crew.prepare(bad, "start: nothing"), crew.prepare(good, CHOICE))
            assert results[0][0] is Failure.INTERNAL
            assert "nothing" in results[0][1]
            assert results[1] == (Failure.NONE, "")
            outcome = await crew.release(bad)
            assert isinstance(outcome, Outcome)
            assert outcome[:2] == results[0]

    run(scenario)


def test_large_programs_pass_many_at_a_time() -> None:
    """More than a socket's buffer holds, so that orders wait for it on this side, and keep their order."""
    programs = [json.dumps({"any": [f"start: /{letter}+/ // {'x' * 2_000_000}", CHOICE]}) for letter in "abc"]

    async def scenario() -> None:
        with crew_of(2) as crew:
            prepared = [crew.prepare(Ticket(number, number % 2), programs[number % 3]) for number in range(6)]
            assert await asyncio.gather(*prepared) == [(Failure.NONE, "")] * 6
            placements = Placements(*open_board(crew.address))
            for number in range(6):
                placements.place(number, Ticket(number, number % 2))
            allowed = await masks(placements, 1, {number: [] for number in range(6)})
            for number in range(6):
                assert allowed[number] == expected(f"start: /{'abc'[number % 3]}+/") | expected(CHOICE)

    run(scenario)


def test_an_answer_that_nobody_awaits_any_more_is_dropped() -> None:
    async def scenario() -> None:
        with crew_of(1) as crew:
            await crew.wait_until_up()
            waiting = asyncio.create_task(crew.prepare(Ticket(1, 0), LISTS))
            await asyncio.sleep(0)
            waiting.cancel()
            crew.release(Ticket(1, 0))
            assert await crew.prepare(Ticket(2, 0), CHOICE) == (Failure.NONE, "")
            assert waiting.cancelled()
            await until(lambda: not crew._answers)

    run(scenario)


def test_times_may_be_asked_for_while_others_are_on_their_way() -> None:
    async def scenario() -> None:
        with crew_of(1) as crew:
            await crew.wait_until_up()
            assert await asyncio.gather(crew.times(), crew.times()) == [[{}], [{}]]

    run(scenario)


def killed(crew: MaskCrew, which: str) -> None:
    foreman, *processes = family(crew)
    victim = foreman if which == "the foreman" else processes[-1]
    os.kill(victim.pid, signal.SIGKILL)


@pytest.mark.parametrize("which", ["the foreman", "a mask process"])
def test_where_one_process_ends_all_do_and_nobody_waits_for_them_any_more(which: str) -> None:
    async def scenario() -> None:
        with crew_of(3) as crew:
            await crew.wait_until_up()
            everybody = family(crew)
            board: Board = open_board(crew.address)[0]
            await crew.prepare(Ticket(1, 0), CHOICE)
            os.kill(everybody[1].pid, signal.SIGSTOP)  # so that it cannot answer
            pending = [asyncio.ensure_future(awaited) for awaited in (crew.prepare(Ticket(2, 0), LISTS), crew.times())]
            pending.append(crew.release(Ticket(1, 0)))
            await asyncio.sleep(0.05)
            assert not any(future.done() for future in pending)
            killed(crew, which)
            ended = await asyncio.gather(*pending, return_exceptions=True)
            assert [type(error) for error in ended] == [CrewDeadError] * 3
            assert crew.is_dead
            assert (board.done[:, 0] > 1 << 60).all()
            assert (board.masks[:, :, : board.size.words] == eos_mask(TOKENIZER, board.size.words)).all()
            await until(lambda: gone(everybody))
            for late in (crew.prepare(Ticket(3, 1), CHOICE), crew.release(Ticket(1, 0)), crew.times()):
                with pytest.raises(CrewDeadError):
                    await late
            # What a process wrote with its last breath closes no gate.
            board.done[0, 0], board.masks[0, 0, 0] = 7, -1
            await until(lambda: board.done[0, 0] > 1 << 60)
            assert (board.masks[:, :, : board.size.words] == eos_mask(TOKENIZER, board.size.words)).all()

    run(scenario)


@pytest.mark.parametrize("which", ["the foreman", "a mask process"])
def test_processes_that_are_idle_end_with_the_one_that_ends(which: str) -> None:
    """Unlike in the test above none is stopped, which would have the kernel end an orphaned group."""

    async def scenario() -> None:
        with crew_of(2) as crew:
            await crew.wait_until_up()
            everybody = family(crew)
            killed(crew, which)
            await until(lambda: crew.is_dead and gone(everybody))
            assert (crew.board.done[:, 0] > 1 << 60).all()

    run(scenario)


def test_a_crew_that_ended_before_it_was_waited_for_is_not_up() -> None:
    async def scenario() -> None:
        with crew_of(1) as crew:
            crew._process.kill()
            await until(lambda: crew.is_dead)
            await asyncio.sleep(0.01)
            with pytest.raises(CrewDeadError):
                await crew.wait_until_up()

    run(scenario)


@pytest.mark.parametrize("source", [TokenizerSource("{}", (0,)), TokenizerSource("no JSON", (0,))], ids=["empty", "no JSON"])
def test_a_foreman_that_cannot_start_is_told(source: TokenizerSource) -> None:
    async def scenario() -> None:
        with crew_of(2, source) as crew:
            foreman = psutil.Process(crew._process.pid)
            with pytest.raises(CrewDeadError):
                await crew.wait_until_up()
            assert crew.is_dead
            await until(lambda: gone([foreman]))

    run(scenario)


def descriptors() -> dict[str, str]:
    links = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            links[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own
    return links


@pytest.mark.parametrize("moment", ["at once", "up", "at work", "dead"])
def test_a_closed_crew_leaves_no_process_and_no_descriptor(moment: str) -> None:
    everybody: list[psutil.Process] = []
    before: dict[str, str] = {}

    async def scenario() -> None:
        gc.collect()
        before.update(descriptors())
        with crew_of(2) as crew:
            if moment != "at once":
                await crew.wait_until_up()
            everybody.extend(family(crew))
            if moment == "at work":
                os.kill(everybody[-1].pid, signal.SIGSTOP)  # so that it never ends its work
                orders = (crew.prepare(Ticket(5, owner), LISTS) for owner in (0, 1))
                waiting: asyncio.Future[Any] = asyncio.gather(*orders)
                await asyncio.sleep(0.01)
            if moment == "dead":
                killed(crew, "a mask process")
                await until(lambda: crew.is_dead)
        # Killed they are, and some of them are the init process's to bury.
        await until(lambda: gone(everybody))
        if moment == "at work":
            with pytest.raises(CrewDeadError):
                await waiting
        # The gates are opened once more after a while.
        await asyncio.sleep(0.6)

    run(scenario)
    gc.collect()
    assert {*descriptors().values()} <= {*before.values()}
    assert len(descriptors()) <= len(before)


def test_processes_are_not_more_than_there_are_cores_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, processes in ((1, 1), (4, 1), (5, 1), (6, 2), (16, 12), (20, 16), (128, 16)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert default_processes() == processes


def test_processes_find_the_slow_masks_that_others_have_kept() -> None:
    source, tokenizer = tokenizer_source(str(DEFAULT_MODEL), None), model_tokenizer(str(DEFAULT_MODEL))
    schema = {"type": "array", "items": {"type": "string", "maxLength": 12}}
    program = Compiler(tokenizer).compile(json.dumps({"type": "json_schema", "schema": schema, "whitespace": "compact"})).grammar
    assert program is not None
    output = tokenizer.tokenize_bytes(b'["abcdefghijk","lmnopqrstu","vwxyz')

    async def scenario() -> None:
        crew = MaskCrew.start(source, tokenizer, rows=2, processes=2, lexer_states=10_000)
        try:
            board, bell = open_board(crew.address)
            placements, found = Placements(board, bell), []
            for owner in range(2):
                assert (await crew.prepare(Ticket(owner, owner), program, of_schema=True))[0] is Failure.NONE
                placements.place(owner, Ticket(owner, owner))
                for length in range(len(output) + 1):
                    await masks(placements, 1 + length + owner * 100, {owner: output[:length]})
                placements.remove(owner)
                found.append((await crew.times())[owner]["found"])
            assert found[0] < found[1], "what the first had to compute the second has found"
        finally:
            crew.close()

    run(scenario)

"""The mask store: what one process keeps another finds, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from mask_stage import mask_stage
from masking_support import TOKENIZER, encode
from numpy.typing import NDArray

from ananke_server.constraints import Compiler
from ananke_server.masking import mask_store, program_matcher
from ananke_server.masking.mask_store import KEY_BYTES, LEAST_TOKENS, WAYS, MaskStore
from ananke_server.masking.states import Progress, Terminals
from ananke_server.masking.tickets import Failure

WORDS = 64
SCHEMA = '{"type": "json_schema", "whitespace": "compact", "schema": {"type": "array", "items": {"type": "string", "maxLength": 9}}}'


def key(number: int, salt: int = 0) -> bytes:
    """A key that with 1 set belongs to the only one, and with 512 to the set of its number."""
    return number.to_bytes(4, "little") + hashlib.sha256(b"%d %d" % (number, salt)).digest()[: KEY_BYTES - 4]


def mask(number: int) -> NDArray[np.int32]:
    content = np.full(WORDS, -1, dtype=np.int32)
    content[0] = number
    return content


def keep(store: MaskStore, name: bytes, content: NDArray[np.int32]) -> None:
    store.keep(name, content.ctypes.data)


def found(store: MaskStore, name: bytes) -> NDArray[np.int32] | None:
    target = np.zeros(WORDS, dtype=np.int32)
    return target if store.write(name, target.ctypes.data) else None


def test_a_mask_is_found_by_its_key_alone() -> None:
    store = MaskStore(WORDS)
    assert found(store, key(7)) is None
    keep(store, key(7), mask(42))
    again = found(store, key(7))
    assert again is not None
    assert (again == mask(42)).all()
    assert found(store, key(7, salt=1)) is None
    assert found(store, key(8)) is None
    assert store.found == 1


def test_masks_of_few_tokens_are_not_kept() -> None:
    store = MaskStore(WORDS)
    few = np.zeros(WORDS, dtype=np.int32)
    few[: LEAST_TOKENS // 32] = -1
    keep(store, key(1), few)
    assert found(store, key(1)) is not None
    few[0] = -2
    keep(store, key(2), few)
    assert found(store, key(2)) is None


def test_the_least_recently_used_makes_room() -> None:
    store = MaskStore(WORDS, sets=1)
    for number in range(WAYS):
        keep(store, key(number), mask(number))
    assert found(store, key(0)) is not None
    keep(store, key(WAYS), mask(WAYS))
    there = [number for number in range(WAYS + 1) if found(store, key(number)) is not None]
    assert there == [0, *range(2, WAYS + 1)]


def test_a_key_kept_twice_has_one_place() -> None:
    store = MaskStore(WORDS, sets=1)
    for number in range(WAYS):
        keep(store, key(number), mask(number))
        keep(store, key(number), mask(number))
    assert all(found(store, key(number)) is not None for number in range(WAYS))


def test_a_key_is_no_part_of_two_others() -> None:
    store = MaskStore(WORDS, sets=1)
    first, second = bytes(range(KEY_BYTES)), bytes(range(KEY_BYTES, 2 * KEY_BYTES))
    keep(store, first, mask(1))
    keep(store, second, mask(2))
    between = (first + second)[4 : 4 + KEY_BYTES]
    assert found(store, between) is None


def test_what_is_being_written_is_not_read_and_what_was_left_half_written_is_written_anew() -> None:
    store = MaskStore(WORDS, sets=1)
    keep(store, key(1), mask(1))
    store._versions[0] += 1
    assert found(store, key(1)) is None
    for number in range(2, WAYS + 2):
        keep(store, key(number), mask(number))
    assert all(version % 2 == 0 for version in store._versions)
    assert found(store, key(1)) is None
    assert all(found(store, key(number)) is not None for number in range(2, WAYS + 2))


def test_a_mask_that_changes_while_it_is_read_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    store, move = MaskStore(WORDS, sets=1), mask_store.ctypes.memmove

    def with_a_writer_beside(*arguments: int) -> None:
        move(*arguments)
        store._versions[0] += 2

    keep(store, key(1), mask(1))
    monkeypatch.setattr(mask_store.ctypes, "memmove", with_a_writer_beside)
    assert found(store, key(1)) is None
    assert store.found == 0


def test_who_finds_a_set_taken_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(descriptor: int, operation: int, *_: int) -> None:
        if operation & fcntl.LOCK_EX:
            assert operation & fcntl.LOCK_NB
            raise BlockingIOError(11, "Resource temporarily unavailable")

    store = MaskStore(WORDS)
    monkeypatch.setattr(fcntl, "lockf", taken)
    keep(store, key(1), mask(1))
    assert found(store, key(1)) is None


PROCESSES_BESIDE_EACH_OTHER = """
import os, random, sys
import numpy as np
from ananke_server.masking.mask_store import MaskStore

WORDS, KEYS = 4000, 100
store = MaskStore(WORDS, sets=2)

def work(number):
    draw, target, found = random.Random(number), np.zeros(WORDS, dtype=np.int32), 0
    for _ in range(5000):
        value = draw.randrange(1, KEYS)
        key = value.to_bytes(16, "little")
        if store.write(key, target.ctypes.data):
            found += 1
            if not (target == value).all():
                return 2
        else:
            mask = np.full(WORDS, value, dtype=np.int32)
            store.keep(key, mask.ctypes.data)
    return 0 if found else 3

children = []
for number in range(4):
    child = os.fork()
    if child == 0:
        os._exit(work(number))
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_processes_find_what_others_keep_and_never_a_part_of_it() -> None:
    ended = subprocess.run([sys.executable, "-c", PROCESSES_BESIDE_EACH_OTHER], env={"PYTHONPATH": ":".join(sys.path)}, timeout=300)
    assert ended.returncode == 0, {2: "a torn mask", 3: "nothing was found"}.get(ended.returncode, "it failed")


KEYS_ELSEWHERE = """
import sys
from ananke_server.masking.states import Progress, Terminals
grammar = sys.stdin.read()
progress = Progress(Terminals.of(grammar), "a grammar")
for output in sys.argv[1:]:
    progress.consume(output.encode())
    print(progress.key.hex())
"""


def test_keys_are_the_same_in_every_process() -> None:
    program = Compiler(TOKENIZER).compile(SCHEMA).grammar
    assert program is not None
    terminals = Terminals.of(program)
    assert terminals is not None
    outputs = ["[", '"ab', 'c",', '"', "\u00e9"]
    progress, keys = Progress(terminals, "a grammar"), []
    for output in outputs:
        progress.consume(output.encode())
        assert progress.key is not None
        keys.append(progress.key.hex())
    for seed in ("0", "1"):
        elsewhere = subprocess.run(
            [sys.executable, "-c", KEYS_ELSEWHERE, *outputs],
            input=program,
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert elsewhere.stdout.split() == keys


def test_mask_processes_share_what_they_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_matcher, "WORTH_NS", -1)
    monkeypatch.setattr(mask_store, "LEAST_TOKENS", 1)
    program = Compiler(TOKENIZER).compile(SCHEMA).grammar
    assert program is not None
    with mask_stage(processes=2) as stage:
        placements, step, masks = stage.placements(), 0, dict[int, list[set[int]]]()
        output = encode(b'["ab","abcx')
        for slot in range(2):
            ticket, failure = stage.prepare(program, of_schema=True)
            assert (failure, ticket.owner) == (Failure.NONE, [1, 0][slot])
            placements.place(slot, ticket)
            masks[slot] = []
            for length in range(len(output) + 1):
                step += 1
                stage.board.lengths[slot], stage.board.tokens[slot] = length, [0, *output][length]
                stage.arrive(step)
                masks[slot] += stage.masks(step, placements.ask(step, np.array([slot]))).values()
            placements.remove(slot)
        assert masks[0] == masks[1]
        assert all(len(mask) > 1 for mask in masks[0][1:])
        counted = []
        for owner in (1, 0):
            stage.order(owner, "times", 1)
            counted += stage.answer(owner, "times", 1)
        assert counted[0]["found"] == 0
        assert counted[1]["found"] == counted[1]["rows"] == len(output) + 1

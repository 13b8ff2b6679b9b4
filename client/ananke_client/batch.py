"""Batches: many generations at once, their outcomes in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from ananke_client.config import GenerationConfig
from ananke_client.errors import InvalidRequestError
from ananke_client.extras import install_command
from ananke_client.request import ConstraintLike, Prompt
from ananke_client.result import GenerationResult

DEFAULT_CONCURRENCY = 8
"""Generations of a batch that run at once."""

Outcome = GenerationResult | Exception
"""A generation's result, or what it raised."""

Progress = Callable[[int, int], None]
"""Called with the numbers of items done and of all."""


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One generation of a batch; what is None is as the batch has it."""

    prompt: Prompt
    constraint: ConstraintLike | None = None
    config: GenerationConfig | None = None
    request_id: str | None = None


class Batch:
    """The book of one batch: what is to do, what came of it, and who wants to know.

    Iterate over it from as many threads or tasks as there are ``workers``, each item comes to one of them; and ``record`` from one
    what becomes of each.

    Raises:
        InvalidRequestError: ``concurrency`` is not a positive whole number.
        ModuleNotFoundError: ``tqdm`` is asked for and not installed.
    """

    def __init__(
        self,
        prompts: Iterable[Prompt | BatchItem],
        constraint: ConstraintLike | None,
        config: GenerationConfig | None,
        *,
        concurrency: int,
        progress: Progress | None,
        tqdm: bool,
    ) -> None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise InvalidRequestError(f"concurrency is {concurrency!r}: give a whole number from 1")
        if isinstance(prompts, str):
            raise InvalidRequestError("prompts is one text: give a list of prompts")
        self._items = [_item(prompt, constraint, config) for prompt in prompts]
        self._outcomes: dict[int, Outcome] = {}
        self._progress = progress
        self._bar = _bar(len(self._items)) if tqdm else None
        self._left = iter(enumerate(self._items))
        self.workers = max(1, min(concurrency, len(self._items)))

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[tuple[int, BatchItem]]:
        return self._left

    def record(self, index: int, outcome: Outcome) -> None:
        """Takes an item's outcome, and tells the progress."""
        self._outcomes[index] = outcome
        if self._bar is not None:
            self._bar.update()
        if self._progress is not None:
            self._progress(len(self._outcomes), len(self._items))

    @property
    def outcomes(self) -> list[Outcome]:
        """Every outcome, in the items' order."""
        return [self._outcomes[index] for index in range(len(self._items))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


def _item(prompt: Prompt | BatchItem, constraint: ConstraintLike | None, config: GenerationConfig | None) -> BatchItem:
    if not isinstance(prompt, BatchItem):
        return BatchItem(prompt, constraint, config)
    own = prompt.constraint if prompt.constraint is not None else constraint
    return BatchItem(prompt.prompt, own, prompt.config or config, prompt.request_id)


def _bar(total: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"tqdm is not installed: {install_command('progress')}, or give a progress callback") from error
    return tqdm(total=total, unit="generation")

"""Outputs of vLLM, taken where it puts them.

``AsyncLLM.generate`` wakes the request's task for each of them. With a hundred streams that is a good part of the one thread
that all of them share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vllm.exceptions import VLLMClientError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

if TYPE_CHECKING:
    from vllm import SamplingParams, TokensPrompt
    from vllm.outputs import RequestOutput

Take = Callable[["RequestOutput"], None]


async def generate(llm: Any, prompt: TokensPrompt, params: SamplingParams, request_id: str, take: Take) -> None:
    """Hand each of a request's outputs to ``take`` as soon as vLLM has made it; returns after the last.

    Where this ends in another way, vLLM has dropped the request. Where ``params`` ask for one output at the end, ``take`` then gets what
    had been generated, with the finish reason ``abort``.

    Args:
        llm: an ``AsyncLLM``, on whose event loop this runs.

    Raises:
        VLLMClientError: the request is not one for this model.
        EngineDeadError: the engine has died.
        EngineGenerateError: something else went wrong in vLLM.
        Exception: what ``take`` raised.
    """
    try:
        await _Outputs(await _accepted(llm, prompt, params, request_id), take).end
    except VLLMClientError:
        raise
    except EngineDeadError:
        # Its own half alone: nobody is there to be told, or soon will not be.
        llm.output_processor.abort_requests([request_id], internal=False)
        raise
    except BaseException:
        await llm.abort(request_id)
        raise


async def _accepted(llm: Any, prompt: TokensPrompt, params: SamplingParams, request_id: str) -> Any:
    """vLLM's collector of a request that it has taken."""
    try:
        return await llm.add_request(request_id, prompt, params)
    except (EngineDeadError, VLLMClientError):
        raise
    except Exception as fault:
        raise _generate_error(fault) from fault


class _Outputs:
    """Stands in for ``put`` of a request's ``RequestOutputCollector``, which vLLM calls on its event loop."""

    def __init__(self, collector: Any, take: Take) -> None:
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._take = take
        collector.put = self._put
        # What came while the request was on its way.
        try:
            early = collector.get_nowait()
        except Exception as fault:
            early = fault
        if early is not None:
            self._put(early)

    def _put(self, output: RequestOutput | Exception) -> None:
        """Never raises: the task that calls it works for all requests."""
        if isinstance(output, Exception):
            self._fail(output if isinstance(output, EngineDeadError) else _generate_error(output))
            return
        if self.end.done() and not output.outputs[0].token_ids:
            return  # aborted by us; text that was held back for a stop string does not come after all
        try:
            self._take(output)
        except Exception as fault:
            self._take = _leave
            self._fail(fault)
        else:
            if output.finished and not self.end.done():
                self.end.set_result(None)

    def _fail(self, fault: Exception) -> None:
        if not self.end.done():
            self.end.set_exception(fault)


def _leave(_: RequestOutput) -> None:
    """What comes after a piece that was not taken."""


def _generate_error(cause: Exception) -> EngineGenerateError:
    error = EngineGenerateError(f"{type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error

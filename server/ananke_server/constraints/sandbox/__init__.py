"""The sandbox: untrusted constraints compiled in killable processes, within limits of time, memory and stack.

    SandboxedCompiler (client, in any number of processes and threads)
        │ a connection for each compilation under way, over a Unix socket
    supervisor (one process; holds the tokenizer, schedules, kills)
        │ a socket pair each
    workers (forked, so they share the tokenizer's memory; each compiles one text at a time)

Nothing but JSON crosses a process boundary, and the supervisor ends with its last client.
"""

from ananke_server.constraints.sandbox.client import SandboxedCompiler

__all__ = ["SandboxedCompiler"]

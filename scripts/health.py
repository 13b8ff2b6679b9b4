"""Say whether the server can generate: what `make health` prints. Exit code 0 if it can, 1 if not."""

from __future__ import annotations

import sys

from ananke_client import AnankeInferenceHTTPClient


def main() -> int:
    with AnankeInferenceHTTPClient() as client:
        status = client.health_check()
    print(f"live: {status.live}, ready: {status.ready}" + (f", Triton {status.server_version}" if status.server_version else ""))
    for model, ready in status.models.items():
        print(f"  {model}: {'ready' if ready else 'not ready'}")
    if status.error:
        print(f"  {status.error}")
    return 0 if status.ready else 1


if __name__ == "__main__":
    sys.exit(main())

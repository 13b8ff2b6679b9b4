"""Make an API key: printed once, for its holder; only its hash is kept, in the file that the server reads."""

import argparse
import os
import sys
from pathlib import Path

from ananke_server.api_keys import NAME, ApiKeyError, ApiKeys, key_line, new_key
from ananke_server.launch import PROJECT

DEFAULT = PROJECT / ".ananke" / "keys" / "api_keys"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="whose key it is: letters, digits and _ . @ -, at most 64")
    parser.add_argument("file", type=Path, nargs="?", default=DEFAULT, help="where the hashes are; a new one gets mode 0600")
    arguments = parser.parse_args()
    file: Path = arguments.file
    if not NAME.fullmatch(arguments.name):
        print(f"make_api_key: {arguments.name!r} is no name: 1 to 64 letters, digits and _ . @ -, a letter or digit first", file=sys.stderr)
        return 1
    key = new_key()
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        after = before + ("" if before.endswith("\n") or not before else "\n") + key_line(arguments.name, key)
        ApiKeys.parse(after, str(file))
        file.parent.mkdir(parents=True, exist_ok=True)
        replace(file, after)
    except (OSError, ApiKeyError) as fault:
        print(f"make_api_key: {fault}", file=sys.stderr)
        return 1
    print(f"key   {key}\nname  {arguments.name}\nhash  in {file}")
    print(f"to have keys checked: ANANKE_API_KEY_FILE={file} make serve; to revoke this one, remove its line")
    return 0


def replace(file: Path, content: str) -> None:
    """The file with another content, at once: a server that reads meanwhile sees the one or the other."""
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
            opened.write(content)
        draft.chmod(mode)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit(main())

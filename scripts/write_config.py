"""Write what is made from the settings' definitions: config.yaml, and the tables of docs/CONFIGURATION.md."""

from ananke_server.launch import PROJECT
from ananke_server.settings.reference import config_text, tables

CONFIG = PROJECT / "config.yaml"
DOCUMENT = PROJECT / "docs" / "CONFIGURATION.md"
MARK = "<!-- scripts/write_config.py writes what follows. -->\n"


def main() -> int:
    CONFIG.write_text(config_text())
    DOCUMENT.write_text(document(DOCUMENT.read_text()))
    return 0


def document(text: str) -> str:
    """A document with its tables written anew."""
    return text.partition(MARK)[0] + MARK + "\n" + tables()


if __name__ == "__main__":
    raise SystemExit(main())

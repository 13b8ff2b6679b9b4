"""Print the effective configuration: each setting, its value, and where the value came from."""

import sys

from ananke_server.settings import ConfigError, load_settings
from ananke_server.settings.effective import effective, shown, unknown_variables
from ananke_server.settings.sources import config_file


def main() -> int:
    try:
        rows = effective(load_settings())
    except ConfigError as fault:
        print(f"config: {fault}", file=sys.stderr)
        return 1
    print(f"file: {shown(config_file()) if config_file() else 'none'}")
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            print(f"\n{section}")
        print(f"  {row.key:26} {shown(row.value):32} {row.origin}")
    for variable, nearest in unknown_variables():
        print(f"config: {variable} is no setting" + (f": did you mean {nearest}?" if nearest else ""), file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

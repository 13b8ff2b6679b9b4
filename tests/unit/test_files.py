"""docs/FILES.md names every file, and says of each what the file says of itself."""

import subprocess

import pytest
from list_files import TARGET, listing


def test_the_list_of_files_is_as_the_tree_is() -> None:
    try:
        expected = listing()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no checkout of git: {error}")
    assert TARGET.read_text() == expected, "run scripts/list_files.py"

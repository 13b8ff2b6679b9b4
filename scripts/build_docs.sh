#!/usr/bin/env bash
# Build the documentation's site into .ananke/site, in a virtual environment of its own; a warning is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly VENV=.ananke/docs-venv LOCK=requirements/docs.txt

if ! cmp -s "$LOCK" "$VENV/.installed"; then
    rm -rf "$VENV"
    .venv/bin/python -m venv "$VENV"
    "$VENV/bin/python" -m pip --disable-pip-version-check install --quiet --quiet --no-deps --no-compile --requirement "$LOCK"
    cp "$LOCK" "$VENV/.installed"
fi
# Not --quiet, which hides the warnings from --strict too.
"$VENV/bin/python" -m mkdocs build --strict
echo "site: $PWD/.ananke/site/index.html"

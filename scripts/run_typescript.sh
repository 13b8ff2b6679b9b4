#!/usr/bin/env bash
# Type-check, compile and run a TypeScript module: scripts/run_typescript.sh FILE.mts [ARGUMENT...]
# The compiler comes from npm once, into .ananke/typescript. Exit code 69 where it cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=.ananke/typescript
packages=(typescript@5.9.3 @types/node@20.19.43)
if [[ ! -f $folder/complete ]]; then
  mkdir -p "$folder"
  if ! timeout 60 npm install --silent --no-audit --no-fund --prefix "$folder" "${packages[@]}" >&2; then
    echo "run_typescript: npm could not install ${packages[*]}" >&2
    exit 69
  fi
  touch "$folder/complete"
fi
file="$1"
shift
node "$folder/node_modules/typescript/bin/tsc" "$file" --outDir "$folder/out" --target es2022 --module nodenext --strict \
  --noUncheckedIndexedAccess --erasableSyntaxOnly --types node --typeRoots "$folder/node_modules/@types" >&2
node "$folder/out/$(basename "${file%.mts}").mjs" "$@"

"""The JSON Schema Test Suite through the constraint path: by keyword, what is exact, verified, narrowed, refused and wrong.

    python scripts/schema_suite.py SUITE_DIR --json results.json

SUITE_DIR holds a folder a draft (``draft7``, ``draft2020-12``). Every test is counted once:

- exact: the schema is labelled exact, and the masks admit the instance if and only if it is valid;
- verified: the schema is taken with ``"unsupported": "verify"``, and masks and validator together give the right verdict;
- annotation: its ``format`` is one that is not asserted, or it is about the ``content…`` keywords, which never are;
- narrowed: valid, but the masks cannot produce it as it is written, or the validator would not have it;
- refused: the schema is;
- wrong: invalid, and accepted: by the masks of a schema labelled exact (in any spelling), or by masks and validator of a verified one.

Exit code 1 where a test is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench_support import print_table, tokenizer_of, write_json
from judgement import CompileSchema, Judge, Refused, Taken, schema_compiler
from llguidance import LLTokenizer
from replay import DEFAULT, Replayer

from ananke_server.constraints import Compiler

DRAFTS: Final = {
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
COUNTED: Final = ("exact", "verified", "annotation", "narrowed", "refused", "wrong")
CONTENT: Final = ("contentEncoding", "contentMediaType")
NO_FORMAT: Final = "\n( "
"""A string that every format of the suite excludes."""


@dataclass(frozen=True, slots=True)
class Test:
    """One test of the suite, and what it was counted as."""

    draft: str
    file: str
    group: str
    test: str
    schema: Any
    data: Any
    counted: str
    label: str
    cause: str


class Suite:
    """Runs the suite's tests under one option for what masks cannot express."""

    def __init__(self, tokenizer: LLTokenizer, options: dict[str, str]) -> None:
        self._compile: CompileSchema = schema_compiler(Compiler(tokenizer), options)
        self._replayer = Replayer(tokenizer)
        self._formats: dict[tuple[str, str], str] = {}

    def run(self, folder: Path) -> Iterator[Test]:
        """The tests of every draft's folder."""
        for draft in DRAFTS:
            for path in sorted((folder / draft).rglob("*.json")):
                file = path.relative_to(folder / draft).with_suffix("").as_posix()
                for group in json.loads(path.read_text(encoding="utf-8")):
                    yield from self._group(draft, file, group)

    def formats(self) -> dict[str, dict[str, str]]:
        """The formats met in each draft: asserted, annotation or refused; found out by offering a string that each excludes."""
        return {draft: {name: what for (of, name), what in sorted(self._formats.items()) if of == draft} for draft in DRAFTS}

    def _group(self, draft: str, file: str, group: dict[str, Any]) -> Iterator[Test]:
        schema = group["schema"]
        if isinstance(schema, dict) and "$schema" not in schema:
            schema = {"$schema": DRAFTS[draft], **schema}
        result = self._compile(schema)
        judge = Judge(result, self._replayer, [DEFAULT], schema) if isinstance(result, Taken) else None
        annotation = any(self._format(draft, name) == "annotation" for name in values_of(schema, "format"))
        annotation = annotation or any(values_of(schema, keyword) for keyword in CONTENT)
        for test in group["tests"]:
            if isinstance(result, Refused):
                label, counted, cause = "none", "refused", "; ".join(f"[{code}] {message}" for code, message in result.reasons)
            else:
                assert judge is not None
                label = result.guarantee
                counted, cause = self._count(label, judge, test, annotation)
            yield Test(draft, file, group["description"], test["description"], schema, test["data"], counted, label, cause[:400])

    def _count(self, label: str, judge: Judge, test: dict[str, Any], annotation: bool) -> tuple[str, str]:
        judgement = judge.judge(test["data"], valid=test["valid"])
        verdict, cause = judgement.verdict, judgement.cause
        if verdict in ("narrowed", "alarm"):
            by_format = " (a format is asserted that this test takes for an annotation)" if "annotation" in test["description"] else ""
            return "narrowed", ("the validator refuses it: " if verdict == "alarm" else "") + cause + by_format
        if annotation:
            return "annotation", cause
        if verdict in ("wrong", "respelled"):
            return "wrong", ("in another spelling: " if verdict == "respelled" else "") + cause
        return ("exact" if label == "exact" else "verified"), cause

    def _format(self, draft: str, name: str) -> str:
        if (draft, name) not in self._formats:
            taken = self._compile({"$schema": DRAFTS[draft], "type": "string", "format": name})
            what = "refused"
            if isinstance(taken, Taken):
                excluded = Judge(taken, self._replayer, [DEFAULT]).judge(NO_FORMAT, valid=True).verdict != "right"
                what = "asserted" if excluded else "annotation"
            self._formats[draft, name] = what
        return self._formats[draft, name]


def values_of(schema: Any, keyword: str) -> set[str]:
    """The texts that a keyword has anywhere in a schema."""
    if isinstance(schema, list):
        return {value for part in schema for value in values_of(part, keyword)}
    if not isinstance(schema, dict):
        return set()
    own = {schema[keyword]} if isinstance(schema.get(keyword), str) else set()
    nested = (part for key, part in schema.items() if key not in ("const", "enum", "default", "examples"))
    return own.union(*(values_of(part, keyword) for part in nested))


def main() -> int:
    arguments = _arguments()
    tokenizer = tokenizer_of(arguments.tokenizer)
    content: dict[str, Any] = {"tokens": tokenizer.vocab_size}
    wrong = 0
    for name, options in {"verify": {"unsupported": "verify"}, "default": {}}.items():
        suite = Suite(tokenizer, options)
        tests = list(suite.run(Path(arguments.suite)))
        if not tests:
            sys.exit(f"{arguments.suite} holds none of {', '.join(DRAFTS)}")
        print(f"\n== {name} ==")
        _print(tests, suite.formats())
        content[name] = _content(tests, suite.formats())
        wrong += sum(test.counted == "wrong" for test in tests)
    if arguments.json:
        write_json(arguments.json, content)
    return 1 if wrong else 0


def _print(tests: list[Test], formats: dict[str, dict[str, str]]) -> None:
    table = _table(tests)
    print_table(
        ["", "tests", *COUNTED], [[row, sum(counts.values()), *(counts[name] for name in COUNTED)] for row, counts in table.items()]
    )
    for draft, known in formats.items():
        for what in ("asserted", "annotation", "refused") if known else ():
            print(f"{draft}, formats, {what}: {', '.join(name for name, is_ in known.items() if is_ == what) or 'none'}")
    reasons = Counter(f"{test.draft} {test.cause}"[:150] for test in tests if test.counted == "refused")
    print(f"\nrefused ({reasons.total()} tests)")
    for reason, count in reasons.most_common():
        print(f"  {count:4} {reason}")
    for counted in ("wrong", "narrowed"):
        found = [test for test in tests if test.counted == counted]
        print(f"\n{counted} ({len(found)})")
        for test in found:
            print(f"  {test.draft} {test.file}: {test.group}: {test.test} [{test.label}]: {test.cause}")


def _table(tests: list[Test]) -> dict[str, Counter[str]]:
    """Counts by draft and file, a draft's own sum after its files."""
    table: dict[str, Counter[str]] = {}
    for draft in dict.fromkeys(test.draft for test in tests):
        of_draft = [test for test in tests if test.draft == draft]
        for file in dict.fromkeys(test.file for test in of_draft):
            table[f"{draft} {file}"] = Counter(test.counted for test in of_draft if test.file == file)
        table[f"{draft}: all"] = Counter(test.counted for test in of_draft)
        table[f"{draft}: without optional"] = Counter(test.counted for test in of_draft if not test.file.startswith("optional"))
    return table


def _content(tests: list[Test], formats: dict[str, dict[str, str]]) -> dict[str, Any]:
    return {
        "table": {row: {name: counts[name] for name in COUNTED} for row, counts in _table(tests).items()},
        "formats": formats,
        **{counted: [asdict(test) for test in tests if test.counted == counted] for counted in ("wrong", "narrowed")},
        "refused": dict(Counter(f"{test.draft} {test.file}: {test.cause}" for test in tests if test.counted == "refused").most_common()),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", help="the suite's folder of drafts")
    parser.add_argument("--tokenizer", help="'byte', a folder or a hub's name (default: the small model's)")
    parser.add_argument("--json", help="a file for the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

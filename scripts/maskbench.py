"""MaskBench cases through the constraint path: what is taken, and what each instance shows, beside plain llguidance.

    python scripts/maskbench.py CASES_DIR --tokenizer DIR --json results.json

A case is ``{"schema": …, "tests": [{"valid": bool, "data": …}]}``. Every instance is replayed token by token through the masks.
"Exact, proven" is a schema labelled exact whose valid instances the masks can all produce and whose invalid ones they cannot; "in any
spelling" if no other order of properties, form of numbers or escapes brings an invalid one through. Exit code 1 where an invalid
instance is accepted, in any spelling, and not caught.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench_support import percentiles, print_table, tokenizer_of, write_json
from jsonschema import Draft4Validator, Draft6Validator, Draft202012Validator
from jsonschema.validators import validator_for
from judgement import CompileSchema, Judge, Refused, Taken, Verdict, schema_compiler
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from replay import COMPACT, DEFAULT, Replayer

from ananke_server.constraints import Compiler

PLAIN = "plain llguidance"
SHOWN = 40
FINDINGS: tuple[Verdict, ...] = ("wrong", "respelled", "narrowed", "alarm", "caught")


@dataclass(frozen=True, slots=True)
class Instance:
    """What one instance of a case showed."""

    case: str
    index: int
    verdict: Verdict
    cause: str


@dataclass(slots=True)
class Side:
    """One way of compiling schemas, and what became of all cases."""

    name: str
    compile: CompileSchema
    replayer: Replayer
    compile_seconds: list[float] = field(default_factory=list)
    guarantees: dict[str, str] = field(default_factory=dict)
    refused: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    instances: list[Instance] = field(default_factory=list)
    exhausted: int = 0

    def run(self, name: str, case: dict[str, Any], separators: Sequence[tuple[str, str]]) -> None:
        """Compile a case's schema and judge its instances."""
        begin = time.perf_counter()
        result = self.compile(case["schema"])
        self.compile_seconds.append(time.perf_counter() - begin)
        if isinstance(result, Refused):
            self.refused[name] = result.reasons
            return
        self.guarantees[name] = result.guarantee
        judge = Judge(result, self.replayer, separators, case["schema"])
        for index, test in enumerate(case.get("tests", [])):
            judgement = judge.judge(test["data"], valid=test["valid"])
            self.instances.append(Instance(name, index, judgement.verdict, judgement.cause[:300]))
            self.exhausted += judgement.exhausted

    def proven(self, *, any_spelling: bool) -> list[str]:
        """The cases labelled exact that showed nothing else."""
        right = {"right"} if any_spelling else {"right", "respelled"}
        faulty = {instance.case for instance in self.instances if instance.verdict not in right}
        return [case for case, guarantee in self.guarantees.items() if guarantee == "exact" and case not in faulty]

    def verdicts(self, *names: Verdict) -> list[Instance]:
        return [instance for instance in self.instances if instance.verdict in names]

    def count(self, verdict: Verdict) -> int:
        return len(self.verdicts(verdict))


def main() -> int:
    arguments = _arguments()
    tokenizer = tokenizer_of(arguments.tokenizer)
    separators = [DEFAULT, COMPACT] if arguments.whitespace == "flexible" else [COMPACT]
    sides = [Side(name, compile_, Replayer(tokenizer)) for name, compile_ in _compilers(tokenizer, arguments.whitespace).items()]
    contradictions = []
    paths = sorted(Path(arguments.cases).glob("*.json"))[: arguments.limit]
    for number, path in enumerate(paths, 1):
        case = json.loads(path.read_text(encoding="utf-8"))
        for side in sides:
            side.run(path.stem, case, separators)
        contradictions += contradictions_of(path.stem, case)
        if sys.stderr.isatty():
            print(f"\r{number}/{len(paths)}", end="", file=sys.stderr)
    _print(sides, contradictions, len(paths))
    if arguments.json:
        write_json(arguments.json, _content(arguments, tokenizer, sides, contradictions, len(paths)))
    return 1 if any(side.verdicts("wrong", "respelled") for side in sides if side.name != PLAIN) else 0


def _compilers(tokenizer: LLTokenizer, whitespace: str) -> dict[str, CompileSchema]:
    compiler = Compiler(tokenizer)

    def plain(schema: Any) -> Taken | Refused:
        limits = LLParserLimits(verbose_errors=False)
        overrides: Any = {"whitespace_flexible": whitespace == "flexible"}
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=overrides)
        except ValueError as error:
            return Refused([("", str(error).split("\n")[0])])
        complaint = LLMatcher(tokenizer, grammar, log_level=0, limits=limits).get_error()
        return Refused([("", complaint.split("\n")[0])]) if complaint else Taken(grammar, "exact", limits=limits)

    return {
        "verify": schema_compiler(compiler, {"whitespace": whitespace, "unsupported": "verify"}),
        "default": schema_compiler(compiler, {"whitespace": whitespace}),
        PLAIN: plain,
    }


def contradictions_of(name: str, case: dict[str, Any]) -> list[str]:
    """Instances whose flag jsonschema contradicts; where only a ``format`` decides, it says so."""
    schema = case["schema"]
    draft = str(schema.get("$schema", "")) if isinstance(schema, dict) else ""
    guess = {"draft-04": Draft4Validator, "draft-06": Draft6Validator}
    default = next((validator for part, validator in guess.items() if part in draft), Draft202012Validator)
    draft_validator = validator_for(schema, default=default)
    validator, formats = draft_validator(schema), draft_validator(schema, format_checker=draft_validator.FORMAT_CHECKER)
    found = []
    for index, test in enumerate(case.get("tests", [])):
        try:
            fault = next(validator.iter_errors(test["data"]), None)
        except Exception as error:  # a schema that jsonschema cannot work with has no opinion to contradict
            found.append(f"{name}[{index}]: jsonschema fails: {type(error).__name__}: {str(error)[:120]}")
            break
        if (fault is None) != test["valid"]:
            said = f"invalid at {fault.json_path}: {fault.message[:120]}" if fault else "valid"
            if fault is None and not formats.is_valid(test["data"]):
                said = "valid but for a format"
            found.append(f"{name}[{index}]: the flag says {'valid' if test['valid'] else 'invalid'}, jsonschema {said}")
    return found


def _print(sides: list[Side], contradictions: list[str], cases: int) -> None:
    print(f"{cases} schemas, {len(contradictions)} instances whose flag jsonschema contradicts, peak {_peak_mib():,} MiB")
    summaries = {side.name: _summary(side) for side in sides}
    rows = [[row, *(summary.get(row, "-") for summary in summaries.values())] for row in summaries[sides[0].name]]
    print_table(["", *summaries], rows)
    for side in sides:
        reasons = Counter(f"{code} {message}"[:140] for found in side.refused.values() for code, message in found)
        _print_list(f"{side.name}: {len(side.refused)} refused", [f"{count:4} {reason}" for reason, count in reasons.most_common()])
        for verdict in FINDINGS:
            _print_list(f"{side.name}: {verdict}", [f"{one.case}[{one.index}] {one.cause}" for one in side.verdicts(verdict)])
    _print_list("contradictions", contradictions)


def _print_list(title: str, lines: list[str]) -> None:
    if lines:
        more = [f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        print("\n" + "\n  ".join([f"{title} ({len(lines)})", *lines[:SHOWN], *more]))


def _summary(side: Side) -> dict[str, Any]:
    guarantees = Counter(side.guarantees.values())
    compile_, mask = percentiles(side.compile_seconds, scale=1e3), percentiles(side.replayer.mask_seconds, scale=1e6)
    return {
        "taken": len(side.guarantees),
        "labelled exact": "-" if side.name == PLAIN else guarantees["exact"],
        "labelled verified": "-" if side.name == PLAIN else guarantees["verified"],
        "refused": len(side.refused),
        "exact, proven": len(side.proven(any_spelling=False)),
        "exact, proven in any spelling": len(side.proven(any_spelling=True)),
        "instances replayed": len(side.instances),
        "invalid accepted (wrong)": side.count("wrong"),
        "invalid accepted in another spelling (respelled)": side.count("respelled"),
        "invalid accepted, refused by the validator (caught)": side.count("caught"),
        "valid, not producible (narrowed)": side.count("narrowed"),
        "valid, refused by the validator (alarm)": side.count("alarm"),
        "spelling searches given up": side.exhausted,
        **{f"compile ms {name}": value for name, value in compile_.items()},
        **{f"mask us {name}": value for name, value in mask.items()},
        "masks": len(side.replayer.mask_seconds),
    }


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _content(
    arguments: argparse.Namespace, tokenizer: LLTokenizer, sides: list[Side], contradictions: list[str], cases: int
) -> dict[str, Any]:
    return {
        "tokens": tokenizer.vocab_size,
        "whitespace": arguments.whitespace,
        "cases": cases,
        "peak_mib": _peak_mib(),
        "sides": {side.name: _summary(side) for side in sides},
        "findings": {
            side.name: {
                "not_proven": {case: label for case, label in side.guarantees.items() if case not in set(side.proven(any_spelling=True))},
                "refused": side.refused,
                "instances": [asdict(instance) for instance in side.verdicts(*FINDINGS)],
            }
            for side in sides
        },
        "contradictions": contradictions,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", help="a folder of MaskBench cases")
    parser.add_argument("--tokenizer", help="'byte', a folder or a hub's name (default: the small model's)")
    parser.add_argument("--whitespace", choices=["flexible", "compact"], default="flexible")
    parser.add_argument("--limit", type=int, help="take only the first cases")
    parser.add_argument("--json", help="a file for the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""Audit the locked dependencies: how they are pinned, faults known here, and those that an advisory service knows, if one answers."""

import argparse
import json
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from ananke_server.launch import PROJECT

LOCKS = PROJECT / "requirements"
KNOWN = LOCKS / "advisories.toml"
VENV = PROJECT / ".ananke" / "audit-venv"
SERVICES = ("pypi", "osv")
ASK_SECONDS = 300
# Asked first: a service that does not know it is none, and need not be asked about hundreds.
PROBE = ("pip", "24.0")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--offline", action="store_true", help="ask nobody")
    parser.add_argument("--require-advisories", action="store_true", help="exit with 2 where a package could not be asked about")
    arguments = parser.parse_args()
    locks = {path.name: path.read_text() for path in sorted(LOCKS.glob("*.txt"))}
    known = tomllib.loads(KNOWN.read_text())
    faults = [fault for name, text in locks.items() for fault in (*pin_faults(name, text), *floor_faults(name, text, known["floors"]))]
    print(f"pins and known floors: {sum(1 for text in locks.values() for _ in requirements(text))} requirements of {len(locks)} locks")
    asked = Advisories.none("--offline was given") if arguments.offline else ask(locks)
    faults += [*asked.faults(known["accepted"]), *idle_acceptances(known["accepted"], asked)]
    print(asked)
    for fault in faults:
        print(f"audit: {fault}", file=sys.stderr)
    if faults:
        return 1
    return 2 if arguments.require_advisories and asked.unasked else 0


def requirements(lock: str) -> Iterator[tuple[int, str]]:
    """The lines of a lock that are requirements, numbered."""
    for number, line in enumerate(lock.splitlines(), start=1):
        if (content := line.strip()) and not content.startswith("#"):
            yield number, content


def pin_faults(name: str, lock: str) -> Iterator[str]:
    """Requirements that could be another thing tomorrow: no exact version, a URL, an option, or a name twice for the same machine."""
    seen: set[tuple[str, str]] = set()
    for number, line in requirements(lock):
        where = f"{name}, line {number}: {line}"
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            yield f"{where}: not a requirement; make lock"
            continue
        specifiers = [(each.operator, each.version.endswith(".*")) for each in requirement.specifier]
        if requirement.url or specifiers != [("==", False)]:
            yield f"{where}: not pinned to one version with ==; make lock"
        key = (canonicalize_name(requirement.name), str(requirement.marker or ""))
        if key in seen:
            yield f"{where}: is there twice; make lock"
        seen.add(key)


def floor_faults(name: str, lock: str, floors: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Versions that have a fault known here."""
    for package, version in pinned(lock):
        floor = floors.get(package)
        if floor and Version(version) < Version(floor["version"]):
            yield f"{name}: {package} {version} has {floor['advisory']}: at least {floor['version']}"


def pinned(lock: str) -> Iterator[tuple[str, str]]:
    """Packages of a lock with their versions."""
    for _, line in requirements(lock):
        found = re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line)
        if found:
            yield canonicalize_name(found[1]), found[2]


@dataclass(frozen=True)
class Finding:
    """What an advisory service says of a package."""

    package: str
    version: str
    advisory: str
    fixed: str


@dataclass(frozen=True)
class Advisories:
    """What was learned, and of which packages nothing was."""

    service: str
    asked: int
    unasked: int
    why: str
    findings: tuple[Finding, ...] = ()

    @classmethod
    def none(cls, why: str) -> "Advisories":
        return cls("", 0, 1, why)

    @classmethod
    def of(cls, service: str, report: Mapping[str, Any]) -> "Advisories":
        """The answer in pip-audit's JSON report. What it skipped, as unknown to the service, was not asked about; its exit code is 0."""
        packages = report["dependencies"]
        skipped = [package for package in packages if "skip_reason" in package]
        findings = tuple(
            Finding(canonicalize_name(package["name"]), package["version"], fault["id"], ", ".join(fault["fix_versions"]) or "none")
            for package in packages
            for fault in package.get("vulns", ())
        )
        return cls(service, len(packages) - len(skipped), len(skipped), str(skipped[0]["skip_reason"]) if skipped else "", findings)

    def faults(self, accepted: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
        for found in self.findings:
            if accepted.get(found.advisory, {}).get("package") != found.package:
                yield f"{found.package} {found.version} has {found.advisory}, fixed in: {found.fixed}"

    def __str__(self) -> str:
        if not self.asked:
            return f"advisories: NOT ASKED ({self.why}); this audit says nothing of faults published elsewhere"
        more = f"; NOT ASKED about {self.unasked} more ({self.why})" if self.unasked else ""
        return f"advisories: {self.asked} packages asked of {self.service}, {len(self.findings)} findings{more}"


def idle_acceptances(accepted: Mapping[str, Mapping[str, str]], asked: Advisories) -> Iterator[str]:
    """Acceptances without a reason, and those that nothing asks for any more."""
    for advisory, entry in accepted.items():
        if not entry.get("reason") or not entry.get("package"):
            yield f"{KNOWN.name}: accepted.{advisory} needs a package and a reason"
        elif asked.asked and not asked.unasked and advisory not in {found.advisory for found in asked.findings}:
            yield f"{KNOWN.name}: accepted.{advisory} is found no more; remove it"


def ask(locks: Mapping[str, str]) -> Advisories:
    """What the first service that answers says of every package of the locks."""
    try:
        tool = pip_audit()
    except (OSError, subprocess.SubprocessError) as fault:
        return Advisories.none(f"pip-audit cannot be installed: {type(fault).__name__}")
    # A local version, as PyTorch's +cpu, is no service's.
    packages = {(package, version.partition("+")[0]) for text in locks.values() for package, version in pinned(text)}
    why = "no service answers"
    for service in SERVICES:
        probe = asked_of(tool, service, [PROBE])
        if probe is None:
            continue
        answer = Advisories.of(service, probe)
        if not answer.asked:
            why = answer.why
            continue
        reports = [asked_of(tool, service, some) or skipped(some, f"{service} stopped answering") for some in rounds(packages)]
        return Advisories.of(service, {"dependencies": [package for report in reports for package in report["dependencies"]]})
    return Advisories.none(why)


def skipped(packages: Sequence[tuple[str, str]], why: str) -> dict[str, Any]:
    """The report of a service that did not answer."""
    return {"dependencies": [{"name": package, "skip_reason": why} for package, _ in packages]}


def rounds(packages: set[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """The packages in lists that name each once, as pip-audit takes them."""
    left = sorted(packages)
    while left:
        first = dict(reversed(left))
        yield sorted(first.items())
        left = [(package, version) for package, version in left if first[package] != version]


def pip_audit() -> Path:
    """pip-audit in an environment of its own, by its lock."""
    lock = LOCKS / "audit.txt"
    installed, tool = VENV / ".installed", VENV / "bin" / "pip-audit"
    if not installed.is_file() or installed.read_text() != lock.read_text():
        venv.create(VENV, with_pip=True, clear=True)
        install: list[str | Path] = [VENV / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", lock]
        subprocess.run(install, check=True, timeout=ASK_SECONDS, capture_output=True)
        installed.write_text(lock.read_text())
    return tool


def asked_of(tool: Path, service: str, packages: Sequence[tuple[str, str]]) -> dict[str, Any] | None:
    """A service's report, None where it does not answer."""
    wanted = VENV / "packages.txt"
    wanted.write_text("".join(f"{package}=={version}\n" for package, version in packages))
    options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    command: list[str | Path] = [tool, "--vulnerability-service", service, "--requirement", wanted, *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS)
        report: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return report


if __name__ == "__main__":
    raise SystemExit(main())

"""The audit of dependencies: our own locks pass what can be checked without asking anybody, and each fault is found."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import Any

import audit
import pytest
from audit import KNOWN, LOCKS, Advisories, floor_faults, idle_acceptances, pin_faults, pinned, rounds

from ananke_server.launch import PROJECT

REPORT: dict[str, Any] = {
    "dependencies": [
        {"name": "Safe", "version": "1", "vulns": []},
        {"name": "Bad_One", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}, {"id": "CVE-2", "fix_versions": []}]},
        {"name": "unknown", "skip_reason": "not found"},
    ]
}


def test_our_locks_pass_offline_and_the_audit_says_what_it_did_not_ask() -> None:
    command = [sys.executable, PROJECT / "scripts" / "audit.py", "--offline"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"of {len(list(LOCKS.glob('*.txt')))} locks" in done.stdout
    assert "advisories: NOT ASKED (--offline was given)" in done.stdout
    assert subprocess.run([*command, "--require-advisories"], capture_output=True).returncode == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("good>=1", "not pinned to one version"),
        ("good", "not pinned to one version"),
        ("good==1.*", "not pinned to one version"),
        ("good==1,<2", "not pinned to one version"),
        ("good @ https://example.org/good.whl", "not pinned to one version"),
        ("git+https://example.org/good", "not a requirement"),
        ("--index-url https://example.org", "not a requirement"),
        ("-e .", "not a requirement"),
    ],
)
def test_what_could_be_another_thing_tomorrow_is_found(line: str, said: str) -> None:
    (fault,) = pin_faults("cpu.txt", f"# made\nfine==1\n\n{line}\n")
    assert fault.startswith(f"cpu.txt, line 4: {line}: {said}")


def test_a_package_stands_once_for_each_machine() -> None:
    assert list(pin_faults("x", "a-b==1 ; python_version < '3.12'\na-b==2 ; python_version >= '3.12'\n")) == []
    (fault,) = pin_faults("x", "a-b==1\nA_B==2\n")
    assert "is there twice" in fault


def test_a_version_below_a_known_floor_is_found() -> None:
    floors = {"a-b": {"version": "1.10", "advisory": "CVE-9"}}
    assert list(floor_faults("x", "a-b==1.10\na-b==1.10.1+cpu ; python_version < '3'\nc==0\n", floors)) == []
    assert list(floor_faults("x", "A_B==1.9\n", floors)) == ["x: a-b 1.9 has CVE-9: at least 1.10"]


def test_findings_fail_unless_they_are_accepted_for_that_package() -> None:
    answer = Advisories.of("pypi", REPORT)
    assert (answer.asked, answer.unasked, answer.why) == (2, 1, "not found")
    assert list(answer.faults({})) == ["bad-one 2 has CVE-1, fixed in: 3", "bad-one 2 has CVE-2, fixed in: none"]
    accepted = {"CVE-1": {"package": "bad-one", "reason": "not reached"}, "CVE-2": {"package": "other", "reason": "x"}}
    assert list(answer.faults(accepted)) == ["bad-one 2 has CVE-2, fixed in: none"]
    assert str(answer) == "advisories: 2 packages asked of pypi, 2 findings; NOT ASKED about 1 more (not found)"


def test_an_acceptance_needs_a_reason_and_goes_when_its_finding_does() -> None:
    whole = Advisories.of("pypi", {"dependencies": REPORT["dependencies"][:2]})
    assert list(idle_acceptances({"CVE-1": {"package": "bad-one", "reason": "x"}}, whole)) == []
    assert "needs a package and a reason" in next(idle_acceptances({"CVE-1": {"package": "bad-one"}}, whole))
    assert "is found no more" in next(idle_acceptances({"CVE-3": {"package": "bad-one", "reason": "x"}}, whole))
    assert list(idle_acceptances({"CVE-3": {"package": "bad-one", "reason": "x"}}, Advisories.none("away"))) == []


def test_each_round_names_a_package_once_and_all_are_asked_about() -> None:
    packages = {("a", "1"), ("a", "2"), ("a", "3"), ("b", "1")}
    lists = list(rounds(packages))
    assert all(len({name for name, _ in some}) == len(some) for some in lists)
    assert sorted(pair for some in lists for pair in some) == sorted(packages)


def test_every_floor_is_of_a_package_that_is_locked() -> None:
    locked = {package for path in LOCKS.glob("*.txt") for package, _ in pinned(path.read_text())}
    assert tomllib.loads(KNOWN.read_text())["floors"].keys() <= locked


def test_a_service_that_knows_nothing_is_no_clean_bill(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip-audit exits with 0 where it has skipped everything."""
    asked: list[str] = []

    def skipping(tool: object, service: str, packages: list[tuple[str, str]]) -> dict[str, Any] | None:
        asked.append(service)
        return None if service == "osv" else {"dependencies": [{"name": name, "skip_reason": "no such page"} for name, _ in packages]}

    monkeypatch.setattr(audit, "pip_audit", lambda: "pip-audit")
    monkeypatch.setattr(audit, "asked_of", skipping)
    answer = audit.ask({"x.txt": "a==1\nb==2\n"})
    assert (answer.asked, answer.why, asked) == (0, "no such page", ["pypi", "osv"])
    assert "NOT ASKED (no such page)" in str(answer)


def test_the_service_that_answers_is_asked_about_every_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def answering(tool: object, service: str, packages: list[tuple[str, str]]) -> dict[str, Any] | None:
        return None if service == "pypi" else {"dependencies": [{"name": n, "version": v, "vulns": []} for n, v in packages]}

    monkeypatch.setattr(audit, "pip_audit", lambda: "pip-audit")
    monkeypatch.setattr(audit, "asked_of", answering)
    answer = audit.ask({"x.txt": "a==1+cpu\nb==2\n", "y.txt": "a==3\n"})
    assert (answer.service, answer.asked, answer.unasked) == ("osv", 3, 0)


def test_what_a_service_leaves_unanswered_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def tiring(tool: object, service: str, packages: list[tuple[str, str]]) -> dict[str, Any] | None:
        return None if ("a", "3") in packages else {"dependencies": [{"name": n, "version": v, "vulns": []} for n, v in packages]}

    monkeypatch.setattr(audit, "pip_audit", lambda: "pip-audit")
    monkeypatch.setattr(audit, "asked_of", tiring)
    answer = audit.ask({"x.txt": "a==1\nb==2\n", "y.txt": "a==3\n"})
    assert (answer.asked, answer.unasked, answer.why) == (2, 1, "pypi stopped answering")

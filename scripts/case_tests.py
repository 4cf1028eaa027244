"""Tests of one case alone, as pytest runs them."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


class CaseOutcome:
    """A pytest plugin that runs the tests of one case, and names those that fail."""

    def __init__(self, case_name: str) -> None:
        self._case_name = case_name
        self.passed = 0
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self._is_of_case(item)]

    def _is_of_case(self, item: pytest.Item) -> bool:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            return False
        case = item.callspec.params.get("adapter", item.callspec.params.get("model_type"))
        return self._case_name == (case[0] if isinstance(case, tuple) else case)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid.rpartition("::")[2].partition("[")[0])
        elif report.when == "call" and report.passed:
            self.passed += 1

    @property
    def complaint(self) -> str | None:
        """What speaks against the type in one line; None if all tests passed."""
        total = self.passed + len(self.failed)
        if total == 0:
            return "no test of it ran"
        if not self.failed:
            return None
        tests = ", ".join(dict.fromkeys(self.failed))
        return f"{len(self.failed)} of {total} tests fail: {tests}"


def run_tests(tests: Path, case_name: str) -> CaseOutcome:
    outcome = CaseOutcome(case_name)
    pytest.main([str(tests), "-p", "no:cacheprovider", f"--rootdir={ROOT}"], plugins=[outcome])
    return outcome

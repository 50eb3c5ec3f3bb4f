"""The table of counts, printed at the end of a run."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind) if r.when == "call"
    ]
    rows = [value for r in reports for name, value in r.user_properties if name == "fuzz"]
    if not rows:
        return
    columns = ("taken", "refused", "unnamed", "silent", "hang")
    terminalreporter.write_sep("-", "hostile inputs")
    terminalreporter.write_line(f"{'area':<44}{'tried':>8}" + "".join(f"{c:>9}" for c in columns))
    for area, total, counts in [*sorted(rows), _sum(rows)]:
        terminalreporter.write_line(
            f"{area:<44}{total:>8}" + "".join(f"{counts.get(c, 0):>9}" for c in columns)
        )


def _sum(rows: list) -> tuple:
    kinds = {kind for _, _, counts in rows for kind in counts}
    return "all", sum(r[1] for r in rows), {kind: sum(r[2].get(kind, 0) for r in rows) for kind in kinds}

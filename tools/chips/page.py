"""Write the tables of docs/chips.md from benchmarks/results/chips.

python -m tools.chips.page
"""

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

from tools.chips.target import CHIPS, GIGA, TERA
from tools.pages import RESULTS, ROOT, markdown, replace_region

PAGE = ROOT / "docs" / "chips.md"
MEASURED = RESULTS / "chips_measured"
SHOWN = 0.01  # of all arguments; smaller ones are not named
Result = dict[str, Any]
# Of what the oldest revision holds and takes, the most that was set out for: target and beginning of a program -> temporary
# memory, estimated time.
AIMS = {
    ("v5e-8", "tag-base-64x128-k64-2000000"): (0.35, 0.7),
    **{(target, f"train_step-{which}"): (0.5, 1.02) for target in ("v5e-8", "h200-1") for which in ("base-64", "large-32")},
    **{(target, f"train_step-{which}"): (0.4, 1.02) for target in ("v5e-8", "h200-1") for which in ("base-16", "large-8")},
}


def read_results() -> dict[tuple[str, str], list[Result]]:
    """Return the results of each target and program, the oldest revision first; none of uncommitted changes."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((RESULTS / "chips").glob("*/*.json"))]
    grouped: dict[tuple[str, str], list[Result]] = {}
    for result in sorted(results, key=lambda one: (one["target"], one["program"], one["date"])):
        if not result["revision"].endswith("+changes"):
            grouped.setdefault((result["target"], result["program"]), []).append(result)
    return grouped


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 1 else f"{value:.2f}"


def _times(result: Result) -> str:
    return " / ".join(_number(one["ms"]) for one in result["estimates"].values())


def _arguments(result: Result) -> str:
    parts = [
        f"{name} {_number(mb)}" for name, mb in result.get("arguments", {}).items() if mb >= SHOWN * result["arguments_mb"]
    ]
    return ": ".join(filter(None, [_number(result["arguments_mb"]), ", ".join(parts)]))


def _row(result: Result) -> list[str]:
    if "out_of_memory" in result:
        return ["**does not fit**", *[""] * 8]
    memory = [_arguments(result), _number(result["temporary_mb"])]
    if "unreadable" in result:
        return [*memory, "**not readable**", *[""] * 5, f"{result['seconds']:.0f}"]
    one = list(result["estimates"].values())[-1]
    largest = result["largest"][0] if result["largest"] else {"array": "", "line": ""}
    received = ", ".join(f"{each['number']} {each['kind']} {_number(each['mb'])}" for each in result["collectives"])
    return [
        *memory,
        f"{largest['array']} `{largest['line']}`",
        _number(one["gflops"]),
        _number(one["traffic_mb"]),
        received or "none",
        _times(result),
        f"{100 * one['share_of_peak']:.1f}%",
        f"{result['seconds']:.0f}",
    ]


HEADER = [
    "program, at revision",
    "arguments, MB",
    "temporary, MB",
    "its largest array",
    "GFLOP",
    "HBM traffic, MB",
    "received, MB",
    "*estimated* ms",
    "of peak",
    "compiled in s",
]


def programs_table(results: Sequence[Sequence[Result]]) -> list[str]:
    """Format the programs of one target, each before and after."""
    rows = []
    for revisions in results:
        ends = [revisions[0], revisions[-1]] if len(revisions) > 1 else revisions
        rows += [[f"{one['program']} @{one['revision']}", *_row(one)] for one in ends]
    return markdown(HEADER, rows)


def _ratio(value: float) -> str:
    """Format a ratio with three digits, rounded up: what misses an aim does not look as if it reached it."""
    return f"{math.ceil(round(1000 * value, 6)) / 1000:.3f}"


def ratios_table(results: dict[tuple[str, str], list[Result]]) -> list[str]:
    """Format temporary memory and estimated time of the newest revision as ratios to the oldest, where there are two.

    Those of two compilers are no before and after; results that name none are taken to be of the one that the others name.
    """
    rows = []
    for (target, program), revisions in results.items():
        first, last = revisions[0], revisions[-1]
        if first is last or "temporary_mb" not in first or "temporary_mb" not in last:
            continue
        if first.get("compilers", last.get("compilers")) != last.get("compilers"):
            continue
        before, now = (one.get("estimates", {}) for one in (first, last))
        times = [one["ms"] / before[weight]["ms"] for weight, one in now.items() if weight in before]
        memory = last["temporary_mb"] / first["temporary_mb"]
        aim = next((aim for (where, name), aim in AIMS.items() if where == target and program.startswith(name)), None)
        reached = [] if aim is None else [memory <= aim[0], max(times) <= aim[1]]
        rows.append(
            [
                f"{target}, {program}",
                f"{first['revision']}, {last['revision']}",
                _ratio(memory),
                " / ".join(map(_ratio, times)),
                "" if aim is None else "{}, {}".format(*aim),
                ", ".join("yes" if one else "**no**" for one in reached),
            ]
        )
    return (
        markdown(["program", "revisions", "temporary memory", "*estimated* time", "aims", "reached"], rows) if rows else []
    )


def chips_table() -> list[str]:
    """Format what the makers publish of the chips."""
    rows = [
        [
            name,
            f"{chip.peak / TERA:,.0f}",
            f"{chip.hbm / GIGA:,.0f}",
            f"{chip.bandwidth / GIGA:,.0f}",
            f"[page]({chip.source})",
        ]
        for name, chip in CHIPS.items()
    ]
    return markdown(["chip", "bfloat16, TFLOP/s", "memory, GB", "memory, GB/s", "published"], rows)


def measured_tables() -> list[str]:
    """Format times on real devices beside what was estimated for them."""
    lines = []
    for path in sorted(MEASURED.glob("*.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        rows = []
        for name, one in told["programs"].items():
            ms, estimate = 1e3 * statistics.median(one["seconds"]), one["estimated_ms"]
            rows.append([name, _number(ms), *([_number(estimate), f"{ms / estimate:.1f}"] if estimate else ["", ""])])
        lines += [f"{told['devices']} x {told['device']}, jax {told['jax']}; median of {len(one['seconds'])} calls:", ""]
        lines += markdown(["program", "ms", "*estimated* ms", "ratio"], rows)
    return ["## Measured", "", *lines] if lines else []


def broken_lines(results: dict[tuple[str, str], list[Result]]) -> list[str]:
    """List the budgets that the newest revision of each program breaks."""
    broken = [
        f"* {target}, {program}: {message}"
        for (target, program), all_ in results.items()
        for message in all_[-1].get("broken", [])
    ]
    return [*(broken or ["None."]), ""]


def unreadable_lines(results: dict[tuple[str, str], list[Result]]) -> list[str]:
    """List the programs whose newest revision was compiled, but not printed, so that its budgets are not known."""
    lines = [
        f"* {target}, {program}: {all_[-1]['unreadable']}"
        for (target, program), all_ in results.items()
        if "unreadable" in all_[-1]
    ]
    return ["## Not readable", "", *lines, ""] if lines else []


def write_page(text: str) -> str:
    """Return the text of docs/chips.md with its tables."""
    results = read_results()
    lines = ["", "## Before and after", "", *ratios_table(results), "## Budgets that are broken", "", *broken_lines(results)]
    lines += unreadable_lines(results)
    for target in dict.fromkeys(name for name, _ in results):
        lines += [f"## {target}", "", *programs_table([all_ for (name, _), all_ in results.items() if name == target])]
    return replace_region(text, "programs", [*lines, *measured_tables(), "## The chips", "", *chips_table()])


def main() -> None:
    """Write the page."""
    PAGE.write_text(write_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()

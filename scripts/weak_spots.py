"""Keep docs/weak-spots.md true: each weak spot names the tests that prove ours free of it, or says "later".

A test claims a weak spot by its name: `test_W12_...` or, for several, `test_W7_P6_...`. The texts in the table are
written by hand; the last column is filled in here.

    python scripts/weak_spots.py            # rewrite the last column
    python scripts/weak_spots.py --check    # exit 1 if it would change
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "weak-spots.md"
ROW = re.compile(r"^\| (?P<id>[WP]\d+) \| (?P<text>[^|]+) \| (?P<proof>[^|]*) \|$")
CLAIM = re.compile(r"(?<=_)[WP]\d+(?=_)")
TEST_FOLDERS = ("libs", "services", "cli", "tests", "images")


def claims(root: Path) -> dict[str, list[str]]:
    """Map each weak spot's id to the tests that claim it, as `file::name`, sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for folder in TEST_FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            source = path.read_text()
            if "test_W" not in source and "test_P" not in source:
                continue
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    for weak_spot in CLAIM.findall(node.name):
                        found[weak_spot].add(f"`{path.relative_to(root)}::{node.name}`")
    return {weak_spot: sorted(tests) for weak_spot, tests in found.items()}


def render(table: str, proofs: dict[str, list[str]]) -> str:
    """The table with its last column filled in; a claim without a row is an error."""
    seen: set[str] = set()
    lines = []
    for line in table.splitlines():
        row = ROW.match(line)
        if row is None:
            lines.append(line)
            continue
        seen.add(row["id"])
        proof = "<br>".join(proofs.get(row["id"], [])) or "later"
        lines.append(f"| {row['id']} | {row['text']} | {proof} |")
    if unknown := proofs.keys() - seen:
        raise SystemExit(f"tests claim weak spots that {TABLE.name} does not list: {', '.join(sorted(unknown))}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Rewrite or check the table."""
    before = TABLE.read_text()
    after = render(before, claims(ROOT))
    if arguments == ["--check"]:
        if before != after:
            print(f"{TABLE.relative_to(ROOT)} is out of date: run `python scripts/weak_spots.py`")  # noqa: T201
            return 1
        return 0
    TABLE.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Record the golden losses of tiny models: tests/golden/losses.json, compared by tests/tiny/test_golden.py.

Run it only when a change is meant to move a loss, and say so in the commit. It refuses a dirty source tree, so that
the recorded numbers belong to a commit.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from tiny_runs import golden_cases, golden_environment  # noqa: E402


def main() -> None:
    """Run every case and write losses and gradient norms at full precision."""
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "src"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    if dirty.stdout and "--dirty" not in sys.argv:
        sys.exit("src/ has uncommitted changes: commit first, so that the losses belong to a commit")
    with tempfile.TemporaryDirectory() as folder:
        cases = golden_cases(Path(folder))
    target = ROOT / "tests" / "golden" / "losses.json"
    target.write_text(json.dumps({"environment": golden_environment(), "cases": cases}, indent=2) + "\n")
    print(f"{target}: {len(cases)} cases")


if __name__ == "__main__":
    main()

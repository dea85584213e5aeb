"""Where models come from, without what only records need."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_models_load_without_datasets():
    """With pandas and pyarrow it takes 90 MB, and only reading records needs it."""
    heavy = {"datasets", "pandas", "pyarrow"}
    code = f"import sys, sau.models.sources, sau.pruners; print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

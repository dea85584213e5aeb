"""`python -m sau STAGE`: one step of the recipe in the current folder. This is what dvc.yaml calls."""

import argparse
import sys
import time

from sau.errors import SauError
from sau.stages import STAGES, run

REPORT_EVERY_S = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sau", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    stage = parser.parse_args().stage
    last = 0.0

    def progress(done: int, total: int, values: dict[str, float]) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= REPORT_EVERY_S:
            last = time.monotonic()
            shown = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
            print(f"{stage} {done}/{total}  {shown}", flush=True)

    try:
        run(stage, progress=progress)
    except SauError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.differential MODE COUNT [SEED]`: random instructions compared with QEMU, and what differs."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.differential.comparison import make_batch, run
from tests.differential.coverage import Coverage
from tests.differential.layout import Bench, Mode
from tests.differential.reasons import Reason


def main(mode: str, count: str, seed: str = "1") -> None:
    write = sys.stdout.write
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bench = Bench.build(folder, Path(__file__).with_name("bench.S"))
        steps, number, begin, used = 0, int(seed), time.time(), time.process_time()
        coverage = Coverage()
        explained: Counter[Reason] = Counter()
        shown: Counter[tuple[str, tuple[str, ...]]] = Counter()
        faults: Counter[int] = Counter()
        while steps < int(count):
            result = run(make_batch(bench, Mode[mode.upper()], number), folder, coverage)
            steps += result.steps
            explained.update(result.explained)
            faults.update(result.faults)
            write(f"# seed {number}: {result.steps} steps, {len(result.differences)} differences\n")
            for name, stuck in zip(("here", "QEMU"), result.stuck, strict=True):
                for case, how in stuck.items():
                    write(f"  {number}/{case}: {name} {how}\n")
            for d in result.differences:
                key = (d.instruction.split()[0] if d.instruction else "?", d.fields)
                shown[key] += 1
                if shown[key] <= 2:
                    write(f"{d.seed}/{d.case}/{d.step} [{d.flavour}] {d.code} {d.instruction} | {d.detail}\n")
            sys.stdout.flush()
            number += 1
            if result.steps == 0:
                break
        write(f"{steps} steps, {sum(shown.values())} differences, ")
        write(f"{time.time() - begin:.1f} s, {time.process_time() - used:.1f} s here\n")
        for reason, many in explained.most_common():
            write(f"{many:8} {reason.name}: {reason.value}\n")
        write(f"vectors {sorted(faults.items())}\n")
        for key, many in shown.most_common(60):
            write(f"{many:6} {key}\n")
        for line in coverage.report():
            write(f"{line}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Run many worlds: `PYTHONPATH=tests python -m simulation --seeds 100000`, or one with its trace: `--seed 42`."""

import argparse
import gc
import sys
import time
from collections import Counter

from simulation.invariants import broken
from simulation.world import as_text, run, simulated


def main() -> None:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many worlds")
    parser.add_argument("--base", type=int, default=0, help="the first one's seed")
    parser.add_argument("--seed", type=int, help="only this one, with its trace")
    options = parser.parse_args()
    with simulated():
        if options.seed is not None:
            world = run(options.seed)
            say(as_text(world))
            say("\n".join(broken(world)) or "all promises kept")
            return
        began = time.process_time()
        shapes: Counter[str] = Counter()
        examples: dict[str, tuple[int, str]] = {}
        gc.freeze()
        for seed in range(options.base, options.base + options.seeds):
            for sentence in broken(run(seed)):
                shape = "".join("#" if character.isdigit() else character for character in sentence)
                shapes[shape] += 1
                examples.setdefault(shape, (seed, sentence))
        for shape, count in shapes.most_common():
            say(f"{count:6} × seed {examples[shape][0]}: {examples[shape][1]}")
        seconds = time.process_time() - began
        say(f"{options.seeds} worlds in {seconds:.1f} s of one core: {1000 * seconds / options.seeds:.1f} ms each")
    sys.exit(bool(shapes))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


main()

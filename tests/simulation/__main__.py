"""Simulate worlds: `python -m tests.simulation 10000`, or one of them again: `--seed 17`."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from typing import TYPE_CHECKING

from tests.simulation.mutations import FOCUS, MUTATIONS
from tests.simulation.simulate import Focus, Outcome, simulate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from multiprocessing.pool import Pool

# Seeds of worlds in which something was wrong once, and what.
KEPT_SEEDS = {
    "10122": "a full refresh stopped at its first line emitted a STATE without a run, so that the "
    "next run filtered by the old bookmark",
    "30005": "lists that a run had finished were read again, since it began 12 hours before them",
    "50176": "a run stopped right after SCHEMA left no STATE, so that a column changed its field",
    "50271": "an export whose request was lost was looked for since the next request only",
    "50448": "a discarded export was taken for the one of the next request",
    "103467": "the same, after the columns had changed",
    "110629": "a part of unknown length lost all of its bytes, and nothing counted its contacts",
    "113875": "the same, with `allow_count_mismatch`",
}

# Worlds after which a mutation counts as not noticed.
_MUTATED_WORLDS = 240


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("worlds", type=int, nargs="?", default=100)
    parser.add_argument("--first", type=int, default=1, help="first seed")
    parser.add_argument("--seed", help="simulate the world of this seed, and tell its story")
    parser.add_argument("--kept", action="store_true", help="simulate those of KEPT_SEEDS too")
    parser.add_argument("--mutations", nargs="*", help="break the tap, which must be noticed")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if options.seed:
        outcome = simulate(options.seed)
        print("\n".join([*outcome.story, *outcome.violations]))
        return bool(outcome.violations)
    gc.freeze()
    seeds = map(str, range(options.first, options.first + options.worlds))
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        if options.mutations is not None:
            return run_mutations(pool, options.mutations)
        return run_worlds(pool, [*(KEPT_SEEDS if options.kept else ()), *seeds])


def run_worlds(pool: Pool, seeds: Iterable[str]) -> int:
    """Simulate worlds; return whether something was wrong."""
    started = time.monotonic()
    outcomes: list[Outcome] = []
    for outcome in pool.imap_unordered(simulate, seeds):
        outcomes.append(outcome)
        if outcome.violations:
            print(f"seed {outcome.seed}: {outcome.violations[0]}", flush=True)
    failed = sum(bool(each.violations) for each in outcomes)
    runs, kills, signals, successes = (
        sum(getattr(each, name) for each in outcomes)
        for name in ("runs", "kills", "signals", "successes")
    )
    print(
        f"{len(outcomes)} worlds, {runs} runs ({successes} with exit code 0, {kills} killed, "
        f"{signals} stopped by signals), {failed} failures, {time.monotonic() - started:.0f} s"
    )
    if failed:
        print("Again, with its story: python -m tests.simulation --seed SEED")
    return bool(failed)


def run_mutations(pool: Pool, names: Iterable[str]) -> int:
    """Simulate worlds with each mutation until it is noticed; return whether one is not."""
    is_unnoticed = False
    for mutation, invariant in MUTATIONS.items():
        if names and mutation.__name__ not in names:
            continue
        noticed: dict[str, str] = {}
        worlds = 0
        while invariant not in noticed and worlds < _MUTATED_WORLDS:
            seeds = map(str, range(worlds + 1, worlds + 5))
            worlds += 4
            focus = FOCUS.get(mutation, Focus())
            for outcome in pool.starmap(simulate, ((seed, mutation, focus) for seed in seeds)):
                for violation in outcome.violations:
                    noticed.setdefault(violation.partition(":")[0], outcome.seed)
        is_unnoticed |= invariant not in noticed
        print(
            f"{mutation.__name__}: {invariant} expected; noticed in {worlds} worlds by {noticed}",
            flush=True,
        )
    return is_unnoticed


if __name__ == "__main__":
    sys.exit(main())

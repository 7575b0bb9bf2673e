#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of GoogleTest programs side by side, each in a process of its own, and says what failed.

On a GPU machine one conformance test keeps one processor busy with compiling and with launches, and the GPU hardly at all:

    python3 tests/side_by_side.py bin/conformance --filter '*cuda_*' --first Pairs Random --limit 500 --json result.json

Exit: 0 all passed or were skipped, 1 a test failed, 2 nothing matched, 3 --limit came before the end (what was left is named).
"""
import argparse
import concurrent.futures
import json
import os
import random
import re
import subprocess
import sys
import time


def tests_of(program, pattern):
    text = subprocess.run([program, "--gtest_list_tests", f"--gtest_filter={pattern}"], check=True, capture_output=True,
                          text=True).stdout
    suite, names = "", []
    for line in text.splitlines():
        name = line.split("#")[0].rstrip()
        if not name.startswith(" "):
            suite = name if name.endswith(".") else ""
        elif suite:
            names.append(suite + name.strip())
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="+")
    parser.add_argument("--filter", default="*", help="GoogleTest's")
    parser.add_argument("--first", nargs="*", default=[], help="tests whose names hold one of these texts begin first: the longest")
    parser.add_argument("--split", nargs="*", default=[], help="tests whose names hold one of these texts run as --parts processes")
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--devices", type=int, default=1, help="GPUs, which processes take by turns")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds for all of them")
    parser.add_argument("--json")
    options = parser.parse_args()

    work = []
    for program in options.programs:
        for name in tests_of(program, options.filter):
            parts = options.parts if any(text in name for text in options.split) else 1
            work += [(program, name, f"{i}/{parts}") for i in range(parts)]
    rank = lambda item: next((i for i, text in enumerate(options.first) if text in item[1]), len(options.first))
    work.sort(key=rank)
    if not work:
        print("no test matches", file=sys.stderr)
        return 2
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(options.devices)))).split(",")
    if len(devices) < options.devices:
        parser.error(f"--devices {options.devices}, but CUDA_VISIBLE_DEVICES names {len(devices)}")
    begin = time.monotonic()
    environment = dict(os.environ, OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"))
    # The parts of a test that draws its cases draw the same.
    environment.setdefault("HYPERJIT_TEST_SEED", str(random.SystemRandom().randrange(1, 1 << 32)))

    def run(numbered):
        number, (program, name, part) = numbered
        left = begin + options.limit - time.monotonic()
        started = time.monotonic()
        label = name if part == "0/1" else f"{name} (part {part})"
        result = {"program": os.path.basename(program), "test": label, "result": "not run", "seconds": 0.0, "output": ""}
        if left <= 0:
            return result
        try:
            own = dict(environment, HYPERJIT_TEST_PART=part)
            if options.devices > 1:
                own["CUDA_VISIBLE_DEVICES"] = devices[number % options.devices]
            ran = subprocess.run([program, f"--gtest_filter={name}"], env=own, capture_output=True, text=True,
                                 timeout=None if left == float("inf") else left, check=False)
            result["output"] = ran.stdout + ran.stderr
            skipped = re.search(r"^\[  SKIPPED \]", ran.stdout, re.M)
            # A program that ran no test has passed nothing.
            passed = ran.returncode == 0 and re.search(r"^\[  PASSED  \] [1-9]", ran.stdout, re.M)
            result["result"] = "passed" if passed and not skipped else "skipped" if skipped and ran.returncode == 0 else "failed"
        except subprocess.TimeoutExpired:
            result["result"] = "cut off"
        result["seconds"] = round(time.monotonic() - started, 1)
        return result

    results = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for future in concurrent.futures.as_completed([pool.submit(run, item) for item in enumerate(work)]):
            result = future.result()
            results.append(result)
            if result["result"] != "passed":
                print(f"{result['result']}: {result['test']} ({result['seconds']} s)", flush=True)
            if result["result"] == "failed":
                print("\n".join(result["output"].splitlines()[-40:]), flush=True)
    counts = {}
    for result in results:
        counts[result["result"]] = counts.get(result["result"], 0) + 1
    longest = sorted(results, key=lambda result: -result["seconds"])[:5]
    print(f"{len(work)} tests in {time.monotonic() - begin:.0f} s: " + ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())))
    print("longest: " + ", ".join(f"{result['test']} {result['seconds']} s" for result in longest))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"counts": counts, "tests": [{k: v for k, v in r.items() if k != "output" or r["result"] == "failed"} for r in results]}, file, indent=1)
    return 1 if counts.get("failed") else 3 if counts.get("cut off") or counts.get("not run") else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""hyperjit's operators against the same mathematics in PyTorch, eager and under torch.compile, and against public packages
that are installed (hyper-connections, liger-kernel, tile-kernels), in one process.

    python bench/peers.py build/release/lib/libhyperjit_torch.so [--recipes static,dynamic,...] [--dims 1280,4096] [--json FILE]

A chain of `--sites` sites whose branches return what they are given; times are those of one site. All implementations run
on the same tensors, and how far each is from its own maths in fp64 is printed: a faster wrong answer is no result. The JSON
has the rows of `hyperjit bench --json`; `us` is launched from Python there, `graph_us` replayed as CUDA graphs.
"""
import argparse
import ctypes
import gc
import json
import math
import os
import re
import sys
import tempfile

import torch

from peer_measure import (Work, copy_bandwidth, device_name, differences, first_call, peak_memory, replayed, saved_bytes,
                          timed_training, varying)
from peer_sites import PEERS, RECIPES, Chain, Implementation, Unsupported, find_peer, reference, why

DIRECTIONS = ("forward", "backward", "both")


def floor_u(n, direction):
    """What a fused boundary must move, in D-vectors a token."""
    return {"forward": 2 * n + 2, "backward": 3 * n + 3, "both": 5 * n + 5}[direction]


def scaled(timings, divisor):
    return {direction: {key: value / divisor for key, value in timing.items()} for direction, timing in timings.items()}


def largest(values):
    """NaN is larger than anything."""
    return max(values, key=lambda value: math.inf if math.isnan(value) else value)


def measure(implementation, chain, common, arguments, device):
    """Everything that is told of one implementation; `common` is the recipe's own reference."""
    work = Work(implementation, chain.x, chain.cotangent)
    seconds, results = first_call(work, device)
    own = [implementation.common([p.detach() for p in site]) for site in implementation.parameters]
    exact = all(torch.equal(mine.to(given.dtype), given)
                for site, values in zip(own, chain.parameters) for mine, given in zip(site, values))
    wanted = common
    if implementation.site or not exact:
        wanted = reference(implementation.site or chain.site, chain.x, own, chain.cotangent)
    output, streams, *rest = differences(results, wanted)
    names = RECIPES[chain.recipe]["names"]
    parameters = {name: largest(rest[i::len(names)]) for i, name in enumerate(names)}
    worst = largest([output, streams, *rest])
    single = {name: value.numel() == 1 for name, value in zip(names, chain.parameters[0])}
    groups = {group: largest([parameters[name] for name in names if single[name] == alone] or [0])
              for group, alone in (("weights", False), ("scales", True))}
    outcome = {"results": results, "first_call_s": seconds,
               "error": {"output": output, "streams": streams, **groups, "parameters": parameters},
               "wrong": not (output < 0.05 and streams < 0.05 and math.isfinite(worst))}

    outcome["launched"] = scaled(timed_training(work.forward, work.backward, arguments.repeats, device), arguments.sites)
    u_bytes = arguments.tokens * chain.d * chain.x.element_size()
    outcome["saved_u"] = saved_bytes(work.forward, work.leaves()[1:]) / u_bytes / arguments.sites
    peak = peak_memory(work, device)
    outcome["peak_x"] = None if peak is None else peak / (u_bytes * chain.n)
    kinds = ["output", "streams", *(f"{name} of site {site}" for site in range(arguments.sites) for name in names)]
    outcome["varying"] = [kinds[i] for i in varying(work, arguments.runs)]

    outcome["graph"], outcome["graph_failure"] = None, None if device.type == "cuda" else "CUDA only"
    if device.type == "cuda":
        try:
            timings, again = replayed(implementation, work, arguments.sites, arguments.repeats, device)
            apart = differences(again, wanted)
            # Sums by atomics vary, most where they cancel.
            if not (apart[0] <= 2 * output + 1e-6 and apart[1] <= 2 * streams + 1e-6 and largest(apart) <= 10 * worst + 1e-3):
                raise RuntimeError(f"a replay is {largest(apart):.1e} from fp64, a launch {worst:.1e}")
            outcome["graph"] = scaled(timings, arguments.sites)
        except Exception as error:  # a package may forbid capture in any way; its launched times stand
            outcome["graph_failure"] = why(error)
    work.clear()
    return outcome


def implementations_of(chain, arguments, peers):
    """(name, function that makes the implementations, whether it is a package's): made one after the other, for memory."""
    yield "hyperjit", lambda: [Implementation("hyperjit", chain.hyperjit, chain.parameters)], False
    if "eager" in arguments.against:
        yield "eager", lambda: [Implementation("eager", chain.eager, chain.parameters)], False
    if "compile" in arguments.against:
        yield "torch.compile", lambda: [
            Implementation("torch.compile", torch.compile(chain.eager, fullgraph=True), chain.parameters)], False
    for peer in peers:
        if peer["state"] == "installed" and chain.recipe in peer["recipes"]:
            yield peer["name"], lambda build=PEERS[peer["name"]]["recipes"][chain.recipe]: build(chain), True


def free(device):
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def measure_recipe(name, dim, arguments, device, dtype, peers):
    """The chain, outcomes by implementation and what could not be measured, again after each of either: what is measured is not
    lost when one that follows takes too long."""
    chain = Chain(name, dim, arguments, device, dtype)
    common = reference(chain.site, chain.x, chain.parameters, chain.cotangent)
    outcomes, missing, ours = {}, [], None
    for label, make, package in implementations_of(chain, arguments, peers):
        torch._dynamo.reset()
        try:
            made = make()
        except Exception as error:  # of a package's own making, whatever it is: the others go on
            if not package:
                raise
            made = []
            missing.append({"implementation": label, "spec": chain.spec, "unsupported": isinstance(error, Unsupported),
                            "reason": str(error) if isinstance(error, Unsupported) else why(error)})
            yield chain, outcomes, missing
        for implementation in made:
            try:
                outcome = measure(implementation, chain, common, arguments, device)
                results = outcome.pop("results")
                ours = ours or results
                # Another model's or rounded parameters' results are not those of the recipe.
                same = [None, None] if implementation.site else differences(results, ours)
                outcome.update(output_difference=same[0], gradient_difference=same[0] if same[0] is None else max(same[1:]),
                               maths=implementation.maths)
                outcomes[implementation.name] = outcome
                del results
            except Exception as error:
                if not package:
                    raise
                missing.append({"implementation": implementation.name, "spec": chain.spec, "unsupported": False,
                                "reason": why(error)})
            yield chain, outcomes, missing
            free(device)
        made = None
        free(device)


def rows_of(chain, outcomes, arguments, copy):
    own, eager, rows = outcomes["hyperjit"], outcomes.get("eager"), []
    u_bytes = arguments.tokens * chain.d * chain.x.element_size()
    for implementation, outcome in outcomes.items():
        best = outcome["graph"] or outcome["launched"]
        kind = "graph" if outcome["graph"] and own["graph"] else "launched"  # like with like
        for direction in DIRECTIONS:
            timing, floor = outcome["launched"][direction], floor_u(chain.n, direction)
            rows.append({
                "implementation": implementation, "spec": chain.spec, "tokens": arguments.tokens, "direction": direction,
                "mode": "chain", "us": timing, "speedup": eager and eager["launched"][direction]["median"] / timing["median"],
                "graph_us": outcome["graph"] and outcome["graph"][direction], "graph_failure": outcome["graph_failure"],
                "floor_u": floor, "share": floor * u_bytes / (best[direction]["median"] * 1e3) / copy,
                "of_hyperjit": outcome[kind][direction]["median"] / own[kind][direction]["median"],
                **{key: outcome[key] for key in ("saved_u", "output_difference", "gradient_difference", "error", "wrong",
                                                 "first_call_s", "peak_x", "varying", "maths")},
                "bit_equal": not outcome["varying"]})
    return rows


def number(value, form):
    return "-" if value is None else format(value, form)


def tell(chain, implementation, outcome, own, runs):
    micros = {direction: outcome["launched"][direction]["median"] for direction in DIRECTIONS}
    error = outcome["error"]
    print(f"{chain.recipe:<16} {implementation:<26} {micros['forward']:>9.0f} {micros['backward']:>9.0f} "
          f"{micros['both']:>9.0f} {micros['both'] / own['launched']['both']['median']:>11.2f}x {outcome['saved_u']:>7.2f} "
          f"{number(outcome['output_difference'], '.1e'):>12} {number(outcome['gradient_difference'], '.1e'):>10}   "
          f"{error['output']:>8.1e} {error['streams']:>8.1e} {error['weights']:>8.1e} {error['scales']:>8.1e}")
    if outcome["wrong"]:
        print(f"  !! {implementation}: these are not the results of its own maths; its times mean nothing")
    if outcome["varying"]:
        print(f"  {implementation}: not the same bits in {runs} runs: {', '.join(outcome['varying'][:8])}"
              f"{' ...' if len(outcome['varying']) > 8 else ''}")
    if outcome["graph_failure"] and outcome["graph_failure"] != "CUDA only":
        print(f"  !! {implementation}: no CUDA graph: {outcome['graph_failure']}")
    if outcome["maths"]:
        print(f"  {implementation}: {outcome['maths']}")


def finite(value):
    """JSON has no infinity: null, where a result is so wrong (`wrong` says it)."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tell_missing(chain, failure):
    print(f"{chain.recipe:<16} {failure['implementation']:<26} "
          f"{'not measured' if failure['unsupported'] else '!! FAILED'}: {failure['reason']}")


def table(rows, runs):
    """A line an implementation: us a site, share of the copy bandwidth that the boundary's floor takes, ratio to hyperjit."""
    def cells(timings, us):
        picked = [row[us] and row[us]["median"] for row in timings]
        return " ".join(f"{number(value, '.0f'):>8}" for value in picked)

    print(f"\nus a site; share: (2n+2)u forward, (5n+5)u both at the speed of the copy, of replays where there are any; "
          f"x: time of both over hyperjit's; bits: the same in {runs} runs")
    print(f"{'':<50} {'replayed':^25}   {'launched':^25} {'share':^14}")
    print(f"{'recipe':<16} {'D':>6} {'implementation':<26} {'forward':>8} {'both':>8} {'x':>7}   "
          f"{'forward':>8} {'both':>8} {'x':>7} {'forward':>8} {'both':>5} {'first s':>8} {'peak X':>7} {'bits':>5}")
    lines = {}
    for row in rows:
        lines.setdefault((row["spec"], row["implementation"]), {})[row["direction"]] = row
    for (spec, implementation), line in lines.items():
        recipe, dim = re.match(r"(.*?):.*\bd=(\d+)", spec).groups()
        pair, ours = [line["forward"], line["both"]], lines[spec, "hyperjit"]["both"]
        ratio = {us: line["both"][us] and ours[us] and line["both"][us]["median"] / ours[us]["median"]
                 for us in ("graph_us", "us")}
        print(f"{recipe:<16} {dim:>6} {implementation:<26} {cells(pair, 'graph_us')} {number(ratio['graph_us'], '.2f'):>7}   "
              f"{cells(pair, 'us')} {number(ratio['us'], '.2f'):>7} {line['forward']['share']:>8.2f} {line['both']['share']:>5.2f} "
              f"{line['both']['first_call_s']:>8.2f} {number(line['both']['peak_x'], '.1f'):>7} "
              f"{'equal' if line['both']['bit_equal'] else 'vary':>5}{'  !! wrong' if line['both']['wrong'] else ''}")


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", help="libhyperjit_torch.so")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--against", default="eager,compile")
    parser.add_argument("--peers", default="installed", help=f"'installed', 'none' or names: {','.join(PEERS)}")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--dims", default="", help="several D, with commas, in place of --dim")
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (all)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--runs", type=int, default=10, help="runs whose bits are compared")
    parser.add_argument("--caches", default="fresh", choices=["fresh", "keep"],
                        help="fresh: kernels compiled before are not found, so first calls are cold")
    parser.add_argument("--allocator", default="keep", choices=["keep", "system"], help="what becomes of freed CPU memory")
    parser.add_argument("--json", default="")
    arguments = parser.parse_args()
    arguments.recipes = arguments.recipes.split(",")
    if unknown := [name for name in arguments.recipes if name not in RECIPES]:
        parser.error(f"unknown recipe {unknown[0]}; {', '.join(RECIPES)} have a version here")
    special = {"installed": list(PEERS), "none": []}
    arguments.peers = special[arguments.peers] if arguments.peers in special else arguments.peers.split(",")
    if unknown := [name for name in arguments.peers if name not in PEERS]:
        parser.error(f"unknown peer {unknown[0]}; {', '.join(PEERS)} are known here")
    arguments.dims = [int(d) for d in arguments.dims.split(",")] if arguments.dims else [arguments.dim]
    return arguments


def run(arguments, device):
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[arguments.dtype]
    torch.ops.load_library(arguments.library)
    peers = [find_peer(name) for name in arguments.peers]
    for peer in peers:
        if peer["state"] == "installed":
            print(f"peer {peer['name']} {peer['version'] or ''}: {', '.join(peer['recipes'])}")
        else:
            print(f"peer {peer['name']}: {'absent' if peer['state'] == 'absent' else '!! FAILED to import'}: {peer['reason']}")

    copy = copy_bandwidth(device)
    rows, missing = [], []

    def save(rows, missing):
        if arguments.json:
            text = json.dumps(finite({"schema": "hyperjit.bench/1", "device": device_name(device), "torch": torch.__version__,
                               "copy_gbps": copy, "sites": arguments.sites, "peers": peers, "not_measured": missing,
                               "rows": rows}), indent=2, allow_nan=False)
            with open(arguments.json, "w") as file:
                file.write(text)

    for dim in arguments.dims:
        print(f"{device_name(device)}, copy {copy:.1f} GB/s, torch {torch.__version__}; chain of {arguments.sites} sites, "
              f"{arguments.tokens} tokens, D = {dim}, {arguments.dtype}; us a site, launched; saved: u a site, kept for backward; "
              f"diff: from hyperjit; last four: output and gradients from its own maths in fp64, over the largest value")
        print(f"{'recipe':<16} {'implementation':<26} {'forward':>9} {'backward':>9} {'both':>9} {'hyperjit is':>12} {'saved':>7} "
              f"{'output diff':>12} {'grad diff':>10}   {'output':>8} {'streams':>8} {'weights':>8} {'scales':>8}")
        for name in arguments.recipes:
            told = failed = 0
            for chain, outcomes, failures in measure_recipe(name, dim, arguments, device, dtype, peers):
                for implementation in list(outcomes)[told:]:
                    tell(chain, implementation, outcomes[implementation], outcomes["hyperjit"], arguments.runs)
                for failure in failures[failed:]:
                    tell_missing(chain, failure)
                told, failed = len(outcomes), len(failures)
                sys.stdout.flush()
                save(rows + rows_of(chain, outcomes, arguments, copy), missing + failures)
            rows += rows_of(chain, outcomes, arguments, copy)
            missing += failures
            del chain, outcomes
            free(device)
    table(rows, arguments.runs)
    for failure in missing:
        print(f"not measured: {failure['implementation']}, {failure['spec']}: {failure['reason']}")


def main():
    arguments = options()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device if arguments.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if arguments.allocator == "keep":
        # As in hyperjit bench: fresh pages would cost more than what is measured.
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    with tempfile.TemporaryDirectory(prefix="hyperjit-peers-", ignore_cleanup_errors=True) as folder:
        if arguments.caches == "fresh":
            for variable in ("HYPERJIT_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TILELANG_CACHE_DIR"):
                os.environ[variable] = os.path.join(folder, variable.lower())
        if device.type == "cuda":
            # One stream for all: what autograd keeps of launched calls must belong to the stream that graphs are captured on.
            with torch.cuda.stream(torch.cuda.Stream()):
                run(arguments, device)
        else:
            run(arguments, device)


if __name__ == "__main__":
    main()

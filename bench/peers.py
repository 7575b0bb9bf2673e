#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""hyperjit's operators against the same mathematics in PyTorch, eager and under torch.compile, in one process.

    python bench/peers.py build/release/lib/libhyperjit_torch.so [--recipes static,dynamic,frac,manifold] [--json FILE]

A chain of `--sites` sites whose branches return what they are given; times are those of one site. All implementations run
on the same tensors, and how far they are apart is printed: a faster wrong answer is no result. The JSON has the rows of
`hyperjit bench --json`.
"""
import argparse
import ctypes
import json
import math
import platform
import statistics
import sys
import time

import torch

LIBRARY = "hyperjit"


# --- the sites: parameters in the order of `hyperjit recipes NAME`, and one site in plain PyTorch -------------------------


def hyper_parameters(n, m, d, index, norm, dynamic, make):
    rows, width = n * m, d // m
    alpha = torch.zeros(rows, m + rows)
    for f in range(m):
        alpha[(index % n) * m + f, f] = 1
    alpha[:, m:] = torch.eye(rows)
    parameters = [alpha, torch.ones(rows)]
    if dynamic:
        gain = [torch.zeros(width)] if norm == "l2_unit_offset" else [torch.ones(width), torch.zeros(width)]
        parameters += gain + [torch.zeros(width, m + rows), torch.zeros(width), torch.full((1,), 0.01), torch.full((1,), 0.01)]
    return make(parameters)


def hyper_site(n, m, norm, dynamic):
    rows = n * m

    def site(x, parameters, branch):
        alpha, beta = parameters[0], parameters[1]
        x = x.unflatten(-1, (m, -1)).flatten(-3, -2) if m > 1 else x
        if dynamic:
            if norm == "l2_unit_offset":
                gamma, *rest = parameters[2:]
                normed = torch.nn.functional.normalize(x, dim=-1, eps=1e-12) * math.sqrt(x.size(-1)) * (gamma + 1)
            else:
                weight, bias, *rest = parameters[2:]
                normed = torch.nn.functional.layer_norm(x, (x.size(-1),), weight, bias, 1e-5)
            alpha_fn, beta_fn, alpha_scale, beta_scale = rest
            alpha = alpha + torch.tanh(normed @ alpha_fn) * alpha_scale
            beta = beta + torch.tanh(normed @ beta_fn) * beta_scale
        mixed = alpha.transpose(-1, -2) @ x
        u, residual = mixed[..., :m, :], mixed[..., m:, :]
        y = branch(u.flatten(-2)).unflatten(-1, (m, -1))
        written = beta.unflatten(-1, (n, m)).unsqueeze(-1) * y.unsqueeze(-3)
        out = residual + written.flatten(-3, -2)
        return out.unflatten(-2, (n, m)).flatten(-2) if m > 1 else out

    return site


def manifold_parameters(n, m, d, index, make):
    count = n + n + n * n
    return make([torch.zeros(count), *(torch.full((1,), 0.01) for _ in range(3)), torch.zeros(n * d, count)])


def manifold_site(n, iterations=20):
    def site(x, parameters, branch):
        b, alpha_pre, alpha_post, alpha_res, phi = parameters
        flat = x.flatten(-2)
        logits = (flat * torch.rsqrt(flat.square().mean(-1, keepdim=True) + 1e-20)) @ phi
        scale = torch.cat([alpha_pre.expand(n), alpha_post.expand(n), alpha_res.expand(n * n)])
        pre, post, res = (logits * scale + b).split([n, n, n * n], dim=-1)
        h = res.unflatten(-1, (n, n))
        h = torch.exp(h - h.amax(-2, keepdim=True).detach())
        for _ in range(iterations):
            h = h / h.sum(-2, keepdim=True)
            h = h / h.sum(-1, keepdim=True)
        y = branch((torch.sigmoid(pre).unsqueeze(-2) @ x).squeeze(-2))
        return h @ x + (2 * torch.sigmoid(post)).unsqueeze(-1) * y.unsqueeze(-2)

    return site


RECIPES = {
    "static": dict(n=4, m=1, site=lambda n, m: hyper_site(n, m, None, False),
                   parameters=lambda n, m, d, i, make: hyper_parameters(n, m, d, i, None, False, make)),
    "dynamic": dict(n=4, m=1, site=lambda n, m: hyper_site(n, m, "l2_unit_offset", True),
                    parameters=lambda n, m, d, i, make: hyper_parameters(n, m, d, i, "l2_unit_offset", True, make)),
    "frac": dict(n=1, m=4, site=lambda n, m: hyper_site(n, m, "layernorm", True),
                 parameters=lambda n, m, d, i, make: hyper_parameters(n, m, d, i, "layernorm", True, make)),
    "manifold": dict(n=4, m=1, site=lambda n, m: manifold_site(n), parameters=manifold_parameters),
}


def branch(u):
    return u


class Chain:
    def __init__(self, name, arguments, device, dtype):
        recipe = RECIPES[name]
        self.n, self.m, self.d = recipe["n"], recipe["m"], arguments.dim
        self.spec = f"{name}:n={self.n},m={self.m},d={self.d},dtype={arguments.dtype}"
        torch.manual_seed(1)

        def make(parameters):
            # Initial values make many coefficients zero or one; a trained layer's are neither.
            return [(p + 0.02 * torch.randn_like(p)).to(device).requires_grad_() for p in parameters]

        self.parameters = [recipe["parameters"](self.n, self.m, self.d, i, make) for i in range(arguments.sites)]
        self.site = recipe["site"](self.n, self.m)
        self.x = torch.randn(arguments.tokens, self.n, self.d, device=device, dtype=dtype).requires_grad_()
        self.cotangent = torch.randn_like(self.x)

    def leaves(self):
        return [self.x, *(p for site in self.parameters for p in site)]

    def eager(self, x, parameters):
        for site in parameters:
            x = self.site(x.float(), site, branch).to(x.dtype)
        return x

    def hyperjit(self, x, parameters):
        ops = getattr(torch.ops, LIBRARY)
        x, (u, *coefficients) = ops.begin(x, parameters[0], [], self.spec, False)
        for site in parameters[1:]:
            x, u, *coefficients = ops.boundary(x, branch(u), coefficients, site, [], f"{self.spec}|{self.spec}", False)
        return ops.after(x, branch(u), coefficients, self.spec)


class Mark:
    """A point in time: an event of the current stream on CUDA, the clock on the CPU."""

    def __init__(self, device):
        if device.type == "cuda":
            self.event = torch.cuda.Event(enable_timing=True)
            self.event.record()
        else:
            self.event, self.time = None, time.perf_counter()

    def microseconds_to(self, later):
        if self.event is None:
            return (later.time - self.time) * 1e6
        later.event.synchronize()
        return self.event.elapsed_time(later.event) * 1e3


def summary(samples):
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def timed_training(forward, backward, repeats, device):
    """Forward as in training, backward, both; two calls first, which compile and fill caches."""
    for _ in range(2):
        backward(forward())
    if device.type == "cuda":
        torch.cuda.synchronize()
    samples = {"forward": [], "backward": [], "both": []}
    for _ in range(repeats):
        begin = Mark(device)
        out = forward()
        middle = Mark(device)
        backward(out)
        end = Mark(device)
        samples["both"].append(begin.microseconds_to(end))
        samples["forward"].append(begin.microseconds_to(middle))
        samples["backward"].append(middle.microseconds_to(end))
    return {direction: summary(values) for direction, values in samples.items()}


def copy_bandwidth(device):
    a = torch.ones((1 << 30 if device.type == "cuda" else 256 << 20) // 4, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    times = []
    for _ in range(7):
        begin = Mark(device)
        b.copy_(a)
        times.append(begin.microseconds_to(Mark(device)))
    return 2 * a.numel() * 4 / (statistics.median(times) * 1e3)


def saved_bytes(function, leaves):
    """What autograd keeps between forward and backward, beyond the parameters: each piece of memory once."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = function()
    for leaf in leaves:
        kept.pop(leaf.untyped_storage().data_ptr(), None)
    del out
    return sum(kept.values())


def device_name(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor()
    with open("/proc/cpuinfo") as file:
        name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


def difference(a, b, least=1e-30):
    """Largest difference over the largest value, or over `least` where that is more."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(least)).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", help="libhyperjit_torch.so")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--against", default="eager,compile")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (all)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--allocator", default="keep", choices=["keep", "system"], help="what becomes of freed CPU memory")
    parser.add_argument("--json", default="")
    arguments = parser.parse_args()
    names = arguments.recipes.split(",")
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"unknown recipe {unknown[0]}; {', '.join(RECIPES)} have a version here")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device if arguments.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[arguments.dtype]
    torch.ops.load_library(arguments.library)
    if arguments.allocator == "keep":
        # As in hyperjit bench: fresh pages would cost more than what is measured.
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD

    copy = copy_bandwidth(device)
    rows = []
    print(f"{device_name(device)}, copy {copy:.1f} GB/s, torch {torch.__version__}; chain of {arguments.sites} sites, "
          f"{arguments.tokens} tokens, D = {arguments.dim}, {arguments.dtype}; us a site; saved: u a site, kept for backward")
    print(f"{'recipe':<10} {'implementation':<14} {'forward':>9} {'backward':>9} {'both':>9} {'hyperjit is':>12} {'saved':>7} "
          f"{'output diff':>12} {'grad diff':>10}")
    for name in names:
        chain = Chain(name, arguments, device, dtype)
        implementations = {"hyperjit": chain.hyperjit}
        if "eager" in arguments.against:
            implementations["eager"] = chain.eager
        if "compile" in arguments.against:
            torch._dynamo.reset()
            implementations["torch.compile"] = torch.compile(chain.eager, fullgraph=True)
        outcome, wanted = {}, None
        u_bytes = arguments.tokens * arguments.dim * chain.x.element_size()
        for implementation, function in implementations.items():

            def forward():
                for leaf in chain.leaves():
                    leaf.grad = None
                return function(chain.x, chain.parameters)

            timings = timed_training(forward, lambda out: out.backward(chain.cotangent), arguments.repeats, device)
            saved = saved_bytes(forward, [p for site in chain.parameters for p in site]) / u_bytes / arguments.sites
            out = forward()
            out.backward(chain.cotangent)
            results = [out.detach(), *(leaf.grad for leaf in chain.leaves())]
            wanted = wanted or results
            # A scale's gradient is a sum over all tokens that may cancel to almost nothing: rounding is all that is left of
            # it, in every implementation.
            least = 1e-4 * max(w.abs().max().item() for w in wanted[1:])
            apart = [difference(results[0], wanted[0]), *(difference(a, b, least) for a, b in zip(results[1:], wanted[1:]))]
            outcome[implementation] = timings, saved, apart[0], max(apart[1:])
        own, eager = outcome["hyperjit"][0], outcome.get("eager", [None])[0]
        for implementation, (timings, saved, output, gradient) in outcome.items():
            micros = {direction: timings[direction]["median"] / arguments.sites for direction in timings}
            print(f"{name:<10} {implementation:<14} {micros['forward']:>9.0f} {micros['backward']:>9.0f} {micros['both']:>9.0f} "
                  f"{timings['both']['median'] / own['both']['median']:>11.2f}x {saved:>7.2f} {output:>12.1e} {gradient:>10.1e}")
            for direction, timing in timings.items():
                rows.append({"implementation": implementation, "spec": chain.spec, "tokens": arguments.tokens,
                             "direction": direction, "mode": "chain",
                             "us": {key: value / arguments.sites for key, value in timing.items()},
                             "speedup": eager and eager[direction]["median"] / timing["median"], "saved_u": saved,
                             "output_difference": output, "gradient_difference": gradient})
            sys.stdout.flush()
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"schema": "hyperjit.bench/1", "device": device_name(device), "torch": torch.__version__,
                       "copy_gbps": copy, "sites": arguments.sites, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""How bench/peers.py measures a chain: launched and replayed times, first call, memory, repeatability, errors."""
import gc
import platform
import statistics
import time

import torch


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


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def summary(samples):
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def timed_training(forward, backward, repeats, device):
    """Forward as in training, backward, both; two calls first, which compile and fill caches."""
    for _ in range(2):
        backward(forward())
    synchronize(device)
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


class Work:
    """An implementation with streams and a cotangent."""

    def __init__(self, implementation, x, cotangent):
        self.implementation, self.x, self.cotangent = implementation, x, cotangent

    def leaves(self):
        return [self.x, *(p for own in self.implementation.parameters for p in own)]

    def clear(self):
        for leaf in self.leaves():
            leaf.grad = None

    def forward(self):
        self.clear()
        return self.implementation.function(self.x, self.implementation.parameters)

    def backward(self, out):
        out.backward(self.cotangent)

    def tensors(self, out):
        """Output and gradients, each parameter's in its own form."""
        return [out.detach(), *(leaf.grad for leaf in self.leaves())]

    def results(self):
        """Of one forward and backward, in the recipe's form."""
        out = self.forward()
        self.backward(out)
        return self.common(self.tensors(out))

    def common(self, tensors):
        """The same with the parameters' gradients in the recipe's form."""
        out, streams, *rest = tensors
        gradients = []
        for own in self.implementation.parameters:
            gradients += self.implementation.common(rest[:len(own)])
            rest = rest[len(own):]
        return [out, streams, *gradients]


# --- replays --------------------------------------------------------------------------------------------------------------


class Graphs:
    """Forward and backward as two CUDA graphs, captured on the current stream: nodes of autograd that live on from earlier calls
    belong to it, too."""

    def __init__(self, work):
        work.clear()
        gc.collect()
        stream = torch.cuda.current_stream()
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward, stream=stream):
            out = work.forward()
        with torch.cuda.graph(self.backward, pool=self.forward.pool(), stream=stream):
            work.backward(out)
        self.tensors = work.tensors(out)
        self.common = work.common

    def results(self):
        """Of one replay; what it does not write is not a number."""
        for tensor in self.tensors:
            tensor.fill_(float("nan"))
        self.forward.replay()
        self.backward.replay()
        return self.common(self.tensors)


def sets_wanted(work, sites, device):
    """As many sets of streams as take twice the last cache; the streams of all sites are kept for backward, so a chain of large
    ones flushes the cache by itself."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    chain = work.x.numel() * work.x.element_size() * sites
    return min(64, max(1, -(-2 * cache // chain)))


def replayed(implementation, first, sites, repeats, device):
    """Times of replays in turn over enough sets, and the results of one replay on the streams of `first`."""
    sets = [Graphs(first)]
    for _ in range(sets_wanted(first, sites, device) - 1):
        other = torch.randn_like(first.x).requires_grad_()
        sets.append(Graphs(Work(implementation, other, torch.randn_like(other))))
    results = [tensor.clone() for tensor in sets[0].results()]

    def both():
        marks = [Mark(device)]
        for direction in ("forward", "backward"):
            for graphs in sets:
                getattr(graphs, direction).replay()
            marks.append(Mark(device))
        return marks

    torch.cuda.synchronize()
    # No wait between repeats: the device has work while the host sends more. The first two fill caches.
    marks = [both() for _ in range(2 + repeats)][2:]
    samples = {"forward": [b.microseconds_to(m) / len(sets) for b, m, _ in marks],
               "backward": [m.microseconds_to(e) / len(sets) for _, m, e in marks],
               "both": [b.microseconds_to(e) / len(sets) for b, _, e in marks]}
    return {direction: summary(values) for direction, values in samples.items()}, results


# --- one number each ------------------------------------------------------------------------------------------------------


def first_call(work, device):
    """Seconds of the first forward and backward, and what they gave."""
    synchronize(device)
    begin = time.perf_counter()
    results = work.results()
    synchronize(device)
    return time.perf_counter() - begin, results


def peak_memory(work, device):
    """Bytes of forward and backward above the streams, parameters and cotangent; none on the CPU, where nobody counts."""
    if device.type != "cuda":
        return None
    work.clear()
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work.results()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def varying(work, runs):
    """Indices of those results that are not the same bits in all runs."""
    expected, differ = work.results(), set()
    for _ in range(runs - 1):
        differ |= {i for i, (a, b) in enumerate(zip(work.results(), expected)) if not torch.equal(a, b)}
    return sorted(differ)


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


def copy_bandwidth(device):
    """GB/s of the faster of PyTorch's copy (on a GPU the driver's) and a kernel that reads each number once and writes it."""
    a = torch.ones((1 << 30 if device.type == "cuda" else 256 << 20) // 4, device=device)
    b = torch.empty_like(a)

    def median(work):
        work()
        times = []
        for _ in range(7):
            begin = Mark(device)
            work()
            times.append(begin.microseconds_to(Mark(device)))
        return statistics.median(times)

    return 2 * a.numel() * 4 / (min(median(lambda: b.copy_(a)), median(lambda: torch.mul(a, 1.0, out=b))) * 1e3)


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


def differences(results, wanted):
    """Of output, streams' gradient and each parameter's gradient. A scale's gradient is a sum over all tokens that may cancel to
    almost nothing: rounding is all that is left of it, in every implementation."""
    least = 1e-4 * max(w.abs().max().item() for w in wanted[1:])
    return [difference(results[0], wanted[0]), *(difference(a, b, least) for a, b in zip(results[1:], wanted[1:]))]

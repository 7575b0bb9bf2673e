# FSDP2: layers whose parameters are shards but for the moment they run, on two ranks over gloo, against the same model whole.
# SPDX-License-Identifier: Apache-2.0
#
# What makes it work: a fused boundary ends a site without that site's parameters, which are shards again by then; what it needs of
# them crossed as coefficients.
import gc
import tempfile
import unittest

import torch
import torch.distributed as dist
import torch.distributed.nn  # before a group is made, as in examples/data_parallel.py
import torch.multiprocessing as processes
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from sites import hyperjit, parameters

N, D, TOKENS, RANKS, STEPS = 3, 6, 12, 2, 3  # tokens of one rank


class Layer(torch.nn.Module):
    """Ends the site before it, if there is one, and begins its own, in one operator; then its branch."""

    def __init__(self, recipe, before, dtypes):
        super().__init__()
        self.spec, self.before = f"{recipe}:n={N},d={D}{dtypes}", before and f"{before}:n={N},d={D}{dtypes}"
        self.control = torch.nn.ParameterList(parameters(recipe, N, 1, D))
        self.branch = torch.nn.Linear(D, D)

    def forward(self, x, y=None, coefficients=()):
        if self.before is None:
            x, (u, *coefficients) = hyperjit.begin(x, list(self.control), None, self.spec, False)
        else:
            x, u, *coefficients = hyperjit.boundary(x, y, coefficients, list(self.control), None, f"{self.before}|{self.spec}", False)
        return x, torch.tanh(self.branch(u)), coefficients


class Model(torch.nn.Module):
    def __init__(self, dtypes="", recipes=("dynamic", "manifold", "static", "manifold")):
        super().__init__()
        self.embed = torch.nn.Linear(D, D)
        self.layers = torch.nn.ModuleList(Layer(recipe, before, dtypes) for recipe, before in zip(recipes, (None, *recipes)))

    def forward(self, h):
        x = hyperjit.expand(self.embed(h), None, N)
        y, coefficients = None, ()
        for layer in self.layers:
            x, y, coefficients = layer(x, y, coefficients)
        return hyperjit.reduce(hyperjit.after(x, y, coefficients, self.layers[-1].spec), None, "mean")


def data():
    generator = torch.Generator().manual_seed(7)
    return torch.randn(RANKS, TOKENS, D, generator=generator)


def train(model, h, steps=STEPS):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(h) - torch.tanh(h.roll(1, -1))).square().mean().backward()
        optimizer.step()
    return [p.full_tensor() if isinstance(p, DTensor) else p for p in (q.detach() for q in model.parameters())]


def made(dtypes=""):
    torch.manual_seed(3)
    return Model(dtypes)


def rank(index, folder, reshard, narrow):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=RANKS)
    # A policy's dtype is that of all parameters, those of the connections too: the spec says so. It is not that of
    # coefficients, which go from layer to layer in fp32: layers take their inputs as they are.
    model = made(",dtype=bf16,weight=bf16" if narrow else "")
    dtype = torch.bfloat16 if narrow else None
    for layer in model.layers:
        fully_shard(layer, reshard_after_forward=reshard, mp_policy=MixedPrecisionPolicy(param_dtype=dtype, cast_forward_inputs=False))
    fully_shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=dtype))
    shards = [p for p in model.parameters() if isinstance(p, DTensor)]
    assert len(shards) == len(list(model.parameters())) and any(p.to_local().numel() < p.numel() for p in shards)
    sharded = train(model, data()[index])
    whole = train(made(), data().flatten(0, 1))  # the mean over all tokens is that of the ranks' means
    start = [p.detach() for p in made().parameters()]
    moved = [(expected - first).abs().max().item() for expected, first in zip(whole, start)]
    # Some hardly move; one whose gradient is lost does not move at all.
    for name, got, expected, way in zip(dict(model.named_parameters()), sharded, whole, moved):
        off = (got.float() - expected).abs().max().item()
        assert off <= (1e-3 if narrow else 1e-6) and (way < 1e-4 or off < 0.2 * way), f"{name}: off by {off}, moved by {way}"
    assert sum(way >= 1e-4 for way in moved) > len(moved) / 2, moved
    del model, sharded, shards
    gc.collect()
    dist.destroy_process_group()


class Fsdp(unittest.TestCase):
    def train(self, reshard, narrow=False):
        with tempfile.TemporaryDirectory() as folder:
            processes.start_processes(rank, args=(folder, reshard, narrow), nprocs=RANKS, start_method="fork")

    def test_parameters_are_shards_again_after_forward(self):
        self.train(True)

    def test_parameters_stay_whole_until_backward(self):
        self.train(False)

    def test_in_bf16(self):
        self.train(True, narrow=True)


if __name__ == "__main__":
    unittest.main()

# Data-parallel training over gloo: every rank asks for the same kernels at the same moment, cold, and each kernel is compiled
# once. There is no agreement between ranks about the cache; the first one to hold a kernel's lock compiles, the others load.
#   python examples/data_parallel.py build/release/lib/libhyperjit_torch.so [STEPS [RANKS]]
# SPDX-License-Identifier: Apache-2.0
import gc
import os
import pathlib
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.nn  # before a group is made: its default arguments keep the one there is for as long as the process lives
import torch.multiprocessing as processes

library = sys.argv[1]
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 60
ranks = int(sys.argv[3]) if len(sys.argv) > 3 else 4
n, d, tokens = 4, 32, 128  # tokens of one rank
spec = f"static:n={n},d={d},dtype=fp32"


class Model(torch.nn.Module):
    def __init__(self, sites=3):
        super().__init__()
        self.alpha = torch.nn.ParameterList()
        self.beta = torch.nn.ParameterList(torch.nn.Parameter(torch.ones(n)) for _ in range(sites))
        for index in range(sites):
            alpha = torch.cat([torch.zeros(n, 1), torch.eye(n)], 1)
            alpha[index % n, 0] = 1
            self.alpha.append(torch.nn.Parameter(alpha))
        self.branches = torch.nn.ModuleList(torch.nn.Linear(d, d) for _ in range(sites))

    def forward(self, h):
        hyper = torch.ops.hyperjit
        x = hyper.expand(h, None, n)
        x, (u, *coefficients) = hyper.begin(x, [self.alpha[0], self.beta[0]], [], spec, False)
        y = torch.tanh(self.branches[0](u))
        for alpha, beta, branch in list(zip(self.alpha, self.beta, self.branches))[1:]:
            x, u, *coefficients = hyper.boundary(x, y, coefficients, [alpha, beta], [], f"{spec}|{spec}", False)
            y = torch.tanh(branch(u))
        return hyper.reduce(hyper.after(x, y, coefficients, spec), None, "mean")


def train(index):
    torch.manual_seed(1)
    model = torch.nn.parallel.DistributedDataParallel(Model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    h = torch.randn(ranks, tokens, d)[index]
    target = torch.tanh(h.roll(3, -1))
    dist.barrier()  # all cold, all at once
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.mse_loss(model(h), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # Every rank holds the same model.
    for p in model.parameters():
        mine, first = p.detach().clone(), p.detach().clone()
        dist.broadcast(first, 0)
        assert torch.equal(mine, first)
    assert losses[-1] < 0.8 * losses[0], losses
    return losses


def rank(index, folder):
    os.environ["LOCAL_WORLD_SIZE"] = str(ranks)  # as torchrun does: the ranks share the processors
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=ranks)
    torch.ops.load_library(library)
    losses = train(index)
    if index == 0:
        print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} in {steps} steps on {ranks} ranks")
    # A thread of gloo that still lets go of a tensor while Python ends aborts the process. The group's end joins those threads,
    # and comes with the last of what holds it: the model, which is part of reference cycles, must be gone by then.
    gc.collect()
    dist.destroy_process_group()
    names = [task.joinpath("comm").read_text() for task in pathlib.Path("/proc/self/task").iterdir()]
    assert not any("gloo" in name for name in names), names


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HYPERJIT_CACHE_DIR"] = f"{folder}/cache"
        os.environ.pop("HYPERJIT_CACHE_PATH", None)
        os.environ["HYPERJIT_LOG"] = "info"
        log = open(f"{folder}/log", "w+")
        keep = os.dup(2)
        os.dup2(log.fileno(), 2)  # what the ranks say goes to the log
        try:
            processes.start_processes(rank, args=(folder,), nprocs=ranks, start_method="spawn")
        except Exception:
            os.write(keep, open(f"{folder}/log", "rb").read()[-4000:])
            raise
        finally:
            os.dup2(keep, 2)
        compiled = [line.split(" compiled ")[1].split(" in ")[0] for line in open(f"{folder}/log") if " compiled " in line and " ms, " in line]
        kernels = len(list(pathlib.Path(folder).glob("cache/v1/*/*.hjk")))
        print(f"{len(compiled)} compiles of {len(set(compiled))} kernels by {ranks} ranks; {kernels} entries on disk")
        assert kernels > 0 and len(compiled) == len(set(compiled)) == kernels

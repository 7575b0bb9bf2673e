# The operators from Python: load one library, and torch.ops.hyperjit.* work, with gradients and torch.compile.
#   python examples/operators.py build/release/lib/libhyperjit_torch.so [STEPS]
# SPDX-License-Identifier: Apache-2.0
import sys

import torch

torch.ops.load_library(sys.argv[1])
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200
torch.manual_seed(1)

n, d, tokens = 4, 32, 128
# Names, shapes and order of a recipe's parameters: `hyperjit recipes static`, or `hyperjit show static:n=4,d=32`.
spec = f"static:n={n},d={d},dtype=fp32"


def site(index):
    alpha = torch.zeros(n, 1 + n)
    alpha[index % n, 0] = 1  # what the branch reads
    alpha[:, 1:] = torch.eye(n)  # how the streams go on
    return [torch.nn.Parameter(alpha), torch.nn.Parameter(torch.ones(n))]


sites = [site(i) for i in range(3)]
branches = torch.nn.ModuleList(torch.nn.Linear(d, d) for _ in sites)


def model(h):
    hyper = torch.ops.hyperjit
    x = hyper.expand(h, None, n)
    x, (u, *coefficients) = hyper.begin(x, sites[0], [], spec, False)
    y = torch.tanh(branches[0](u))
    for parameters, branch in zip(sites[1:], branches[1:]):
        # The end of one site and the beginning of the next in one kernel.
        x, u, *coefficients = hyper.boundary(x, y, coefficients, parameters, [], f"{spec}|{spec}", False)
        y = torch.tanh(branch(u))
    return hyper.reduce(hyper.after(x, y, coefficients, spec), None, "mean")


h = torch.randn(tokens, d)
target = torch.tanh(h.roll(3, -1))
optimizer = torch.optim.AdamW([*branches.parameters(), *(p for s in sites for p in s)], lr=1e-2)
losses = []
for _ in range(steps):
    loss = torch.nn.functional.mse_loss(model(h), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} in {steps} steps")
assert all(p.grad is not None and torch.isfinite(p.grad).all() for s in sites for p in s)
assert losses[-1] < 0.8 * losses[0]

# One graph for torch.compile: the operators have meta kernels. backend="inductor" fuses what is around them.
compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
torch.testing.assert_close(compiled(h), model(h))
print("compiled: the same")

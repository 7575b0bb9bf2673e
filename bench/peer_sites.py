# SPDX-License-Identifier: Apache-2.0
"""What bench/peers.py measures: hyperjit's operators, their formulas in plain PyTorch, and public packages where installed.

Every implementation gets the same streams, parameters and cotangent. Where a package wants parameters in another form or
dtype it has copies of its own; its gradients are put back into the recipe's form before they are compared.
"""
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import math
from typing import Callable

import torch

LIBRARY = "hyperjit"


class Unsupported(Exception):
    """What a package says it cannot do: another thing than a failure."""


def branch(u):
    return u


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


def l2_unit_offset(x, gamma):
    return torch.nn.functional.normalize(x, dim=-1, eps=1e-12) * math.sqrt(x.size(-1)) * (gamma + 1)


def hyper_site(n, m, norm, dynamic):
    rows = n * m

    def site(x, parameters, branch):
        alpha, beta = parameters[0], parameters[1]
        x = x.unflatten(-1, (m, -1)).flatten(-3, -2) if m > 1 else x
        if dynamic:
            if norm == "l2_unit_offset":
                gamma, *rest = parameters[2:]
                normed = l2_unit_offset(x, gamma)
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


def sinkhorn(h, first=-2, iterations=20):
    """Divides by sums over `first`, then over the other of the last two axes."""
    h = torch.exp(h - h.amax(first, keepdim=True).detach())
    for _ in range(iterations):
        h = h / h.sum(first, keepdim=True)
        h = h / h.sum(-3 - first, keepdim=True)
    return h


def manifold_parameters(n, m, d, index, make):
    count = n + n + n * n
    return make([torch.zeros(count), *(torch.full((1,), 0.01) for _ in range(3)), torch.zeros(n * d, count)])


def manifold_site(n, first=-2):
    def site(x, parameters, branch):
        b, alpha_pre, alpha_post, alpha_res, phi = parameters
        flat = x.flatten(-2)
        logits = (flat * torch.rsqrt(flat.square().mean(-1, keepdim=True) + 1e-20)) @ phi
        scale = torch.cat([alpha_pre.expand(n), alpha_post.expand(n), alpha_res.expand(n * n)])
        pre, post, res = (logits * scale + b).split([n, n, n * n], dim=-1)
        h = sinkhorn(res.unflatten(-1, (n, n)), first)
        y = branch((torch.sigmoid(pre).unsqueeze(-2) @ x).squeeze(-2))
        return h @ x + (2 * torch.sigmoid(post)).unsqueeze(-1) * y.unsqueeze(-2)

    return site


def streams_parameters(n, m, d, index, make):
    alpha = torch.full((n, 1 + n), -1.0)
    alpha[index % n, 0] = 1
    alpha[:, 1:] = 2 * torch.eye(n)
    return make([alpha, torch.zeros(n, 1, 1), *(torch.full((1,), 0.01) for _ in range(3)), torch.zeros(d),
                 torch.zeros(1, d, 1 + n), torch.zeros(d, 1)])


def streams_site(n):
    def site(x, parameters, branch):
        alpha, beta, pre_scale, residual_scale, post_scale, gamma, alpha_fn, beta_fn = parameters
        normed = l2_unit_offset(x, gamma)
        logits = (normed @ alpha_fn[0]) * torch.cat([pre_scale, residual_scale.expand(n)]) + alpha
        pre, h = torch.sigmoid(logits[..., :1]), sinkhorn(logits[..., 1:])  # h: [in, out]
        post = 2 * torch.sigmoid((normed @ beta_fn).squeeze(-1) * post_scale + beta.flatten())
        y = branch((pre.transpose(-1, -2) @ x).squeeze(-2))
        return h.transpose(-1, -2) @ x + post.unsqueeze(-1) * y.unsqueeze(-2)

    return site


HYPER = ["static_alpha", "static_beta"]
DYNAMIC = ["dynamic_alpha_fn", "dynamic_beta_fn", "dynamic_alpha_scale", "dynamic_beta_scale"]
RECIPES = {
    "static": dict(n=4, m=1, names=HYPER, site=lambda n, m: hyper_site(n, m, None, False),
                   parameters=lambda n, m, d, i, make: hyper_parameters(n, m, d, i, None, False, make)),
    "dynamic": dict(n=4, m=1, names=[*HYPER, "norm.gamma", *DYNAMIC], site=lambda n, m: hyper_site(n, m, "l2_unit_offset", True),
                    parameters=lambda n, m, d, i, make: hyper_parameters(n, m, d, i, "l2_unit_offset", True, make)),
    "frac": dict(n=1, m=4, names=[*HYPER, "norm.weight", "norm.bias", *DYNAMIC],
                 site=lambda n, m: hyper_site(n, m, "layernorm", True),
                 parameters=lambda n, m, d, i, make: hyper_parameters(n, m, d, i, "layernorm", True, make)),
    "manifold": dict(n=4, m=1, names=["b", "alpha_pre", "alpha_post", "alpha_res", "phi"], site=lambda n, m: manifold_site(n),
                     parameters=manifold_parameters),
    "manifold-streams": dict(n=4, m=1, names=[*HYPER, "pre_branch_scale", "residual_scale", "h_post_scale", "norm.gamma",
                                              "dynamic_alpha_fn", "dynamic_beta_fn"],
                             site=lambda n, m: streams_site(n), parameters=streams_parameters),
}


class Chain:
    def __init__(self, name, dim, arguments, device, dtype):
        recipe = RECIPES[name]
        self.recipe, self.n, self.m, self.d = name, recipe["n"], recipe["m"], dim
        self.spec = f"{name}:n={self.n},m={self.m},d={self.d},dtype={arguments.dtype}"
        torch.manual_seed(1)

        def make(parameters):
            # Initial values make many coefficients zero or one; a trained layer's are neither.
            return [(p + 0.02 * torch.randn_like(p)).to(device).requires_grad_() for p in parameters]

        self.parameters = [recipe["parameters"](self.n, self.m, self.d, i, make) for i in range(arguments.sites)]
        self.site = recipe["site"](self.n, self.m)
        self.compiled = "compile" in arguments.against
        self.x = torch.randn(arguments.tokens, self.n, self.d, device=device, dtype=dtype).requires_grad_()
        self.cotangent = torch.randn_like(self.x)

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


@dataclasses.dataclass
class Implementation:
    name: str
    function: Callable  # of the streams and `parameters`
    parameters: list  # its own leaves, a list a site
    common: Callable = lambda tensors: tensors  # a site's own tensors, or their gradients, in the recipe's form
    maths: str = ""  # where it differs from the recipe, in words
    site: Callable = None  # its own maths in plain PyTorch, where that is not the recipe's


def reference(site, x, parameters, cotangent, tokens=1024):
    """[output, gradient of streams, gradients of parameters ...] in fp64, a piece of the tokens at a time: all that autograd
    keeps of wide rows would not fit."""
    leaves = [[p.detach().double().requires_grad_() for p in own] for own in parameters]
    outputs, gradients = [], []
    for piece, back in zip(x.detach().split(tokens), cotangent.split(tokens)):
        piece = piece.double().requires_grad_()
        out = piece
        for own in leaves:
            out = site(out, own, branch)
        out.backward(back.double())
        outputs.append(out.detach())
        gradients.append(piece.grad)
    return [torch.cat(outputs), torch.cat(gradients), *(p.grad for own in leaves for p in own)]


# --- installed packages: calls of what they export, and nothing else -----------------------------------------------------


def leaf(tensor):
    return tensor.detach().clone(memory_format=torch.contiguous_format).requires_grad_()


def of_modules(chain, make, names, dtype=None):
    """Modules whose parameters `names`, in the recipe's order, hold the chain's values."""
    modules, leaves = [], []
    for index, values in enumerate(chain.parameters):
        module = make(index).to(chain.x.device, dtype)
        own = [module.get_parameter(name) for name in names]
        with torch.no_grad():
            for parameter, value in zip(own, values):
                parameter.copy_(value.reshape(parameter.shape))
        modules.append(module)
        leaves.append(own)
    shapes = [value.shape for value in chain.parameters[0]]
    return modules, leaves, lambda tensors: [t.reshape(shape) for t, shape in zip(tensors, shapes)]


def run_modules(modules, x):
    for module in modules:
        u, add_residual = module(x)
        x = add_residual(branch(u))
    return x


def hyper_connections(chain):
    from hyper_connections import HyperConnections
    modules, leaves, common = of_modules(
        chain, lambda i: HyperConnections(chain.n, dim=chain.d, layer_index=i), RECIPES["dynamic"]["names"], chain.x.dtype)

    def run(x, parameters):
        # A row is stream s of token t, t outermost: the memory of (T, n, D) as it is.
        return run_modules(modules, x.reshape(-1, chain.d)).view_as(x)

    return Implementation(
        "hyper-connections", run, leaves, common,
        maths="the maths of `dynamic`; it never casts, so parameters and coefficients have the streams' dtype")


def manifold_hyper_connections(chain):
    from hyper_connections.mHCv2 import ManifoldConstrainedHyperConnections
    modules, leaves, common = of_modules(
        chain, lambda i: ManifoldConstrainedHyperConnections(chain.n, dim=chain.d, layer_index=i),
        RECIPES["manifold-streams"]["names"])
    return Implementation(
        "hyper-connections", lambda x, parameters: run_modules(modules, x), leaves, common,
        maths="its mHC v2, the maths of `manifold-streams`; u, carried streams and beta are each rounded to the streams' dtype")


def compiled_too(build):
    """Modules hold their parameters, so the compiled twin has modules of its own."""
    def both(chain):
        made = [build(chain) for _ in range(1 + chain.compiled)]
        for twin in made[1:]:
            twin.name += " compiled"
            twin.function = torch.compile(twin.function, fullgraph=True)
        return made

    return both


def liger(chain):
    from liger_kernel.transformers.functional import liger_mhc_coeffs, liger_mhc_post_res, liger_mhc_pre
    dtype = chain.x.dtype
    if chain.x.device.type != "cuda":
        raise Unsupported("its kernels are Triton: CUDA only")
    if chain.n & (chain.n - 1):
        raise Unsupported("its number of streams is a power of two")

    def own(values):
        b, pre, post, res, phi = values
        return [leaf(b), *(leaf(scale.reshape(())) for scale in (pre, post, res)), leaf(phi.to(dtype))]

    def run(x, parameters):
        for b, alpha_pre, alpha_post, alpha_res, phi in parameters:
            pre, post, res = liger_mhc_coeffs(x, phi, b, alpha_pre, alpha_post, alpha_res, allow_fp32=dtype == torch.float32,
                                              tmax=20, rms_eps=1e-20, pre_eps=0.0, sinkhorn_eps=0.0, post_mult=2.0)
            x = liger_mhc_post_res(x, branch(liger_mhc_pre(x, pre)), post, res)
        return x

    def common(tensors):
        return [tensors[0], *(t.reshape(1) for t in tensors[1:4]), tensors[4]]

    return [Implementation(
        "liger-kernel", run, [own(values) for values in chain.parameters], common, site=manifold_site(chain.n, -1),
        maths="Sinkhorn's steps are rows first and columns last (`manifold:first=row`); phi has the streams' dtype, which its "
              "tensor cores want; its eps are set to the recipe's; phi's gradient is summed by atomics")]


def tile_kernels(chain):
    from tile_kernels.modeling.mhc import mhc_pre
    from tile_kernels.modeling.mhc.ops import mhc_post
    n = chain.n
    if chain.x.device.type != "cuda":
        raise Unsupported("its kernels are TileLang for CUDA only")
    if chain.x.dtype != torch.bfloat16:
        raise Unsupported("its streams are bf16")
    if n != 4 or n * chain.d % 256:
        raise Unsupported("it wants four streams and n D a multiple of 256")
    # comb is [in, out], H is [out, in].
    order = [*range(2 * n), *(2 * n + k * n + j for j in range(n) for k in range(n))]

    def own(values):
        b, pre, post, res, phi = (value.detach() for value in values)
        return [leaf(phi[:, order].t()), leaf(torch.cat([pre, post, res])), leaf(b[order])]

    def run(x, parameters):
        x = x.unsqueeze(0)
        for fn, scale, base in parameters:
            u, mixes = mhc_pre(x, fn, scale, base, norm_eps=1e-20, mhc_mult=n, post_mult_value=2.0, pre_eps=0.0,
                               sinkhorn_eps=0.0, sinkhorn_repeat=20)
            x = mhc_post(branch(u), x, *mixes)
        return x.squeeze(0)

    def common(tensors):
        fn, scale, base = tensors
        back = sorted(range(len(order)), key=order.__getitem__)
        return [base[back], *scale.split(1), fn.t()[:, back]]

    return [Implementation(
        "tile-kernels", run, [own(values) for values in chain.parameters], common,
        maths="the maths of `manifold`: fn = phi^T, comb = H^T, post_mult 2, 20 steps, its eps set to the recipe's; fn and the "
              "logits' gradient are rounded to tf32")]


PEERS = {
    "hyper-connections": dict(module="hyper_connections",
                              recipes={"dynamic": compiled_too(hyper_connections),
                                       "manifold-streams": compiled_too(manifold_hyper_connections)}),
    "liger-kernel": dict(module="liger_kernel", recipes={"manifold": liger}),
    # 1.0.0 asks for tilelang 0.1.9 or later and does not import with 0.1.15.
    "tile-kernels": dict(module="tile_kernels", install="tile-kernels tilelang==0.1.9 apache-tvm-ffi==0.1.10",
                         recipes={"manifold": tile_kernels}),
}


def find_peer(name):
    """Whether it is installed, absent or failed, and why; imports it, so that no first call has to."""
    peer = PEERS[name]
    found = dict(name=name, state="absent", version=None, reason=f"pip install {peer.get('install', name)}",
                 recipes=list(peer["recipes"]))
    if importlib.util.find_spec(peer["module"]) is None:
        return found
    try:
        found["version"] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        importlib.import_module(peer["module"])
    except Exception as error:  # a package may fail in any way while it is imported
        return {**found, "state": "failed", "reason": why(error)}
    return {**found, "state": "installed", "reason": None}


def why(error):
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:400]

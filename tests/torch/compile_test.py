# torch.compile(fullgraph=True) and torch.export of a chain of sites: one graph, forward and backward, no recompile a token count.
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
import tempfile
import unittest

import torch
import torch._dynamo.testing

from sites import LIBRARY, crossing, hyperjit, parameters


class Chain(torch.nn.Module):
    """Two different sites around two branches, with the boundary between them fused."""

    def __init__(self, n=3, D=6, begins=True, none=[]):
        super().__init__()
        self.begins, self.none = begins, none  # no carries: [] or None
        self.sites = [f"dynamic:n={n},d={D}", f"manifold:n={n},d={D}"]
        self.first = torch.nn.ParameterList(parameters("dynamic", n, 1, D))
        self.second = torch.nn.ParameterList(parameters("manifold", n, 1, D))
        self.branches = torch.nn.ModuleList([torch.nn.Linear(D, D), torch.nn.Linear(D, D)])

    def forward(self, h):
        x = hyperjit.expand(h, None, 3)
        if self.begins:
            x, (u, *coefficients) = hyperjit.begin(x, list(self.first), self.none, self.sites[0], False)
        else:
            u, *coefficients = hyperjit.before(x, list(self.first), self.none, self.sites[0], False)
        y = torch.tanh(self.branches[0](u))
        x, u, *coefficients = hyperjit.boundary(x, y, coefficients, list(self.second), self.none, "|".join(self.sites), False)
        y = torch.tanh(self.branches[1](u))
        return hyperjit.reduce(hyperjit.after(x, y, coefficients, self.sites[1]), None, "sum")


def gradients(module, function, h):
    module.zero_grad()
    h = h.detach().clone().requires_grad_()
    out = function(h)
    out.square().sum().backward()
    return [out.detach(), h.grad] + [parameter.grad.clone() for parameter in module.parameters()]


class Compile(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        torch._dynamo.reset()
        self.chain = Chain()

    def check(self, backend):
        counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
        compiled = torch.compile(self.chain, fullgraph=True, dynamic=True, backend=counter)
        for tokens in (5, 7, 70, 200):
            h = torch.randn(tokens, 6)
            for eager, traced in zip(gradients(self.chain, self.chain, h), gradients(self.chain, compiled, h)):
                torch.testing.assert_close(traced, eager, rtol=1e-5, atol=1e-5)
        self.assertEqual(counter.frame_count, 1, "a token count made another graph")

    def test_aot_eager(self):
        self.check("aot_eager")

    def test_before_and_begin_are_one_function(self):
        plain = Chain(begins=False)
        plain.load_state_dict(self.chain.state_dict())
        h = torch.randn(9, 6)
        for begun, expected in zip(gradients(self.chain, self.chain, h), gradients(plain, plain, h)):
            torch.testing.assert_close(begun, expected, rtol=1e-6, atol=1e-6)

    def test_inductor(self):
        self.check("inductor")

    def test_export(self):
        tokens = torch.export.Dim("tokens", min=2, max=4096)
        program = torch.export.export(self.chain.eval(), (torch.randn(9, 6),), dynamic_shapes=({0: tokens},), strict=False)
        h = torch.randn(33, 6)
        torch.testing.assert_close(program.module()(h), self.chain(h))
        def operators(program):
            return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        self.assertLessEqual({"hyperjit.begin.default", "hyperjit.boundary.default", "hyperjit.after.default"}, operators(program))
        core = program.run_decompositions()  # what a back end sees
        self.assertIn("hyperjit.before.default", operators(core))
        self.assertNotIn("hyperjit.begin.default", operators(core))
        torch.testing.assert_close(core.module()(h), self.chain(h))

    def test_carries_may_be_none(self):
        x, weights, site = torch.randn(5, 3, 6), parameters("dynamic", 3, 1, 6), "dynamic:n=3,d=6"
        absent, empty = (hyperjit.before(x, weights, carries, site, False) for carries in (None, []))
        torch.testing.assert_close(absent, empty, rtol=0, atol=0)

    def test_aot_inductor(self):
        """A package that a fresh process runs without this module, for any token count."""
        chain, h = Chain(none=None).eval(), torch.randn(33, 6)
        tokens = torch.export.Dim("tokens", min=2, max=4096)
        with torch.no_grad():
            program = torch.export.export(chain, (torch.randn(9, 6),), dynamic_shapes=({0: tokens},), strict=False)
            expected = chain(h)
        with tempfile.TemporaryDirectory() as folder:
            package = torch._inductor.aoti_compile_and_package(program, package_path=os.path.join(folder, "chain.pt2"))
            torch.save([h, expected], os.path.join(folder, "data.pt"))
            for jit in "on", "off":  # from the cache that the first fills
                subprocess.run([sys.executable, "-c", f"""
import torch
torch.ops.load_library({LIBRARY!r})
h, expected = torch.load({os.path.join(folder, "data.pt")!r})
torch.testing.assert_close(torch._inductor.aoti_load_package({package!r})(h), expected)
"""], check=True, env=dict(os.environ, HYPERJIT_CACHE_DIR=os.path.join(folder, "cache"), HYPERJIT_CACHE="rw", HYPERJIT_JIT=jit))

    def test_autocast(self):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self.chain(torch.randn(5, 6))
        self.assertEqual(out.dtype, torch.float32)
        out.sum().backward()

    def test_double_backward_is_refused(self):
        h = torch.randn(5, 6, requires_grad=True)
        (gradient,) = torch.autograd.grad(self.chain(h).square().sum(), h, create_graph=True)
        with self.assertRaisesRegex(RuntimeError, "hyperjit::"):
            gradient.square().sum().backward()

    def test_activation_checkpoint(self):
        from torch.utils.checkpoint import checkpoint

        h = torch.randn(70, 6)
        plain = gradients(self.chain, self.chain, h)
        recomputed = gradients(self.chain, lambda x: checkpoint(self.chain, x, use_reentrant=False), h)
        for a, b in zip(plain, recomputed):
            self.assertTrue(torch.equal(a, b))

    def test_saved_tensor_hooks_see_what_is_kept(self):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
            self.chain(torch.randn(5, 6, requires_grad=True))
        self.assertIn(torch.Size([5, 3, 6]), kept)


if __name__ == "__main__":
    unittest.main()

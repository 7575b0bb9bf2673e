# torch.library.opcheck of every operator: schema, autograd registration, fake tensors, AOT dispatch with dynamic shapes.
# SPDX-License-Identifier: Apache-2.0
import unittest

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sites import SITES, carries, crossing, hyperjit, parameters, spec

TESTS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def detached(tensors):
    return [tensor.detach() for tensor in tensors]


class OpCheck(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def check(self, op, *arguments):
        result = torch.library.opcheck(op, arguments, test_utils=TESTS)
        self.assertEqual(set(result.values()), {"SUCCESS"}, result)
        # opcheck does not look at strides; compiled code relies on them.
        def strides(made):
            return [tensor.stride() for tensor in tree_leaves(made)]

        with FakeTensorMode() as mode:
            traced = strides(op(*tree_map_only(torch.Tensor, mode.from_tensor, list(arguments))))
        self.assertEqual(strides(op(*arguments)), traced, op)

    def test_before(self):
        for recipe, n, m, D in SITES:
            for save in (False, True):
                with self.subTest(recipe=recipe, save=save):
                    x = torch.randn(5, n, D, requires_grad=True)
                    self.check(hyperjit.before.default, x, parameters(recipe, n, m, D), carries(recipe, n, (5,)),
                               spec(recipe, n, m, D), save)

    def test_begin(self):
        for recipe, n, m, D in SITES:
            for requires in (False, True):
                with self.subTest(recipe=recipe, requires=requires):
                    x = torch.randn(5, n, D, requires_grad=requires)
                    self.check(hyperjit.begin.default, x, parameters(recipe, n, m, D), carries(recipe, n, (5,)),
                               spec(recipe, n, m, D), False)

    def test_boundary(self):
        for recipe, n, m, D in SITES:
            with self.subTest(recipe=recipe):
                site = spec(recipe, n, m, D)
                x, y = torch.randn(2, 5, n, D), torch.randn(2, 5, D, requires_grad=True)
                values, carried = parameters(recipe, n, m, D), carries(recipe, n, (2, 5))
                coefficients = detached(crossing(recipe, hyperjit.before(x, values, carried, site, False)))
                for coefficient in coefficients:
                    coefficient.requires_grad_()
                self.check(hyperjit.boundary.default, x.requires_grad_(), y, coefficients, values, carried,
                           f"{site}|{site}", False)

    def test_after(self):
        for recipe, n, m, D in SITES:
            with self.subTest(recipe=recipe):
                site = spec(recipe, n, m, D)
                x, y = torch.randn(5, n, D), torch.randn(5, D, requires_grad=True)
                made = hyperjit.before(x, parameters(recipe, n, m, D), carries(recipe, n, (5,)), site, False)
                coefficients = [c.requires_grad_() for c in detached(crossing(recipe, made))]
                self.check(hyperjit.after.default, x.requires_grad_(), y, coefficients, site)

    def test_backward(self):
        for recipe, n, m, D in SITES:
            with self.subTest(recipe=recipe):
                site = spec(recipe, n, m, D)
                x, y = torch.randn(5, n, D), torch.randn(5, D)
                values, carried = parameters(recipe, n, m, D, requires_grad=False), carries(recipe, n, (5,))
                made = hyperjit.before(x, values, carried, site, True)
                plain = hyperjit.before(x, values, carried, site, False)
                saved = made[-1] if len(made) > len(plain) else None
                coefficients = crossing(recipe, plain)
                self.check(hyperjit.before_backward.default, x, values, carried, saved, [torch.randn_like(made[0])], site,
                           "u", "xp")
                self.check(hyperjit.before_backward.default, x, values, carried, saved,
                           [torch.randn_like(x), torch.randn_like(made[0])], site, "xu", "xp")
                self.check(hyperjit.after_backward.default, x, y, coefficients, torch.randn_like(x), site, "xyc")
                self.check(hyperjit.boundary_backward.default, x, y, coefficients, values, carried, saved,
                           [torch.randn_like(x), torch.randn_like(made[0])], f"{site}|{site}", "xu", "xycp")

    def test_expand_reduce(self):
        h = torch.randn(5, 6, requires_grad=True)
        self.check(hyperjit.expand.default, h, None, 3)
        self.check(hyperjit.expand.default, h, torch.randn(3, 6, requires_grad=True), 3)
        x = torch.randn(5, 3, 6, requires_grad=True)
        self.check(hyperjit.reduce.default, x, None, "sum")
        self.check(hyperjit.reduce.default, x, None, "mean")
        self.check(hyperjit.reduce.default, x, torch.randn(5, 3, requires_grad=True), "weighted")
        # Results are contiguous whatever the strides of the operands, as the shapes of a trace say.
        apart = torch.randn(4, 5, 6).transpose(0, 1)
        self.check(hyperjit.expand.default, apart, None, 3)
        self.check(hyperjit.expand.default, apart, torch.randn(3, 6), 3)
        self.check(hyperjit.expand_backward.default, torch.randn(4, 5, 3, 6).transpose(0, 1), True)
        for mode, weights in (("sum", None), ("mean", None), ("weighted", torch.randn(4, 5, 3).transpose(0, 1))):
            streams = torch.randn(4, 5, 3, 6).transpose(0, 1)
            self.check(hyperjit.reduce.default, streams, weights, mode)
            self.check(hyperjit.reduce_backward.default, apart, streams if weights is not None else None, weights, 3, mode)
        self.check(hyperjit.expand_backward.default, torch.randn(5, 3, 6), True)
        self.check(hyperjit.expand_backward.default, torch.randn(5, 3, 6), False)
        self.check(hyperjit.reduce_backward.default, torch.randn(5, 6), None, None, 3, "mean")
        self.check(hyperjit.reduce_backward.default, torch.randn(5, 6), torch.randn(5, 3, 6), torch.randn(5, 3), 3, "weighted")

    def test_every_operator_is_here(self):
        known = {"before", "boundary", "after", "expand", "reduce"}
        registered = {schema.name.split("::")[1] for schema in torch._C._jit_get_all_schemas()
                      if schema.name.startswith("hyperjit::")}
        self.assertEqual(registered, known | {"begin"} | {name + "_backward" for name in known})

    def test_errors_reach_python(self):
        with self.assertRaisesRegex(RuntimeError, "did you mean 'static'"):
            hyperjit.before(torch.zeros(5, 3, 6), [], [], "statik:n=3,d=6", False)
        with self.assertRaisesRegex(RuntimeError, "x has 4 streams"):
            hyperjit.before(torch.zeros(5, 4, 6), parameters("static", 3, 1, 6), [], "static:n=3,d=6", False)


if __name__ == "__main__":
    unittest.main()

# What the Python tests share: the operators loaded as any Python program loads them, small sites of every recipe.
# SPDX-License-Identifier: Apache-2.0
import json
import math
import pathlib
import subprocess
import sys

import torch

LIBRARY = sys.argv.pop(1)
torch.ops.load_library(LIBRARY)
hyperjit = torch.ops.hyperjit


def described():
    """Parameter shapes of every recipe for n=4, m=1, D=512, from the command beside the library; {} where it is not built."""
    command = pathlib.Path(LIBRARY).resolve().parent.parent / "bin/hyperjit"
    if not command.exists():
        return {}
    answer = json.loads(subprocess.run([command, "recipes", "--json"], capture_output=True, text=True, check=True).stdout)
    return {r["name"]: [tuple(p["shape"]) for p in r["parameters"]] for r in answer["recipes"]}


# Shapes of the parameters as the recipes declare them, n streams, m fracs, D channels.
def parameters(recipe, n, m, D, requires_grad=True):
    N, d = n * m, D // m
    hyper = [(N, m + N), (N,), (d,), (d, m + N), (d,), (1,), (1,)]
    deepseek = [(n * (n + 2), n * D), (n * (n + 2),), (3,)]
    mixtures = n + math.factorial(n)
    shapes = {
        "static": [(N, m + N), (N,)],
        "dynamic": hyper,
        "frac": [(N, m + N), (N,), (d,), (d,), (d, m + N), (d,), (1,), (1,)],
        "manifold": [(N * m + N * m + N * N,), (1,), (1,), (1,), (n * D, N * m + N * m + N * N)],
        "deepseek": deepseek,
        "delayed-pre": deepseek,
        "joint": [(N, m + N), (n, m, m), (d,), (d, m + N), (d, m), (1,), (1,)],
        "manifold-streams": [(N, m + N), (n, m, m), (1,), (1,), (1,), (d,), (1, d, m + N), (d, m)],
        "permutation": [(mixtures,), (n,), (1,), (1,), (1,), (n * D,), (n * D, mixtures), (n * D, n)],
    }
    shapes = OTHERS[recipe] if recipe in OTHERS else shapes[recipe]
    return [(torch.randn(shape) * 0.3).requires_grad_(requires_grad) for shape in shapes]


def spec(recipe, n, m, D):
    return f"{recipe}:n={n},m={m},d={D}"


SITES = [("static", 3, 1, 6), ("dynamic", 3, 1, 6), ("frac", 1, 2, 6), ("manifold", 2, 2, 8), ("deepseek", 3, 1, 6),
         ("delayed-pre", 3, 1, 6), ("joint", 2, 2, 8), ("manifold-streams", 2, 2, 8), ("permutation", 3, 1, 6)]
# A recipe that this file does not know is taken as the command describes it.
OTHERS = {recipe: shapes for recipe, shapes in described().items() if recipe not in {site[0] for site in SITES}}
SITES += [(recipe, 4, 1, 512) for recipe in OTHERS]


def carries(recipe, n, lead):
    return [torch.rand(*lead, n)] if recipe == "delayed-pre" else []


def crossing(recipe, made):
    """The coefficients among what before returns without `save`: u, coefficients..., carries..."""
    return made[1 : len(made) - (recipe == "delayed-pre")]

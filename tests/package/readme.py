#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes one program of the README's C++: readme.py README.md OUT.cpp. What its text takes for granted (an mlp, layers, an x) is
added here, nothing of what it shows is changed."""
import pathlib
import re
import sys

readme, out = map(pathlib.Path, sys.argv[1:])
blocks = re.findall(r"^```c\+\+\n(.*?)^```", readme.read_text(), re.M | re.S)
if len(blocks) != 2:
    sys.exit(f"{readme} has {len(blocks)} blocks of C++; this program is made of two, layers and a variant")
layers, variant = blocks
includes = re.findall(r"^#include .*\n", layers, re.M)
layers = re.sub(r"^#include .*\n", "", layers, flags=re.M)
recipe, definition = variant.split("hyperjit::define", 1)
out.write_text(f"""// Made from README.md by tests/package/readme.py.
{"".join(includes)}#include <hyperjit/DSL.h>

#include <torch/torch.h>

#include <cstdio>
#include <vector>

namespace own {{
using namespace hyperjit::dsl;
{recipe}
void define() {{ hyperjit::define{definition} }}
}} // namespace own

int main() {{
  torch::nn::Sequential mlp(torch::nn::Linear(512, 64), torch::nn::Linear(64, 512));
  std::vector<hyperjit::nn::ManifoldHyperConnection> layers;
  for (int64_t i = 0; i < 2; ++i) {{
    layers.emplace_back(hyperjit::nn::ManifoldHyperConnectionOptions().streams(4).dim(512).layerIndex(i));
    layers.back()->wrap(torch::nn::Linear(512, 512));
  }}
  at::Tensor x = at::randn({{3, 512}});
{layers}
  own::define();
  hyperjit::nn::Connection mine(hyperjit::nn::ConnectionOptions("highway", 512).streams(4));
  at::Tensor next = mine->forward(hyperjit::nn::Stream(at::randn({{3, 4, 512}})), [](const at::Tensor &u) {{ return u; }}).tensor();
  bool right = out.sizes() == x.sizes() && out.isfinite().all().item<bool>() && next.isfinite().all().item<bool>() &&
               layer->parameters().size() == 9; // b, phi, three scales; weights and biases of the mlp
  std::printf("the README's program: %s\\n", right ? "ok" : "wrong");
  return right ? 0 : 1;
}}
""")

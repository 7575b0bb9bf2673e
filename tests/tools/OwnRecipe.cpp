// A library for --load: a variant of a user's own.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/DSL.h"

using namespace hyperjit::dsl;

/// One read for all streams, a gate for each channel of what is written.
static void gated(Site &s) {
  Rows x = s.streams();
  s.branchInput(mix(softmax(s.coefficients("read", {s.n()}, constant(0))), x));
  Rows y = scale(s.branchOutput(), s.channels("gate", {s.D()}, constant(1)));
  s.next(x + write(s.coefficients("beta", {s.n()}, constant(1)), y));
}

/// Forward keeps a reduction for backward, which needs more sums that wait for one another than kernels have.
static void deep(Site &s) {
  Rows x = s.streams();
  Rows gate = s.channels("gate", {s.d()}, constant(1));
  s.branchInput(mix(sigmoid(transpose(dot(x, gate))), x));
  Rows y = s.branchOutput(), t = y;
  for (int i = 0; i < 4; ++i)
    t = rmsNorm(t * y, 1e-6);
  s.next(x + write(s.coefficients("beta", {s.n()}, constant(1)), t));
}

static const bool defined = (hyperjit::define("tools-test", gated), hyperjit::define("tools-deep", deep), true);

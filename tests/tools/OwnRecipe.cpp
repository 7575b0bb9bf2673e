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

static const bool defined = (hyperjit::define("tools-test", gated), true);

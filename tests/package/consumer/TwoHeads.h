// A variant nobody ships: two read heads, so that the branch input has two rows; a residual mix by softmax; a gate for
// every channel on the write.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hyperjit/DSL.h>

namespace consumer {
using namespace hyperjit::dsl;

inline void twoHeads(Site &s) {
  int64_t n = s.n();
  Rows x = s.streams();
  Coefficients read = s.coefficients("read", {2, n}, values(oneHot(2 * n, 0, 2.0), "stream 0 first"));
  Coefficients mixing = s.coefficients("mixing", {n, n}, values(identityMatrix(n), "identity"));
  Weight projection = s.weight("projection", {n * s.D(), n * n}, normal(0.1));
  Coefficients logits = project(rmsNorm(flatten(x), 1e-6), projection);
  Coefficients residual = softmax(mixing + tanh(reshape(logits, {n, n})));
  s.branchInput(mix(softmax(read), x));
  Rows y = scale(s.branchOutput(), s.channels("gate", {s.D()}, constant(1)));
  s.next(mix(residual, x) + write(s.coefficients("write", {n}, constant(1)), y));
}

inline void define() {
  Definition definition;
  definition.summary = "two read heads, a softmax residual, a gated write";
  definition.maximumFracs = 1;
  definition.limitReason = "its reads are written for whole streams";
  hyperjit::define("two-heads", twoHeads, definition);
}
} // namespace consumer

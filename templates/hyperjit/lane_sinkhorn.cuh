// Sinkhorn normalisation of one token's N x N logits by one lane, and its exact adjoint.
// SPDX-License-Identifier: Apache-2.0
//
// The iteration of sinkhorn.cuh with K and the potentials in registers: a half step is N independent sums of N
// products. The adjoint accumulates its N x N gradient while it walks back, so its history is the potentials alone.
#ifndef HYPERJIT_LANE_SINKHORN_CUH
#define HYPERJIT_LANE_SINKHORN_CUH

#include "hyperjit/sinkhorn.cuh"

namespace hyperjit {

template <class O, class T> struct LaneSinkhorn {
  static constexpr int N = O::N;
  T k[N][N];    // K (log domain: of the logits)
  T a[N], b[N]; // potentials of rows and columns

  HYPERJIT_METHOD LaneSinkhorn(const Coefficients<T, N * N, 1> &logits, T eps, T tau) {
    constexpr bool overRow = O::softmax || O::rowFirst;
#pragma unroll
    for (int line = 0; line < N; ++line) {
      T z[N];
#pragma unroll
      for (int i = 0; i < N; ++i)
        z[i] = logits.v[overRow ? line * N + i : i * N + line] / tau;
      T top = z[0], sum = 0;
#pragma unroll
      for (int i = 1; i < N; ++i)
        top = larger(top, z[i]);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if constexpr (O::start != SinkhornStart::ExpRaw)
          z[i] -= top;
        if constexpr (O::softmax || !O::log)
          z[i] = exponential(z[i]);
        sum += z[i];
      }
#pragma unroll
      for (int i = 0; i < N; ++i)
        (overRow ? k[line][i] : k[i][line]) = O::softmax ? z[i] / sum + eps : z[i];
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
      a[i] = b[i] = O::log ? T(0) : T(1);
  }

  template <bool Row> HYPERJIT_METHOD T &own(int line) { return Row ? a[line] : b[line]; }
  template <bool Row> HYPERJIT_METHOD T other(int i) const { return Row ? b[i] : a[i]; }
  template <bool Row> HYPERJIT_METHOD T at(int line, int i) const { return Row ? k[line][i] : k[i][line]; }

  /// All lines side by side: one after the other, each waits for its own reciprocal.
  template <bool Row> HYPERJIT_METHOD void stepOver(T eps) {
    T sums[N];
#pragma unroll
    for (int line = 0; line < N; ++line) {
      if constexpr (O::log) {
        T term[N];
#pragma unroll
        for (int i = 0; i < N; ++i)
          term[i] = at<Row>(line, i) + other<Row>(i);
        T top = term[0], sum = 0;
#pragma unroll
        for (int i = 1; i < N; ++i)
          top = larger(top, term[i]);
#pragma unroll
        for (int i = 0; i < N; ++i)
          sum += exponential(term[i] - top);
        own<Row>(line) = -(top + logarithm(sum));
      } else {
        T part[2] = {};
#pragma unroll
        for (int i = 0; i < N; ++i)
          part[i % 2] += at<Row>(line, i) * other<Row>(i);
        sums[line] = part[0] + part[1];
      }
    }
    if constexpr (!O::log) {
#pragma unroll
      for (int line = 0; line < N; ++line)
        own<Row>(line) = normalised<O>(own<Row>(line), sums[line], eps);
    }
  }
  HYPERJIT_METHOD void step(int index, T eps) {
    if (O::isRow(index))
      stepOver<true>(eps);
    else
      stepOver<false>(eps);
  }

  HYPERJIT_METHOD T entry(int i, int j) const {
    return O::log ? exponential(k[i][j] + a[i] + b[j]) : a[i] * k[i][j] * b[j];
  }

  /// Numbers of the history lie 32 apart.
  HYPERJIT_METHOD void keep(int index, T *history) const {
#pragma unroll
    for (int i = 0; i < N; ++i)
      history[(index * N + i) * 32] = O::isRow(index) ? T(a[i]) : T(b[i]);
  }

  /// Undoes a step: potentials become those before it. `ownSums` and `otherSums` are the sums of the gradient over the
  /// lines of both axes; what the step takes from the gradient, over K outside the log domain, is added to `taken`.
  template <bool Row>
  HYPERJIT_METHOD void undoOver(const T *before, T eps, T (&ownSums)[N], T (&otherSums)[N], T (&taken)[N][N]) {
    T change[N] = {};
#pragma unroll
    for (int line = 0; line < N; ++line) {
      const T made = own<Row>(line), was = before[line * 32];
      T sum = ownSums[line], kept = 0; // share of the line's sum that survives its own step
      if constexpr (O::place == SinkhornPlace::Add)
        kept = eps * made * fastReciprocal(was);
      if constexpr (O::place == SinkhornPlace::Clamp)
        if (was <= made * eps * T(1.000001)) { // the line was clamped: its step scaled by a constant
          kept = 1;
          sum = 0;
        }
      const T factor = O::log ? sum : sum * made;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        T &entry = Row ? taken[line][i] : taken[i][line];
        if constexpr (O::log) {
          const T part = exponential(at<Row>(line, i) + made + other<Row>(i)) * factor;
          change[i] += part;
          entry += part;
        } else {
          change[i] += at<Row>(line, i) * factor;
          entry += factor * other<Row>(i);
        }
      }
      ownSums[line] *= kept;
      own<Row>(line) = was;
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
      otherSums[i] -= O::log ? change[i] : other<Row>(i) * change[i];
  }
};

template <class O, class T, class W>
HYPERJIT_DEVICE Coefficients<T, O::N * O::N, 1> sinkhorn(W &, const Coefficients<T, O::N * O::N, 1> &logits, double eps,
                                                         double tau) {
  constexpr int N = O::N;
  LaneSinkhorn<O, T> m(logits, static_cast<T>(eps), static_cast<T>(tau));
#pragma unroll 2
  for (int step = 0; step < O::steps; ++step)
    m.step(step, static_cast<T>(eps));
  Coefficients<T, N * N, 1> r;
#pragma unroll
  for (int index = 0; index < N * N; ++index)
    r.v[index] = m.entry(index / N, index % N);
  return r;
}

/// Scratch: N (2 iterations) numbers a lane.
template <class O, class T, class W>
HYPERJIT_DEVICE Coefficients<T, O::N * O::N, 1> sinkhornAdjoint(W &lane, const Coefficients<T, O::N * O::N, 1> &logits,
                                                                const Coefficients<T, O::N * O::N, 1> &cotangent,
                                                                double eps_, double tau) {
  constexpr int N = O::N;
  const T eps = static_cast<T>(eps_);
  LaneSinkhorn<O, T> m(logits, eps, static_cast<T>(tau));
#pragma unroll 2
  for (int step = 0; step < O::steps; ++step) {
    m.keep(step, lane.scratch);
    m.step(step, eps);
  }
  T g[N][N], taken[N][N] = {}, rowSums[N] = {}, columnSums[N] = {};
#pragma unroll
  for (int i = 0; i < N; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j) {
      g[i][j] = cotangent.v[i * N + j] * m.entry(i, j);
      rowSums[i] += g[i][j];
      columnSums[j] += g[i][j];
    }
#pragma unroll 2
  for (int step = O::steps - 1; step >= 0; --step) {
    const T *before = lane.scratch + step * N * 32;
    if (O::isRow(step))
      m.template undoOver<true>(before, eps, rowSums, columnSums, taken);
    else
      m.template undoOver<false>(before, eps, columnSums, rowSums, taken);
  }
  Coefficients<T, N * N, 1> r;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    T sum = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      g[i][j] -= O::log ? taken[i][j] : m.k[i][j] * taken[i][j];
      if (O::softmax && eps > 0) // else p / (p + eps) is 1, for p = 0 too
        g[i][j] *= (m.k[i][j] - eps) / m.k[i][j];
      sum += g[i][j];
    }
#pragma unroll
    for (int j = 0; j < N; ++j)
      r.v[i * N + j] = (O::softmax ? g[i][j] - (m.k[i][j] - eps) * sum : g[i][j]) / static_cast<T>(tau);
  }
  return r;
}

} // namespace hyperjit

#endif

// Sinkhorn normalisation of one token's N x N logits by one warp, and its exact adjoint.
// SPDX-License-Identifier: Apache-2.0
//
// Every iterate is diag(a) K diag(b) with a fixed K, also with eps in the denominators, so a half step updates N
// numbers and the history of the adjoint is N numbers a half step. Lane i holds row i and column i of K.
// The adjoint walks G <- G - M_t * (sum of G over the step's axis) on the row and column sums of G alone
// (they obey the same recurrence) and forms the N x N gradient once at the end.
#ifndef HYPERJIT_SINKHORN_CUH
#define HYPERJIT_SINKHORN_CUH

#include "hyperjit/coefficients.cuh"

namespace hyperjit {

enum class SinkhornStart { Exp, ExpRaw, SoftmaxEps };
enum class SinkhornPlace { None, Clamp, Add };

template <int N_, int Iterations, SinkhornStart Start_, bool RowFirst_, SinkhornPlace Place_, bool Log_>
struct SinkhornOptions {
  static constexpr int N = N_;
  static_assert(N <= 32, "a line a lane");
  static constexpr SinkhornStart start = Start_;
  static constexpr SinkhornPlace place = Place_;
  static constexpr bool log = Log_;
  static constexpr bool softmax = Start_ == SinkhornStart::SoftmaxEps;
  static constexpr bool rowFirst = RowFirst_ && !softmax;
  static constexpr int steps = softmax ? 2 * Iterations - 1 : 2 * Iterations;
  HYPERJIT_METHOD static bool isRow(int step) { return rowFirst == ((step & 1) == 0); }
};

/// The potential of a line after a step: it was `own`, and `sum` is the line's over K times the other potentials.
template <class O, class T> HYPERJIT_DEVICE T normalised(T own, T sum, T eps) {
  if constexpr (O::place == SinkhornPlace::None)
    return fastReciprocal(sum);
  sum *= own;
  return own * fastReciprocal(O::place == SinkhornPlace::Add ? sum + eps : larger(sum, eps));
}

/// Row and column `lane` of K (log domain: of the logits), one step at a time.
template <class O, class T, class W> struct SinkhornMatrix {
  static constexpr int N = O::N;
  T row[N], column[N];
  T a, b; // potentials of row and column `lane`

  /// Fills the scratch [N * N] with K and takes this lane's row and column from there.
  HYPERJIT_METHOD SinkhornMatrix(W &warp, const Coefficients<T, N * N> &logits, T eps, T tau) {
    const int own = warp.lane < N ? warp.lane : 0;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < logits.registers; ++j)
      if (warp.lane + 32 * j < N * N)
        warp.scratch[warp.lane + 32 * j] = logits.v[j] / tau;
    __syncwarp();
    load(warp, own);
    T top = 0;
    if constexpr (O::start != SinkhornStart::ExpRaw) {
      constexpr bool overRow = O::softmax || O::rowFirst;
      top = overRow ? row[0] : column[0];
#pragma unroll
      for (int k = 1; k < N; ++k)
        top = larger(top, overRow ? row[k] : column[k]);
      T sum = 0;
      if constexpr (O::softmax) {
#pragma unroll
        for (int k = 0; k < N; ++k)
          sum += exponential(row[k] - top);
      }
      __syncwarp();
      if (warp.lane < N) {
#pragma unroll
        for (int k = 0; k < N; ++k) {
          T z = (overRow ? row[k] : column[k]) - top;
          T value = O::softmax ? exponential(z) / sum + eps : O::log ? z : exponential(z);
          warp.scratch[overRow ? own * N + k : k * N + own] = value;
        }
      }
    } else if constexpr (!O::log) {
      __syncwarp();
      if (warp.lane < N) {
#pragma unroll
        for (int k = 0; k < N; ++k)
          warp.scratch[own * N + k] = exponential(row[k]);
      }
    }
    __syncwarp();
    load(warp, own);
    a = b = O::log ? T(0) : T(1);
  }

  HYPERJIT_METHOD void load(W &warp, int own) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      row[k] = warp.scratch[own * N + k];
      column[k] = warp.scratch[k * N + own];
    }
  }

  /// sum over the other axis of line[k] * x[k] (log domain: of exp(line[k] + y[k]) * x[k], this lane's y added outside)
  HYPERJIT_METHOD static T product(const T (&line)[N], T x) {
    T sum = 0;
#pragma unroll
    for (int k = 0; k < N; ++k)
      sum += line[k] * __shfl_sync(0xffffffffu, x, k);
    return sum;
  }

  HYPERJIT_METHOD static T logSum(const T (&line)[N], T y) {
    T term[N];
    T top = line[0] + __shfl_sync(0xffffffffu, y, 0);
    term[0] = top;
#pragma unroll
    for (int k = 1; k < N; ++k) {
      term[k] = line[k] + __shfl_sync(0xffffffffu, y, k);
      top = larger(top, term[k]);
    }
    T sum = 0;
#pragma unroll
    for (int k = 0; k < N; ++k)
      sum += exponential(term[k] - top);
    return top + logarithm(sum);
  }

  HYPERJIT_METHOD static T expProduct(const T (&line)[N], T own, T y, T x) {
    T sum = 0;
#pragma unroll
    for (int k = 0; k < N; ++k)
      sum += exponential(line[k] + own + __shfl_sync(0xffffffffu, y, k)) * __shfl_sync(0xffffffffu, x, k);
    return sum;
  }

  HYPERJIT_METHOD static T normalise(const T (&line)[N], T own, T other, T eps) {
    if constexpr (O::log) {
      return -logSum(line, other);
    } else {
      return normalised<O>(own, product(line, other), eps);
    }
  }

  HYPERJIT_METHOD void step(int index, T eps) {
    if (O::isRow(index))
      a = normalise(row, a, b, eps);
    else
      b = normalise(column, b, a, eps);
  }

  HYPERJIT_METHOD static T entry(T k, T a, T b) { return O::log ? exponential(k + a + b) : a * k * b; }
};

/// The result's elements, in the layout of Coefficients; scratch [0, N * N) holds K.
template <class O, class T, class W>
HYPERJIT_DEVICE Coefficients<T, O::N * O::N> sinkhornResult(W &warp, const SinkhornMatrix<O, T, W> &m) {
  constexpr int N = O::N;
  Coefficients<T, N * N> r;
#pragma unroll
  for (int j = 0; j < r.registers; ++j) {
    int index = warp.lane + 32 * j;
    bool inside = index < N * N;
    T a = __shfl_sync(0xffffffffu, m.a, inside ? index / N : 0);
    T b = __shfl_sync(0xffffffffu, m.b, inside ? index % N : 0);
    r.v[j] = inside ? SinkhornMatrix<O, T, W>::entry(warp.scratch[index], a, b) : T(0);
  }
  return r;
}

/// Scratch: N * N numbers.
template <class O, class T, class W>
HYPERJIT_DEVICE Coefficients<T, O::N * O::N> sinkhorn(W &warp, const Coefficients<T, O::N * O::N> &logits, double eps,
                                                      double tau) {
  SinkhornMatrix<O, T, W> m(warp, logits, static_cast<T>(eps), static_cast<T>(tau));
#pragma unroll 2
  for (int step = 0; step < O::steps; ++step)
    m.step(step, static_cast<T>(eps));
  return sinkhornResult(warp, m);
}

/// Scratch: 2 N N + 2 N (2 iterations) numbers.
template <class O, class T, class W>
HYPERJIT_DEVICE Coefficients<T, O::N * O::N> sinkhornAdjoint(W &warp, const Coefficients<T, O::N * O::N> &logits,
                                                             const Coefficients<T, O::N * O::N> &cotangent, double eps_,
                                                             double tau) {
  constexpr int N = O::N;
  const T eps = static_cast<T>(eps_), initial = O::log ? T(0) : T(1);
  SinkhornMatrix<O, T, W> m(warp, logits, eps, static_cast<T>(tau));
  T *const gradient = warp.scratch + N * N;
  T *const potentials = warp.scratch + 2 * N * N; // [step][N]: what the step made
  T *const factors = potentials + O::steps * N;   // [step][N]: what the step's sum contributes
  const bool live = warp.lane < N;
  const int own = live ? warp.lane : 0;

#pragma unroll 2
  for (int step = 0; step < O::steps; ++step) {
    m.step(step, eps);
    if (live)
      potentials[step * N + own] = O::isRow(step) ? m.a : m.b;
  }
  Coefficients<T, N *N> g = multiply(cotangent, sinkhornResult(warp, m));
#pragma unroll
  for (int j = 0; j < g.registers; ++j)
    if (warp.lane + 32 * j < N * N)
      gradient[warp.lane + 32 * j] = g.v[j];
  __syncwarp();
  T rowSum = 0, columnSum = 0;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    rowSum += gradient[own * N + k];
    columnSum += gradient[k * N + own];
  }

#pragma unroll 1
  for (int step = O::steps - 1; step >= 0; --step) {
    const bool isRow = O::isRow(step);
    const T made = isRow ? m.a : m.b;
    const T before = step >= 2 ? potentials[(step - 2) * N + own] : initial;
    T sum = isRow ? rowSum : columnSum;
    T kept = 0; // share of the line's sum that survives its own step
    if constexpr (O::place == SinkhornPlace::Add)
      kept = eps * made / before;
    if constexpr (O::place == SinkhornPlace::Clamp)
      if (before <= made * eps * T(1.000001)) { // the line was clamped: its step scaled by a constant
        kept = 1;
        sum = 0;
      }
    const T factor = O::log ? sum : sum * made;
    if (live)
      factors[step * N + own] = factor;
    T change;
    if (isRow) {
      change = O::log ? m.expProduct(m.column, m.b, m.a, factor) : m.b * m.product(m.column, factor);
      columnSum -= change;
      rowSum *= kept;
      m.a = before;
    } else {
      change = O::log ? m.expProduct(m.row, m.a, m.b, factor) : m.a * m.product(m.row, factor);
      rowSum -= change;
      columnSum *= kept;
      m.b = before;
    }
  }
  __syncwarp();

#pragma unroll
  for (int j = 0; j < g.registers; ++j) {
    const int index = warp.lane + 32 * j < N * N ? warp.lane + 32 * j : 0;
    const int row = index / N, column = index % N;
    const T k = warp.scratch[index];
    T sum = 0;
#pragma unroll 2
    for (int step = 0; step < O::steps; ++step) {
      const bool isRow = O::isRow(step);
      const T factor = factors[step * N + (isRow ? row : column)];
      const T other = step > 0 ? potentials[(step - 1) * N + (isRow ? column : row)] : initial;
      if constexpr (O::log)
        sum += exponential(k + potentials[step * N + (isRow ? row : column)] + other) * factor;
      else
        sum += factor * other;
    }
    g.v[j] -= O::log ? sum : k * sum;
  }
  if constexpr (O::softmax) {
#pragma unroll
    for (int j = 0; j < g.registers; ++j) {
      const int index = warp.lane + 32 * j;
      if (index < N * N) {
        const T k = warp.scratch[index];
        if (eps > 0) // else p / (p + eps) is 1, for p = 0 too
          g.v[j] = g.v[j] * (k - eps) / k;
        gradient[index] = g.v[j];
      }
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < g.registers; ++j) {
      const int index = warp.lane + 32 * j;
      if (index < N * N) {
        T sum = 0;
#pragma unroll
        for (int k = 0; k < N; ++k)
          sum += gradient[index / N * N + k];
        g.v[j] -= (warp.scratch[index] - eps) * sum;
      }
    }
  }
#pragma unroll
  for (int j = 0; j < g.registers; ++j)
    g.v[j] /= static_cast<T>(tau);
  return g;
}

} // namespace hyperjit

#endif

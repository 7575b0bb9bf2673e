//===- Sinkhorn.cpp - C: Sinkhorn and its exact adjoint -------------------===//
// SPDX-License-Identifier: Apache-2.0
//
// The forward iterates as defined (no potentials), so that its numbers are
// those of the plain formula. The adjoint repeats it, keeps the N divisors of
// every step, and walks back: M_{t-1} = M_t * divisors, G -= M_t * (sum of G
// over the lines of step t). In the log domain divisors are logarithms.
// Up to 4 x 4 the matrix stays in registers, above that in a buffer.
//===----------------------------------------------------------------------===//
#include "KernelEmitter.h"

using namespace mlir;
using namespace hyperjit::hc;

namespace hyperjit::cpu {

KernelEmitter::SinkhornSettings KernelEmitter::settingsOf(Operation *op) {
  SinkhornSettings settings;
  auto text = [&](StringRef name) { return op->getAttrOfType<StringAttr>(name).getValue(); };
  settings.size = cast<CoeffsType>(op->getResult(0).getType()).getShape()[0];
  settings.iterations = op->getAttrOfType<IntegerAttr>("iterations").getInt();
  settings.startsRaw = text("start") == "exp_raw";
  settings.startsSoftmax = text("start") == "softmax_eps";
  settings.firstRow = text("first") == "row";
  settings.clamps = text("place") == "clamp";
  settings.adds = text("place") == "add";
  settings.logarithmic = op->getAttrOfType<BoolAttr>("log_domain").getValue() && !settings.startsSoftmax;
  settings.eps = op->getAttrOfType<FloatAttr>("eps").getValueAsDouble();
  if (s.element.isF32()) // what is 0 there is none
    settings.eps = static_cast<float>(settings.eps);
  settings.tau = op->getAttrOfType<FloatAttr>("tau").getValueAsDouble();
  return settings;
}

void KernelEmitter::emitSinkhorn(SinkhornOp op) {
  SinkhornSettings settings = settingsOf(op);
  CoeffsView logits = view(op.getInput()), out = result(op);
  if (settings.size <= 4)
    sinkhornSmall(settings, logits, nullptr, out);
  else
    sinkhornLarge(settings, logits, nullptr, out);
}

void KernelEmitter::emitSinkhornAdjoint(SinkhornAdjointOp op) {
  SinkhornSettings settings = settingsOf(op);
  CoeffsView logits = view(op.getLogits()), cotangent = view(op.getCotangent()), out = result(op);
  if (settings.size <= 4)
    sinkhornSmall(settings, logits, &cotangent, out);
  else
    sinkhornLarge(settings, logits, &cotangent, out);
}

//===----------------------------------------------------------------------===//
// In registers
//===----------------------------------------------------------------------===//

void KernelEmitter::sinkhornSmall(const SinkhornSettings &settings, const CoeffsView &logits,
                                  const CoeffsView *cotangent, const CoeffsView &out) {
  int64_t n = settings.size, wide = lanesHere();
  using Values = SmallVector<Value>;
  // Number of a line's element; row lines run along the last axis.
  auto at = [&](bool row, int64_t line, int64_t k) { return row ? line * n + k : k * n + line; };
  auto lineMax = [&](const Values &m, bool row, int64_t line) {
    Value top = m[at(row, line, 0)];
    for (int64_t k = 1; k < n; ++k)
      top = s.max(top, m[at(row, line, k)]);
    return top;
  };
  auto lineSum = [&](const Values &m, bool row, int64_t line) {
    Value sum = m[at(row, line, 0)];
    for (int64_t k = 1; k < n; ++k)
      sum = s.add(sum, m[at(row, line, k)]);
    return sum;
  };
  int64_t steps = settings.startsSoftmax ? 2 * settings.iterations - 1 : 2 * settings.iterations;
  CoeffsView history;
  if (cotangent)
    history = allocateCoeffs(frame.uniform ? Memory::Fixed : Memory::Scratch, {steps, n}, !frame.uniform);

  forVectors([&](Value vector) {
    auto loadAll = [&](const CoeffsView &view) {
      Values m;
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j)
          m.push_back(loadElement(view, {s.i64(i), s.i64(j)}, vector));
      return m;
    };
    auto scaled = [&] {
      Values z = loadAll(logits);
      if (settings.tau != 1.0)
        for (Value &x : z)
          x = s.div(x, s.constant(settings.tau, wide));
      return z;
    };
    auto softmaxRows = [&](Values z) {
      for (int64_t i = 0; i < n; ++i) {
        Value top = lineMax(z, true, i);
        for (int64_t j = 0; j < n; ++j)
          z[i * n + j] = s.exp(s.sub(z[i * n + j], top));
        Value inverse = s.div(s.constant(1.0, wide), lineSum(z, true, i));
        for (int64_t j = 0; j < n; ++j)
          z[i * n + j] = s.mul(z[i * n + j], inverse);
      }
      return z;
    };
    auto exponentials = [&](Values z) {
      for (Value &x : z)
        x = s.exp(x);
      return z;
    };
    auto step = [&](Values m, bool row, Value number) {
      for (int64_t line = 0; line < n; ++line) {
        Value divisor;
        if (settings.logarithmic) {
          Value top = lineMax(m, row, line), sum;
          for (int64_t k = 0; k < n; ++k) {
            Value e = s.exp(s.sub(m[at(row, line, k)], top));
            sum = sum ? s.add(sum, e) : e;
          }
          divisor = s.add(top, s.log(sum));
          for (int64_t k = 0; k < n; ++k)
            m[at(row, line, k)] = s.sub(m[at(row, line, k)], divisor);
        } else {
          divisor = lineSum(m, row, line);
          if (settings.clamps)
            divisor = s.max(divisor, s.constant(settings.eps, wide));
          if (settings.adds)
            divisor = s.add(divisor, s.constant(settings.eps, wide));
          Value inverse = s.div(s.constant(1.0, wide), divisor);
          for (int64_t k = 0; k < n; ++k)
            m[at(row, line, k)] = s.mul(m[at(row, line, k)], inverse);
        }
        if (cotangent)
          storeElement(divisor, history, {number, s.i64(line)}, vector);
      }
      return m;
    };

    Values m = scaled();
    bool first = settings.firstRow;
    int64_t before = 0, rounds = settings.iterations;
    if (settings.startsSoftmax) {
      m = softmaxRows(m);
      for (Value &x : m)
        x = s.add(x, s.constant(settings.eps, wide));
      m = step(m, /*row=*/false, s.i64(0));
      first = true;
      before = 1;
      rounds -= 1;
    } else if (!settings.logarithmic) {
      if (!settings.startsRaw)
        for (int64_t line = 0; line < n; ++line) {
          Value top = lineMax(m, first, line);
          for (int64_t k = 0; k < n; ++k)
            m[at(first, line, k)] = s.sub(m[at(first, line, k)], top);
        }
      m = exponentials(m);
    }
    if (rounds > 0)
      m = s.loop(rounds, m, [&](Value round, ValueRange carried) {
        Value number = s.addi(s.muli(round, 2), before);
        Values now(carried);
        now = step(now, first, number);
        return step(now, !first, s.addi(number, 1));
      });
    if (!cotangent) {
      if (settings.logarithmic)
        m = exponentials(m);
      for (int64_t e = 0; e < n * n; ++e)
        storeElement(m[e], out, {s.i64(e / n), s.i64(e % n)}, vector);
      return;
    }

    Values g = loadAll(*cotangent);
    Values last = settings.logarithmic ? exponentials(m) : m;
    for (int64_t e = 0; e < n * n; ++e)
      g[e] = s.mul(g[e], last[e]);
    auto stepBack = [&](Values &m, Values &g, bool row, Value number) {
      for (int64_t line = 0; line < n; ++line) {
        Value divisor = loadElement(history, {number, s.i64(line)}, vector);
        Value sum = lineSum(g, row, line);
        if (settings.clamps)
          sum = s.select(s.compare(arith::CmpFPredicate::OGT, divisor, s.constant(settings.eps, wide)), sum,
                         s.zero(wide));
        for (int64_t k = 0; k < n; ++k) {
          int64_t e = at(row, line, k);
          Value value = settings.logarithmic ? s.exp(m[e]) : m[e];
          g[e] = s.fma(s.neg(value), sum, g[e]);
          m[e] = settings.logarithmic ? s.add(m[e], divisor) : s.mul(m[e], divisor);
        }
      }
    };
    if (rounds > 0) {
      Values carried(m);
      carried.append(g);
      carried = s.loop(rounds, carried, [&](Value round, ValueRange state) {
        Values mNow(state.take_front(n * n)), gNow(state.drop_front(n * n));
        Value number = s.addi(s.muli(round, -2), before + 2 * (rounds - 1));
        stepBack(mNow, gNow, !first, s.addi(number, 1));
        stepBack(mNow, gNow, first, number);
        mNow.append(gNow);
        return mNow;
      });
      m.assign(carried.begin(), carried.begin() + n * n);
      g.assign(carried.begin() + n * n, carried.end());
    }
    if (settings.startsSoftmax) {
      stepBack(m, g, /*row=*/false, s.i64(0));
      Values p = softmaxRows(scaled());
      for (int64_t e = 0; settings.eps > 0 && e < n * n; ++e) // else p / (p + eps) is 1, for p = 0 too
        g[e] = s.div(s.mul(g[e], p[e]), s.add(p[e], s.constant(settings.eps, wide)));
      for (int64_t i = 0; i < n; ++i) {
        Value sum = lineSum(g, true, i);
        for (int64_t j = 0; j < n; ++j)
          g[i * n + j] = s.fma(s.neg(p[i * n + j]), sum, g[i * n + j]);
      }
    }
    for (int64_t e = 0; e < n * n; ++e) {
      Value value = settings.tau == 1.0 ? g[e] : s.div(g[e], s.constant(settings.tau, wide));
      storeElement(value, out, {s.i64(e / n), s.i64(e % n)}, vector);
    }
  });
}

//===----------------------------------------------------------------------===//
// In buffers
//===----------------------------------------------------------------------===//

void KernelEmitter::sinkhornLarge(const SinkhornSettings &settings, const CoeffsView &logits,
                                  const CoeffsView *cotangent, const CoeffsView &out) {
  int64_t n = settings.size, wide = lanesHere();
  Memory::Kind kind = frame.uniform ? Memory::Fixed : Memory::Scratch;
  int64_t steps = settings.startsSoftmax ? 2 * settings.iterations - 1 : 2 * settings.iterations;
  // Forward works in the result; the adjoint keeps the gradient there and the matrix apart.
  CoeffsView m = cotangent ? allocateCoeffs(kind, {n, n}, !frame.uniform) : out;
  CoeffsView p = cotangent && settings.startsSoftmax ? allocateCoeffs(kind, {n, n}, !frame.uniform) : m;
  CoeffsView history = cotangent ? allocateCoeffs(kind, {steps, n}, !frame.uniform) : CoeffsView();

  forVectors([&](Value vector) {
    auto load = [&](const CoeffsView &from, bool row, Value line, Value k) {
      return row ? loadElement(from, {line, k}, vector) : loadElement(from, {k, line}, vector);
    };
    auto store = [&](Value value, const CoeffsView &to, bool row, Value line, Value k) {
      return row ? storeElement(value, to, {line, k}, vector) : storeElement(value, to, {k, line}, vector);
    };
    auto lineMax = [&](const CoeffsView &from, bool row, Value line) {
      return s.loop(n, load(from, row, line, s.i64(0)), [&](Value k, ValueRange top) {
        return SmallVector<Value>{s.max(top[0], load(from, row, line, k))};
      })[0];
    };
    auto lineSum = [&](const CoeffsView &from, bool row, Value line) {
      return s.loop(n, s.zero(wide), [&](Value k, ValueRange sum) {
        return SmallVector<Value>{s.add(sum[0], load(from, row, line, k))};
      })[0];
    };
    auto mapLine = [&](const CoeffsView &in, const CoeffsView &to, bool row, Value line,
                       llvm::function_ref<Value(Value)> f) {
      s.loop(n, [&](Value k) { store(f(load(in, row, line, k)), to, row, line, k); });
    };
    auto scale = [&](Value x) { return settings.tau == 1.0 ? x : s.div(x, s.constant(settings.tau, wide)); };
    auto softmaxRows = [&](const CoeffsView &to) {
      s.loop(n, [&](Value line) {
        mapLine(logits, to, true, line, scale);
        Value top = lineMax(to, true, line);
        mapLine(to, to, true, line, [&](Value x) { return s.exp(s.sub(x, top)); });
        Value inverse = s.div(s.constant(1.0, wide), lineSum(to, true, line));
        mapLine(to, to, true, line, [&](Value x) { return s.mul(x, inverse); });
      });
    };
    auto step = [&](bool row, Value number) {
      s.loop(n, [&](Value line) {
        Value divisor;
        if (settings.logarithmic) {
          Value top = lineMax(m, row, line);
          Value sum = s.loop(n, s.zero(wide), [&](Value k, ValueRange sums) {
            return SmallVector<Value>{s.add(sums[0], s.exp(s.sub(load(m, row, line, k), top)))};
          })[0];
          divisor = s.add(top, s.log(sum));
          mapLine(m, m, row, line, [&](Value x) { return s.sub(x, divisor); });
        } else {
          divisor = lineSum(m, row, line);
          if (settings.clamps)
            divisor = s.max(divisor, s.constant(settings.eps, wide));
          if (settings.adds)
            divisor = s.add(divisor, s.constant(settings.eps, wide));
          Value inverse = s.div(s.constant(1.0, wide), divisor);
          mapLine(m, m, row, line, [&](Value x) { return s.mul(x, inverse); });
        }
        if (cotangent)
          storeElement(divisor, history, {number, line}, vector);
      });
    };

    bool first = settings.firstRow;
    int64_t before = 0, rounds = settings.iterations;
    if (settings.startsSoftmax) {
      softmaxRows(p);
      s.loop(n, [&](Value line) {
        mapLine(p, m, true, line, [&](Value x) { return s.add(x, s.constant(settings.eps, wide)); });
      });
      step(/*row=*/false, s.i64(0));
      first = true;
      before = 1;
      rounds -= 1;
    } else {
      s.loop(n, [&](Value line) {
        mapLine(logits, m, first, line, scale);
        if (settings.logarithmic)
          return;
        if (settings.startsRaw) {
          mapLine(m, m, first, line, [&](Value x) { return s.exp(x); });
        } else {
          Value top = lineMax(m, first, line);
          mapLine(m, m, first, line, [&](Value x) { return s.exp(s.sub(x, top)); });
        }
      });
    }
    s.loop(rounds, [&](Value round) {
      Value number = s.addi(s.muli(round, 2), before);
      step(first, number);
      step(!first, s.addi(number, 1));
    });
    auto value = [&](Value x) { return settings.logarithmic ? s.exp(x) : x; };
    if (!cotangent) {
      if (settings.logarithmic)
        s.loop(n, [&](Value line) { mapLine(m, out, true, line, value); });
      return;
    }

    s.loop(n, [&](Value line) {
      s.loop(n, [&](Value k) {
        Value g = s.mul(load(*cotangent, true, line, k), value(load(m, true, line, k)));
        store(g, out, true, line, k);
      });
    });
    auto stepBack = [&](bool row, Value number) {
      s.loop(n, [&](Value line) {
        Value divisor = loadElement(history, {number, line}, vector);
        Value sum = lineSum(out, row, line);
        if (settings.clamps)
          sum = s.select(s.compare(arith::CmpFPredicate::OGT, divisor, s.constant(settings.eps, wide)), sum,
                         s.zero(wide));
        s.loop(n, [&](Value k) {
          Value now = load(m, row, line, k);
          store(s.fma(s.neg(value(now)), sum, load(out, row, line, k)), out, row, line, k);
          store(settings.logarithmic ? s.add(now, divisor) : s.mul(now, divisor), m, row, line, k);
        });
      });
    };
    s.loop(rounds, [&](Value round) {
      Value number = s.addi(s.muli(round, -2), before + 2 * (rounds - 1));
      stepBack(!first, s.addi(number, 1));
      stepBack(first, number);
    });
    if (settings.startsSoftmax) {
      stepBack(/*row=*/false, s.i64(0));
      if (settings.eps > 0) // else p / (p + eps) is 1, for p = 0 too
        s.loop(n, [&](Value line) {
          s.loop(n, [&](Value k) {
            Value probability = load(p, true, line, k);
            Value start = s.add(probability, s.constant(settings.eps, wide));
            store(s.div(s.mul(load(out, true, line, k), probability), start), out, true, line, k);
          });
        });
    }
    s.loop(n, [&](Value line) {
      if (settings.startsSoftmax) {
        Value sum = lineSum(out, true, line);
        s.loop(n, [&](Value k) {
          Value g = s.fma(s.neg(load(p, true, line, k)), sum, load(out, true, line, k));
          store(scale(g), out, true, line, k);
        });
      } else if (settings.tau != 1.0) {
        mapLine(out, out, true, line, scale);
      }
    });
  });
}

} // namespace hyperjit::cpu

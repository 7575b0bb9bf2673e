// Golden.h - one token at one site, as GoldenTest runs it. Who runs it is another file's business: the interpreter of
// programs (GoldenInterpreter.cpp), or the kernels of a back end.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Interpreter.h"

#include "hyperjit/core/ProgramSource.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace hyperjit::test {

using List = std::vector<double>;

/// The branch's output y is a constant, an argument like the others.
struct GoldenToken {
  std::string spec;
  std::shared_ptr<const SiteProgram> program;
  std::map<std::string, Tensor> arguments; // x, parameters, carries
  List y, dz, dx;                          // cotangents of z and of the new streams

  explicit GoldenToken(const std::string &spec)
      : spec(spec), program(ProgramSource::global().site(SiteSpec::parse(spec))) {}

  void set(const std::string &name, List values) {
    int64_t size = static_cast<int64_t>(values.size());
    arguments[name] = Tensor({size}, std::move(values));
  }
  void streams(List values) {
    set("x", std::move(values));
    arguments["x"].shape = {program->signature.streamRows, program->signature.rowWidth};
  }

  Outcome run() const;
  /// Of <dz, z> + <dx, new streams>, with respect to an argument or "y".
  List gradient(const std::string &name);
};

} // namespace hyperjit::test

// The pass table over every recipe: traffic is pinned here, without a GPU and without machine code.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/Pipeline.h"

#include "hyperjit/core/ProgramSource.h"

#include "mlir/IR/Diagnostics.h"

#include <gtest/gtest.h>

using namespace hyperjit;

namespace {

struct Traffic {
  int64_t reads = -1, writes = -1, stages = -1, exposed = -1;
  std::string kernel; ///< the whole function
};

SiteRequest site(const std::string &text) {
  SiteSpec spec = SiteSpec::parse(text);
  auto program = ProgramSource::global().site(spec);
  return {program->text, program->signature.rowWidth, spec.m, "bf16", "bf16", "bf16", "f32"};
}

Traffic traffic(const std::string &role, const std::string &after, const std::string &before, bool backward = false,
                const std::string &cut = "early") {
  mlir::MLIRContext context(mlir::MLIRContext::Threading::DISABLED);
  context.getOrLoadDialect<hc::HCDialect>();
  CompileRequest request;
  request.role = role;
  request.backward = backward;
  request.save = !backward;
  request.given = "xuck";
  request.want = "xycpk";
  request.cut = cut;
  request.name = "kernel";
  if (role != "before")
    request.after = site(after);
  if (role != "after")
    request.before = site(before);
  std::string failedPass;
  auto module = buildKernel(&context, request, {}, failedPass);
  if (!module) {
    ADD_FAILURE() << role << "(" << after << "|" << before << ") failed in " << failedPass;
    return {};
  }
  hc::FuncOp kernel = *module->getOps<hc::FuncOp>().begin();
  auto number = [&](llvm::StringRef name) { return kernel->getAttrOfType<mlir::IntegerAttr>(name).getInt(); };
  std::string text;
  llvm::raw_string_ostream stream(text);
  kernel->print(stream);
  return {number("hc.reads_u"), number("hc.writes_u"), number("hc.stages"), number("hc.exposed"), text};
}

struct Case {
  std::string spec;
  int n;
};
std::vector<Case> cases() {
  std::vector<Case> all;
  for (int n : {1, 2, 3, 4, 5, 6, 7, 8, 16})
    for (const char *recipe : {"static", "dynamic", "manifold", "manifold-streams", "deepseek", "delayed-pre"})
      all.push_back({std::string(recipe) + ":n=" + std::to_string(n) + ",d=512", n});
  for (int n : {1, 2, 4})
    for (int m : {1, 2, 4, 8})
      all.push_back({"joint:n=" + std::to_string(n) + ",m=" + std::to_string(m) + ",d=512", n});
  for (int n : {1, 2, 3, 4, 5})
    all.push_back({"permutation:n=" + std::to_string(n) + ",d=512", n});
  for (int m : {1, 2, 4, 8}) {
    all.push_back({"frac:n=1,m=" + std::to_string(m) + ",d=512", 1});
    all.push_back({"frac:n=1,m=" + std::to_string(m) + ",d=512,dynamic=false", 1});
  }
  return all;
}

// One kernel a boundary: 2n + 2 u forward, 3n + 3 u backward, for every recipe (4u and 6u for fracs with n = 1).
TEST(Traffic, BoundaryIsAtTheFloor) {
  for (const Case &c : cases()) {
    SCOPED_TRACE(c.spec);
    Traffic forward = traffic("boundary", c.spec, c.spec), backward = traffic("boundary", c.spec, c.spec, true);
    EXPECT_EQ(forward.reads, c.n + 1);
    EXPECT_EQ(forward.writes, c.n + 1);
    EXPECT_EQ(backward.reads, 2 * c.n + 2);
    EXPECT_EQ(backward.writes, c.n + 1);
  }
}

// Alone: n + 1 before and 2n + 1 after make 3n + 2.
TEST(Traffic, AloneForward) {
  for (const Case &c : cases()) {
    SCOPED_TRACE(c.spec);
    Traffic before = traffic("before", "", c.spec), after = traffic("after", c.spec, "");
    EXPECT_EQ(before.reads + before.writes, c.n + 1);
    EXPECT_EQ(after.reads + after.writes, 2 * c.n + 1);
  }
}

// Alone: 3n + 2 after (X, Y and dX' in, dX and dY out) and 3n + 1 before (X, dU and that dX in, dX out): 27u at n = 4.
// Not the 4n + 3 of late dots, whose kernel behind the branch's backward reads X, Y, dX' and dU at once: to autograd
// the two parts are two nodes with only tensors between them, so each writes dX, which both of its own operands give.
TEST(Traffic, AloneBackward) {
  for (const Case &c : cases()) {
    SCOPED_TRACE(c.spec);
    Traffic before = traffic("before", "", c.spec, true), after = traffic("after", c.spec, "", true);
    EXPECT_EQ(before.reads, 2 * c.n + 1);
    EXPECT_EQ(before.writes, c.n);
    EXPECT_EQ(after.reads, 2 * c.n + 1);
    EXPECT_EQ(after.writes, c.n + 1);
  }
}

TEST(Traffic, BoundaryBetweenVariants) {
  for (const char *after : {"static:n=4,d=512", "dynamic:n=4,d=512", "manifold:n=4,d=512", "permutation:n=4,d=512"})
    for (const char *before : {"static:n=4,d=512", "deepseek:n=4,d=512", "manifold-streams:n=4,d=512"}) {
      SCOPED_TRACE(std::string(after) + "|" + before);
      Traffic forward = traffic("boundary", after, before), backward = traffic("boundary", after, before, true);
      EXPECT_EQ(forward.reads + forward.writes, 10);
      EXPECT_EQ(backward.reads + backward.writes, 15);
    }
}

// Late dots move the same bytes; what is chosen is the cut that leaves less coefficient maths exposed, early where both
// do.
TEST(Traffic, BothCutsAndTheChoice) {
  for (const char *spec : {"static:n=4,d=512", "dynamic:n=4,d=512", "manifold:n=4,d=512"}) {
    SCOPED_TRACE(spec);
    Traffic early = traffic("boundary", spec, spec, true, "early"),
            late = traffic("boundary", spec, spec, true, "late"),
            chosen = traffic("boundary", spec, spec, true, "auto");
    EXPECT_EQ(early.reads + early.writes, 15);
    EXPECT_EQ(late.reads + late.writes, 15);
    EXPECT_NE(early.kernel, late.kernel);
    EXPECT_EQ(chosen.kernel, late.exposed < early.exposed ? late.kernel : early.kernel);
  }
  // The Sinkhorn adjoint stands between the reductions and dX in late dots, in front of them in early dots.
  Traffic early = traffic("boundary", "manifold:n=4,d=512", "manifold:n=4,d=512", true, "early"),
          late = traffic("boundary", "manifold:n=4,d=512", "manifold:n=4,d=512", true, "late");
  EXPECT_LT(early.exposed, late.exposed);
}

// Static sites have no reduction in front of a map: one streaming pass forward.
TEST(Traffic, StaticIsOnePass) {
  EXPECT_EQ(traffic("boundary", "static:n=4,d=512", "static:n=4,d=512").stages, 1);
  EXPECT_EQ(traffic("boundary", "dynamic:n=4,d=512", "dynamic:n=4,d=512").stages, 2);
}

TEST(Pipeline, DifferentFracsAreRefusedByName) {
  mlir::MLIRContext context(mlir::MLIRContext::Threading::DISABLED);
  context.getOrLoadDialect<hc::HCDialect>();
  std::string message, failedPass;
  mlir::ScopedDiagnosticHandler handler(&context, [&](mlir::Diagnostic &diagnostic) {
    message += diagnostic.str();
    return mlir::success();
  });
  CompileRequest request;
  request.role = "boundary";
  request.name = "kernel";
  request.after = site("static:n=4,d=512");
  request.before = site("joint:n=4,m=2,d=512");
  EXPECT_FALSE(buildKernel(&context, request, {}, failedPass));
  EXPECT_EQ(failedPass, "hc-fuse-boundary");
  EXPECT_NE(message.find("both sites need the same streams, fracs, dim and dtype"), std::string::npos) << message;
}

} // namespace

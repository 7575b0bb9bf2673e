//===- Pipeline.cpp - The pass table --------------------------------------===//
// SPDX-License-Identifier: Apache-2.0
//===----------------------------------------------------------------------===//
#include "hyperjit/Pipeline.h"

#include "hyperjit/Dialect/HC/Transforms/Passes.h"

#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"

using namespace mlir;
using namespace hyperjit;

namespace {

constexpr StringLiteral stageNames[] = {"hc", "specialized", "split", "fused", "adjoint", "phases"};

class Pipeline {
public:
  Pipeline(MLIRContext *context, const CompileRequest &request, const StageCallback &onStage, std::string &failedPass)
      : context(context), request(request), shown(onStage), failedPass(failedPass) {}

  OwningOpRef<ModuleOp> run() {
    if (!request.backward || request.role != "boundary" || request.cut == "early")
      return build(/*late=*/false);
    if (request.cut == "late")
      return build(/*late=*/true);
    // Both cuts, without showing their stages; then once more the one that was chosen.
    StageCallback show;
    std::swap(show, shown);
    OwningOpRef<ModuleOp> early = build(false), late = build(true);
    if (!early || !late)
      return {};
    std::swap(show, shown);
    return build(cost(*late) < cost(*early));
  }

private:
  /// Wide traffic first; then the coefficient maths that maps over channels wait for.
  static std::pair<int64_t, int64_t> cost(ModuleOp kernel) {
    hc::FuncOp function = *kernel.getOps<hc::FuncOp>().begin();
    auto number = [&](StringRef name) { return function->getAttrOfType<IntegerAttr>(name).getInt(); };
    return {number("hc.reads_u") + number("hc.writes_u"), number("hc.exposed")};
  }

  OwningOpRef<ModuleOp> build(bool late) {
    module = ModuleOp::create(UnknownLoc::get(context));
    OwningOpRef<ModuleOp> after, before;
    if ((request.after && !(after = parse(*request.after, "a"))) ||
        (request.before && !(before = parse(*request.before, "b"))))
      return {};
    if (!stage("hc", {after.get(), before.get()}))
      return {};
    if ((after && !specialize(*after, *request.after)) || (before && !specialize(*before, *request.before)))
      return {};
    if (!stage("specialized", {after.get(), before.get()}))
      return {};
    // Canonicalization comes after the cut: what crosses, and what each part makes by itself, is what was recorded.
    // Callers allocate by that.
    if (late) {
      // Backward runs the sites the other way round: what the later site deferred, then what the earlier one needs
      // first.
      if (!adjointSite(*before) || !adjointSite(*after) || !stage("adjoint", {after.get(), before.get()}))
        return {};
      if (!split(*before, "after") || !split(*after, "before"))
        return {};
    } else if ((after && !split(*after, "after")) || (before && !split(*before, "before")))
      return {};
    if (!stage("split", {}))
      return {};
    // Before sites are joined: what is saved is the later one's, whatever the earlier one is.
    if (!late && (request.backward || request.save) &&
        (!clean() || !passes("hc-save-reductions", hc::createSaveReductions())))
      return {};
    if (request.role == "boundary" && !passes("hc-fuse-boundary", hc::createFuseBoundary()))
      return {};
    if (!clean() || !stage("fused", {}))
      return {};
    if (late)
      return finish();
    if (request.backward && !differentiate())
      return {};
    if (!clean() || !stage("adjoint", {}))
      return {};
    return finish();
  }

  OwningOpRef<ModuleOp> finish() {
    if (!passes("hc-form-phases", hc::createFormPhases()))
      return {};
    for (hc::FuncOp function : module->getOps<hc::FuncOp>())
      function.setName(request.name);
    if (!stage("phases", {}))
      return {};
    return std::move(module);
  }

  OwningOpRef<ModuleOp> parse(const SiteRequest &site, StringRef name) {
    failedPass = "parse";
    OwningOpRef<ModuleOp> parsed =
        parseSourceString<ModuleOp>(site.program, ParserConfig(context), /*sourceName=*/name);
    if (!parsed)
      return {};
    auto functions = llvm::to_vector(parsed->getOps<hc::FuncOp>());
    if (functions.size() != 1) {
      parsed->emitError("a program holds one hc.func, this one has ") << functions.size();
      return {};
    }
    functions.front().setName(name);
    functions.front()->setAttr("hc.m", IntegerAttr::get(IntegerType::get(context, 64), site.fracs));
    if (site.saved)
      functions.front()->setAttr("hc.saved", IntegerAttr::get(IntegerType::get(context, 64), *site.saved));
    return parsed;
  }

  bool passes(StringRef name, SmallVector<std::unique_ptr<Pass>> list, ModuleOp on = {}) {
    failedPass = name.str();
    PassManager manager(context);
    for (std::unique_ptr<Pass> &pass : list)
      manager.addPass(std::move(pass));
    return succeeded(manager.run(on ? on : *module));
  }
  bool passes(StringRef name, std::unique_ptr<Pass> pass, ModuleOp on = {}) {
    SmallVector<std::unique_ptr<Pass>> list;
    list.push_back(std::move(pass));
    return passes(name, std::move(list), on);
  }
  bool clean(ModuleOp on = {}) {
    SmallVector<std::unique_ptr<Pass>> list;
    list.push_back(createCanonicalizerPass());
    list.push_back(createCSEPass());
    return passes("canonicalize", std::move(list), on);
  }

  bool specialize(ModuleOp site, const SiteRequest &binding) {
    hc::SpecializeOptions options;
    options.width = binding.width;
    options.stream = binding.stream;
    options.branchIn = binding.branchIn;
    options.branchOut = binding.branchOut;
    options.weight = binding.weight;
    return passes("hc-specialize", hc::createSpecialize(options), site);
  }

  /// Moves the wanted part of a split site into the kernel's module.
  bool split(ModuleOp site, StringRef role) {
    if (!passes("hc-split", hc::createSplit(), site))
      return false;
    for (hc::FuncOp function : llvm::make_early_inc_range(site.getOps<hc::FuncOp>()))
      if (auto attr = function->getAttrOfType<StringAttr>("hc.role"); attr && attr.getValue() == role)
        function->moveBefore(module->getBody(), module->getBody()->end());
    return true;
  }

  /// The whole site's adjoint, with the branch's own backward as its hole.
  bool adjointSite(ModuleOp site) {
    hc::DifferentiateOptions options;
    options.given = "xk";
    options.want = "xpk";
    return clean(site) && passes("hc-save-reductions", hc::createSaveReductions(), site) &&
           passes("hc-differentiate", hc::createDifferentiate(options), site) && clean(site);
  }

  bool differentiate() {
    hc::DifferentiateOptions options;
    options.given = request.given;
    options.want = request.want;
    return passes("hc-differentiate", hc::createDifferentiate(options));
  }

  /// Shows a stage; `sites` are the modules that hold it while the kernel's own is still empty.
  bool stage(StringRef name, SmallVector<ModuleOp> sites) {
    if (!shown)
      return true;
    bool any = false, goOn = true;
    for (ModuleOp site : sites)
      if (site) {
        any = true;
        goOn &= shown(name, site);
      }
    return any ? goOn : shown(name, *module);
  }

  MLIRContext *context;
  const CompileRequest &request;
  StageCallback shown;
  std::string &failedPass;
  OwningOpRef<ModuleOp> module;
};

} // namespace

ArrayRef<StringLiteral> hyperjit::pipelineStages() { return stageNames; }

OwningOpRef<ModuleOp> hyperjit::buildKernel(MLIRContext *context, const CompileRequest &request,
                                            const StageCallback &onStage, std::string &failedPass) {
  return Pipeline(context, request, onStage, failedPass).run();
}

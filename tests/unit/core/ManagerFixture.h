// A manager with recipes, compiler and back end of the tests' own, so that every order of events can be had.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Support.h"

#include "hyperjit/core/KernelManager.h"
#include "hyperjit/core/SpecList.h"

#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

namespace hyperjit::test {
using namespace std::chrono_literals;

/// Any recipe; the option `layer` is a module option.
class FakeSource final : public ProgramSource {
public:
  std::vector<std::string> recipes() const override { return {"one"}; }
  RecipeInfo describe(std::string_view recipe) const override { return {std::string(recipe), "", "", "", {}}; }
  SiteSpec normalise(const SiteSpec &spec) const override {
    if (spec.recipe == "unknown")
      throw UserError(ErrorId::UnknownRecipe, unknownWord("recipe", spec.recipe, {"one"}));
    SiteSpec result = spec;
    std::erase_if(result.options, [](const auto &option) { return option.first == "layer"; });
    return result;
  }
  std::shared_ptr<const SiteProgram> site(const SiteSpec &spec) override {
    auto program = std::make_shared<SiteProgram>();
    program->signature.saved = saved;
    program->spec = normalise(spec);
    program->text = "program of " + spec.recipe + suffix;
    program->digest = digestText(program->text);
    return program;
  }
  std::vector<ParameterInfo> parameters(const SiteSpec &) override { return {}; }
  std::string suffix;
  int64_t saved = 1;
};

class FakeCompiler final : public Compiler {
public:
  std::string version() override { return "fake 1"; }
  CompilerReply run(const std::string &request) override {
    nlohmann::json asked = nlohmann::json::parse(request);
    {
      std::lock_guard lock(mutex);
      last = asked;
    }
    ++runs; // who sees it may fork: nothing is held from here on
    std::string spec = asked["spec"];
    if (spec.find("slow") != std::string::npos)
      while (blocked)
        std::this_thread::sleep_for(1ms);
    if (failures > 0) {
      --failures;
      throw InternalError(ErrorId::CompilerBug, "it failed", spec);
    }
    if (!illegal.empty() && asked["schedule"] == illegal)
      throw UserError(ErrorId::Unsupported, illegal + " is not legal");
    if (asked["stage"] != "")
      return {R"({"stage": "x"})", "text of " + std::string(asked["stage"])};
    ArtifactMeta meta = sampleMeta();
    meta.spec = spec;
    meta.target = asked["target"];
    return {meta.json(), "code of " + spec + salt};
  }
  std::atomic<int> runs{0}, failures{0};
  std::atomic<bool> blocked{false};
  std::string salt, illegal;
  std::mutex mutex; ///< several compile at once
  nlohmann::json last;
};

class FakeKernel final : public Kernel {
public:
  using Kernel::Kernel;

private:
  void run(void *const *, void *, int64_t, const LaunchContext &) const override {}
};

class FakeBackend final : public Backend {
public:
  DeviceType device() const override { return DeviceType::Cpu; }
  std::string toolchain() const override {
    if (!hasToolchain)
      throw UserError(ErrorId::LibraryMissing, "no toolchain");
    return "fake toolchain";
  }
  std::string flags(const Target &) const override { return "-O"; }
  Artifact build(ArtifactMeta meta, std::string payload, const Target &, const Workers &) const override {
    Artifact artifact;
    artifact.meta = std::move(meta);
    for (char c : payload)
      artifact.payload.push_back(std::byte(c));
    return artifact;
  }
  std::shared_ptr<const Kernel> load(std::shared_ptr<const Artifact> artifact) const override {
    if (rejects > 0) {
      --rejects;
      throw InternalError(ErrorId::ImageRejected, "the driver does not like it");
    }
    return std::make_shared<FakeKernel>(std::move(artifact));
  }
  bool hasToolchain = true;
  mutable std::atomic<int> rejects{0};
};

inline const Target cpu = Target::parse("x86-64-v3");
inline KernelSpec spec(const std::string &site) {
  return KernelSpec::beforeForward(SiteSpec::parse(site), true, Bucket::Large);
}

struct ManagerTest : testing::Test {
  TemporaryFolder folder;
  FakeSource source;
  std::shared_ptr<FakeCompiler> compiler = std::make_shared<FakeCompiler>();
  std::shared_ptr<FakeBackend> backend = std::make_shared<FakeBackend>();
  Settings settings;
  std::function<Schedule(const KernelSpec &, const Target &)> tuning;

  ManagerTest() {
    settings.cacheDirectory = folder / "cache";
    settings.compileJobs = 2;
  }
  KernelManagerOptions options() const {
    KernelManagerOptions options;
    options.settings = settings;
    options.programs = const_cast<FakeSource *>(&source);
    options.compiler = compiler;
    options.backends = {backend};
    options.tuning = tuning;
    return options;
  }
};

} // namespace hyperjit::test

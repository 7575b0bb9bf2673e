// SPDX-License-Identifier: Apache-2.0
#include "Stub.h"

#include "hyperjit/core/Error.h"

#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <random>
#include <thread>
#include <unistd.h>

namespace hyperjit::stub {

namespace {

class StubSource final : public ProgramSource {
public:
  std::vector<std::string> recipes() const override { return {"one"}; }
  RecipeInfo describe(std::string_view recipe) const override { return {std::string(recipe), "", "", "", {}}; }
  SiteSpec normalise(const SiteSpec &spec) const override { return spec; }
  std::shared_ptr<const SiteProgram> site(const SiteSpec &spec) override {
    auto program = std::make_shared<SiteProgram>();
    program->signature.saved = 1; // else forward in training is forward without gradients
    program->spec = spec;
    program->text = "program of " + spec.recipe;
    program->digest = digestText(program->text);
    return program;
  }
  std::vector<ParameterInfo> parameters(const SiteSpec &) override { return {}; }
};

class StubCompiler final : public Compiler {
public:
  explicit StubCompiler(Options options) : options(std::move(options)) {}
  std::string version() override { return "stub 1"; }
  CompilerReply run(const std::string &request) override {
    nlohmann::json asked = nlohmann::json::parse(request);
    std::string spec = asked["spec"];
    if (options.compileMilliseconds)
      std::this_thread::sleep_for(std::chrono::milliseconds(options.compileMilliseconds));
    if (!options.log.empty()) {
      int file = ::open(options.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
      std::string line = spec + "\n";
      if (file < 0 || ::write(file, line.data(), line.size()) != ssize_t(line.size()))
        std::abort();
      ::close(file);
    }
    ArtifactMeta meta;
    meta.spec = spec;
    meta.target = asked["target"];
    meta.schedule = asked["schedule"];
    std::vector<std::byte> bytes = code(spec, options.salt);
    return {meta.json(), std::string(reinterpret_cast<const char *>(bytes.data()), bytes.size())};
  }

private:
  Options options;
};

class StubKernel final : public Kernel {
public:
  using Kernel::Kernel;
  const std::vector<std::byte> &payload() const { return artifact->payload; }

private:
  void run(void *const *, void *, int64_t, const LaunchContext &) const override {}
};

class StubBackend final : public Backend {
public:
  explicit StubBackend(const Options &options) : options(options), rejects(options.rejects) {}
  DeviceType device() const override { return DeviceType::Cpu; }
  std::string toolchain() const override {
    if (!options.hasToolchain)
      throw UserError(ErrorId::LibraryMissing, "the toolchain is not here");
    return options.toolchain;
  }
  std::string flags(const Target &) const override { return "-O"; }
  Artifact build(ArtifactMeta meta, std::string payload, const Target &, const Workers &) const override {
    Artifact artifact;
    artifact.meta = std::move(meta);
    artifact.payload.resize(payload.size());
    std::memcpy(artifact.payload.data(), payload.data(), payload.size());
    return artifact;
  }
  std::shared_ptr<const Kernel> load(std::shared_ptr<const Artifact> artifact) const override {
    if (rejects > 0) {
      --rejects;
      throw InternalError(ErrorId::ImageRejected, "CUDA_ERROR_NO_BINARY_FOR_GPU");
    }
    return std::make_shared<StubKernel>(std::move(artifact));
  }

private:
  Options options;
  mutable std::atomic<int> rejects;
};

} // namespace

KernelSpec spec(int i) {
  return KernelSpec::beforeForward(SiteSpec::parse("one:d=" + std::to_string(8 + i)), true, Bucket::Large);
}

Target target() { return Target::parse("x86-64-v3"); }

Settings settings(const std::string &root) {
  Settings settings;
  settings.cacheDirectory = root;
  settings.compileJobs = 2;
  return settings;
}

KernelManagerOptions manager(const Settings &settings, const Options &options) {
  static StubSource source;
  KernelManagerOptions made;
  made.settings = settings;
  made.programs = &source;
  made.compiler = std::make_shared<StubCompiler>(options);
  made.backends = {std::make_shared<StubBackend>(options)};
  return made;
}

const std::vector<std::byte> &payload(const Kernel &kernel) {
  return dynamic_cast<const StubKernel &>(kernel).payload();
}

std::vector<std::byte> code(const std::string &spec, const std::string &salt) {
  std::seed_seq seed(spec.begin(), spec.end());
  std::mt19937_64 generator(seed);
  std::vector<std::byte> bytes(1024 + generator() % (39 * 1024));
  for (std::byte &byte : bytes)
    byte = std::byte(generator() & 15); // compresses to a half
  for (size_t i = 0; i < salt.size(); ++i)
    bytes[i] ^= std::byte(salt[i]);
  return bytes;
}

bool right(const Kernel &kernel, int i) {
  std::string text = spec(i).text();
  return kernel.meta().spec == text && payload(kernel) == code(text);
}

CacheKey key(int i) {
  KeyFields fields;
  fields.spec = spec(i).text();
  return CacheKey::of(fields);
}

Artifact artifact(int i) {
  Artifact artifact;
  artifact.kind = PayloadKind::Cubin;
  artifact.meta.spec = spec(i).text();
  artifact.meta.target = "sm_90a";
  artifact.meta.schedule = "auto";
  artifact.payload = code(artifact.meta.spec);
  return artifact;
}

bool right(const Artifact &artifact, int i) {
  std::string text = spec(i).text();
  return artifact.meta.spec == text && artifact.payload == code(text);
}

} // namespace hyperjit::stub

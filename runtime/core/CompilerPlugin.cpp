// CompilerPlugin.cpp - finds, opens and calls libhyperjit-compiler.so.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/CompilerPlugin.h"

#include "hyperjit/Compiler.h"
#include "hyperjit/core/CacheKey.h"
#include "hyperjit/core/Environment.h"
#include "hyperjit/core/Error.h"
#include "hyperjit/core/KernelSpec.h"
#include "hyperjit/core/Log.h"

#include <cstdlib>
#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

using namespace hyperjit;

static constexpr std::string_view kFile = "libhyperjit-compiler.so";

Compiler::~Compiler() = default;

std::string_view hyperjit::llvmVersion() { return HYPERJIT_LLVM_VERSION; }

struct CompilerPlugin::State {
  std::string wanted;
  std::mutex mutex;
  std::string opened;
  const HyperjitCompiler *table = nullptr;
};

CompilerPlugin::CompilerPlugin() : CompilerPlugin(std::string()) {}
CompilerPlugin::CompilerPlugin(std::string path) : state(std::make_unique<State>()) { state->wanted = std::move(path); }
// The plugin stays mapped: LLVM's global state does not survive being unloaded.
CompilerPlugin::~CompilerPlugin() = default;

static std::string inFolder(std::string path) {
  struct stat status;
  if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode))
    path += "/" + std::string(kFile);
  return path;
}

std::vector<std::string> CompilerPlugin::candidates() const {
  if (!state->wanted.empty())
    return {inFolder(state->wanted)};
  if (std::optional<std::string> path = environment("HYPERJIT_COMPILER_PATH"))
    return {inFolder(*path)};
  // Beside the library this code is in; for a program that holds this code itself, in the lib/ next to its bin/.
  std::vector<std::string> list;
  Dl_info info;
  if (::dladdr(reinterpret_cast<void *>(&inFolder), &info) && info.dli_fname) {
    char *real = ::realpath(info.dli_fname, nullptr);
    std::string path = real ? real : info.dli_fname;
    std::free(real);
    size_t slash = path.rfind('/');
    std::string folder = slash == std::string::npos ? "." : path.substr(0, slash);
    list.push_back(fmt::format("{}/{}", folder, kFile));
    list.push_back(fmt::format("{}/../lib/{}", folder, kFile));
  }
  return list;
}

/// Why a table cannot be used; empty if it can.
static std::string misfit(const HyperjitCompiler *table) {
  if (!table)
    return fmt::format("it does not speak interface version {}", HYPERJIT_COMPILER_ABI);
  if (table->abi != HYPERJIT_COMPILER_ABI)
    return fmt::format("it speaks interface version {}, this library {}", table->abi, HYPERJIT_COMPILER_ABI);
  if (!table->run || !table->version)
    return "its table is incomplete";
  // The key of CPU kernels names the LLVM that the build found: another one must not write under that name.
  std::string_view expected = llvmVersion();
  std::string_view version = table->version;
  if (!expected.empty() && version.starts_with("llvm ") && !version.substr(5).starts_with(expected))
    return fmt::format("it is of another build: {}, this library expects llvm {}", version, expected);
  // So does that of every kernel name the compiler's sources.
  std::string_view sources = compilerDigest().substr(0, 16);
  if (version.find(", sources ") != std::string_view::npos && !version.ends_with(sources))
    return fmt::format("it is made of other sources: {}, this library of {}; build both", version, sources);
  return {};
}

void CompilerPlugin::open() {
  std::lock_guard guard(state->mutex);
  if (state->table)
    return;
  std::vector<std::string> tried;
  for (const std::string &path : candidates()) {
    struct stat status;
    if (::stat(path.c_str(), &status) != 0) {
      tried.push_back(fmt::format("{}: no such file", path));
      continue;
    }
    void *handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
      const char *why = ::dlerror();
      tried.push_back(fmt::format("{}: {}", path, why ? why : "cannot be loaded"));
      continue;
    }
    auto entry = reinterpret_cast<HyperjitCompilerEntry>(::dlsym(handle, HYPERJIT_COMPILER_ENTRY));
    if (!entry) {
      tried.push_back(fmt::format("{}: it has no symbol {}", path, HYPERJIT_COMPILER_ENTRY));
      ::dlclose(handle);
      continue;
    }
    const HyperjitCompiler *table = entry(HYPERJIT_COMPILER_ABI);
    if (std::string why = misfit(table); !why.empty()) {
      tried.push_back(fmt::format("{}: {}", path, why));
      continue;
    }
    state->table = table;
    state->opened = path;
    log(LogLevel::Info, fmt::format("compiler {} ({})", path, table->version));
    return;
  }
  throw UserError(ErrorId::CompilerMissing,
                  fmt::format("a kernel has to be compiled and the compiler plugin cannot be opened:\n  {}\nBuild the "
                              "target hyperjit-compiler, or set HYPERJIT_COMPILER_PATH to {} or its folder, or use "
                              "kernels compiled elsewhere (HYPERJIT_CACHE_PATH).",
                              fmt::join(tried, "\n  "), kFile));
}

std::string CompilerPlugin::path() const {
  std::lock_guard guard(state->mutex);
  return state->opened;
}

std::string CompilerPlugin::version() {
  open();
  return state->table->version;
}

/// A command that shows the same failure again, made from the request.
static std::string reproducer(const nlohmann::json &request) {
  std::string text = request.value("spec", "");
  try {
    KernelSpec spec = KernelSpec::parse(text);
    std::string site = spec.role == Role::Boundary
                           ? fmt::format("boundary({}|{})", spec.after->text(), spec.before->text())
                       : spec.after ? spec.after->text()
                                    : spec.before->text();
    std::string stage = request.value("stage", "");
    return fmt::format("hyperjit show '{}' --role {} --direction {} --tokens {} --target {}{}   (kernel {}; a recipe "
                       "of your own needs --load or --recipe)",
                       site, name(spec.role), name(spec.direction), name(spec.bucket), request.value("target", ""),
                       stage.empty() ? "" : " --stage " + stage, text);
  } catch (const std::exception &) {
    return text;
  }
}

CompilerReply CompilerPlugin::run(const std::string &request) {
  open();
  CompilerReply reply;
  bool answered = false;
  auto receive = [&](const char *json, size_t jsonSize, const void *payload, size_t payloadSize) {
    answered = true;
    reply.json.assign(json, jsonSize);
    reply.payload.assign(static_cast<const char *>(payload), payload ? payloadSize : 0);
  };
  HyperjitSink sink = [](void *context, const char *json, size_t jsonSize, const void *payload, size_t payloadSize) {
    (*static_cast<decltype(receive) *>(context))(json, jsonSize, payload, payloadSize);
  };
  int failed = state->table->run(request.data(), request.size(), sink, &receive);
  if (!failed && answered)
    return reply;
  nlohmann::json asked = nlohmann::json::parse(request, nullptr, false);
  nlohmann::json answer = nlohmann::json::parse(reply.json, nullptr, false);
  if (!answered || !answer.is_object() || !answer.contains("error") || !answer["error"].is_string())
    throw InternalError(ErrorId::CompilerBug, "the compiler gave no answer", reproducer(asked));
  std::string message = answer["error"].get<std::string>();
  if (answer.value("kind", "internal") == "user")
    throw UserError(ErrorId::Unsupported, message);
  std::string pass = answer.value("pass", "");
  throw InternalError(ErrorId::CompilerBug,
                      pass.empty() ? fmt::format("the compiler failed: {}", message)
                                   : fmt::format("the compiler failed in {}: {}", pass, message),
                      reproducer(asked));
}

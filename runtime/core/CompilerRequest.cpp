// CompilerRequest.cpp - the JSON that the compiler plugin is asked with.
// SPDX-License-Identifier: Apache-2.0
#include "CompilerRequest.h"

#include <nlohmann/json.hpp>

using namespace hyperjit;

std::string hyperjit::compilerRequest(const ResolvedKernel &kernel, const Target &target, std::string_view stage,
                                      size_t list, std::string_view cut) {
  auto site = [](const std::shared_ptr<const SiteProgram> &program) -> nlohmann::json {
    if (!program)
      return nullptr;
    const SiteSpec &spec = program->spec;
    return {{"program", program->text},           {"d", spec.rowWidth()},        {"m", spec.m},
            {"saved", program->signature.saved},  {"stream", name(spec.stream)}, {"branch_in", name(spec.branchIn)},
            {"branch_out", name(spec.branchOut)}, {"weight", name(spec.weight)}};
  };
  nlohmann::json object = {
      {"spec", kernel.spec.text()},  {"role", name(kernel.spec.role)},     {"direction", name(kernel.spec.direction)},
      {"save", kernel.spec.save},    {"given", kernel.spec.given},         {"want", kernel.spec.want},
      {"after", site(kernel.after)}, {"before", site(kernel.before)},      {"bucket", name(kernel.spec.bucket)},
      {"target", target.text()},     {"schedule", kernel.schedule.text()}, {"stage", stage}};
  if (list) {
    object["list"] = list;
    object["machine"] = {{"shared_bytes", target.sharedBytes}, {"processors", target.processors},
                         {"registers", target.registers},      {"processor_threads", target.processorThreads},
                         {"max_cluster", target.maxCluster},   {"copy_gbs", target.copyGBs}};
  }
  if (!cut.empty())
    object["cut"] = cut;
  return object.dump();
}

// SpecList.cpp - lines of a spec list.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/SpecList.h"

#include "Text.h"
#include "hyperjit/core/Error.h"

#include <algorithm>
#include <fmt/format.h>
#include <string>

using namespace hyperjit;

bool hyperjit::isKernelText(std::string_view text) {
  return text.find("):") != std::string_view::npos &&
         (text.starts_with("before(") || text.starts_with("boundary(") || text.starts_with("after("));
}

KernelSpec hyperjit::normalise(const KernelSpec &kernel, ProgramSource &programs) {
  KernelSpec result = kernel;
  for (auto *site : {&result.after, &result.before})
    if (*site)
      **site = programs.normalise(**site);
  if (result.direction == Direction::Forward)
    result.given = result.want = {};
  // What saves nothing is one kernel, whoever asks.
  if (result.direction == Direction::Backward || result.role == Role::After ||
      (result.save && result.before && programs.site(*result.before)->signature.saved == 0))
    result.save = false;
  result.validate();
  return result;
}

KernelSpec hyperjit::trainingKernel(ProgramSource &programs, const SiteSpec &afterSite, const SiteSpec &beforeSite,
                                    Role role, Direction direction, Bucket bucket) {
  std::optional<SiteSpec> after, before;
  if (role != Role::Before)
    after = afterSite;
  if (role != Role::After)
    before = beforeSite;
  if (direction == Direction::Forward) {
    const bool save = before && programs.site(*before)->signature.saved > 0;
    return role == Role::Before     ? KernelSpec::beforeForward(*before, save, bucket)
           : role == Role::Boundary ? KernelSpec::boundaryForward(*after, *before, save, bucket)
                                    : KernelSpec::afterForward(*after, bucket);
  }
  auto crosses = [](const SiteSignature &s) { return s.tokenCoefficients + s.uniformCoefficients + s.channelRows > 0; };
  std::string given = "x", want = "x"; // a chain's first site hands its streams on
  if (after) {
    want += "y";
    if (crosses(programs.site(*after)->signature))
      want += "c";
  }
  if (before) {
    auto program = programs.site(*before);
    given += "u";
    if (crosses(program->signature))
      given += "c";
    if (!program->signature.carriesOut.empty())
      given += "k";
    if (!program->parameters.empty())
      want += "p";
    if (!program->signature.carriesIn.empty())
      want += "k";
  }
  return KernelSpec::backward(after, before, given, want, bucket);
}

std::vector<KernelSpec> hyperjit::allKernels(ProgramSource &programs, const SiteSpec &after, const SiteSpec &before) {
  std::vector<KernelSpec> kernels;
  for (Bucket bucket : {Bucket::Large, Bucket::Small})
    for (Role role : {Role::Before, Role::Boundary, Role::After}) {
      kernels.push_back(trainingKernel(programs, after, before, role, Direction::Forward, bucket));
      if (kernels.back().save) { // else forward without gradients is the same kernel
        kernels.push_back(kernels.back());
        kernels.back().save = false;
      }
      kernels.push_back(trainingKernel(programs, after, before, role, Direction::Backward, bucket));
    }
  return kernels;
}

std::vector<SpecLine> hyperjit::specLines(std::istream &file) {
  std::vector<SpecLine> lines;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (std::string_view text = text::trim(std::string_view(line).substr(0, line.find('#'))); !text.empty())
      lines.push_back({number, std::string(text)});
  }
  return lines;
}

std::pair<SiteSpec, SiteSpec> hyperjit::sitesOf(std::string_view line, ProgramSource &programs) {
  auto site = [&](std::string_view text) {
    SiteSpec spec = programs.normalise(SiteSpec::parse(text));
    spec.validate();
    return spec;
  };
  if (!line.starts_with("boundary(") || !line.ends_with(")")) {
    SiteSpec only = site(line);
    return {only, only};
  }
  const auto bars = std::count(line.begin(), line.end(), '|');
  if (bars != 1)
    throw UserError(ErrorId::InvalidSpec, fmt::format("'{}' names {} site{}; a boundary is written boundary(spec|spec)",
                                                      line, bars ? std::to_string(bars + 1) : "one", bars ? "s" : ""));
  size_t bar = line.find('|');
  std::pair<SiteSpec, SiteSpec> sites{site(line.substr(9, bar - 9)), site(line.substr(bar + 1, line.size() - bar - 2))};
  KernelSpec::boundaryForward(sites.first, sites.second, /*save=*/false, Bucket::Large)
      .validate(); // they fit each other
  return sites;
}

std::vector<KernelSpec> hyperjit::kernelsOf(std::string_view line, ProgramSource &programs) {
  if (isKernelText(line))
    return {normalise(KernelSpec::parse(line), programs)};
  const auto [after, before] = sitesOf(line, programs);
  return allKernels(programs, after, before);
}

// CpuBackend.h - the CPU back end: images come closed from the compiler, so building keeps them as they are and loading
// maps them. Registers itself.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CPU_CPUBACKEND_H
#define HYPERJIT_CPU_CPUBACKEND_H

#include "hyperjit/core/Backend.h"

namespace hyperjit {

class CpuBackend final : public Backend {
public:
  DeviceType device() const override { return DeviceType::Cpu; }
  std::string toolchain() const override;
  std::string flags(const Target &target) const override;
  Artifact build(ArtifactMeta meta, std::string payload, const Target &target, const Workers &workers) const override;
  std::shared_ptr<const Kernel> load(std::shared_ptr<const Artifact> artifact) const override;
};

} // namespace hyperjit

#endif // HYPERJIT_CPU_CPUBACKEND_H

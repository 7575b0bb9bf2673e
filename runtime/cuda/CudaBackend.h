// CudaBackend.h - the CUDA back end: NVRTC with the embedded template headers, modules per device, launches. Registers
// itself; works without a driver up to loading.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CUDA_CUDABACKEND_H
#define HYPERJIT_CUDA_CUDABACKEND_H

#include "hyperjit/core/Backend.h"

namespace hyperjit::cuda {

class CudaBackend final : public Backend {
public:
  DeviceType device() const override { return DeviceType::Cuda; }
  std::string toolchain() const override;
  std::string flags(const Target &target) const override;
  Artifact build(ArtifactMeta meta, std::string payload, const Target &target, const Workers &workers) const override;
  std::string assembly(const std::string &payload, const Target &target) const override;
  std::shared_ptr<const Kernel> load(std::shared_ptr<const Artifact> artifact) const override;
};

/// One header of templates/, embedded by the build.
struct TemplateHeader {
  const char *name; ///< as included: "hyperjit/rows.cuh"
  const char *text;
};
/// Ends with a null name.
extern const TemplateHeader templateHeaders[];

} // namespace hyperjit::cuda

#endif // HYPERJIT_CUDA_CUDABACKEND_H

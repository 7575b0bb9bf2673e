// Target.h - what code is made for: an instruction set and a named profile of a shipped table. All that the cost model
// reads is here, so a kernel can be compiled, and its key computed, without the device.
//
//   target ::= "sm_" NN ["a"] ["/" profile]           sm_90a/h100, sm_90a/h200, sm_90a, sm_80, ...
//            | "x86-64-v3" | "x86-64-v4"              a level of the x86-64 psABI
//            | triple "/" cpu "/" features            this host's, what "native" stands for
//   features ::= "+" name {",+" name}                 sorted, LLVM's names
//
// `native` names the psABI level as the CPU and lists what the host has beyond it: a model name would promise features
// that a hypervisor may have taken away.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_TARGET_H
#define HYPERJIT_CORE_TARGET_H

#include "hyperjit/core/Export.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hyperjit {

enum class DeviceType : uint8_t { Cpu, Cuda };
HYPERJIT_EXPORT std::string_view name(DeviceType device); ///< cpu | cuda

struct HYPERJIT_EXPORT Target {
  DeviceType device = DeviceType::Cpu;
  std::string isa;          ///< sm_90a | x86-64-v3 | host triple
  std::string profile;      ///< h100, or empty for the generic profile of the ISA
  std::string cpu;          ///< CPU only: LLVM's -mcpu
  std::string features;     ///< CPU only: LLVM's -mattr beyond `cpu`, sorted; "" for the named levels
  int processors = 1;       ///< SMs; CPU: 1, the thread count never shapes code
  int64_t sharedBytes = 0;  ///< dynamic shared memory a block may ask for
  int registers = 0;        ///< 32-bit registers of one SM; CPU: vector registers
  int processorThreads = 0; ///< resident threads of one SM
  int maxCluster = 1;       ///< blocks of a cluster; 1 where there are none
  double copyGBs = 0;       ///< copy bandwidth, read plus write, for the cost model

  /// Canonical text; parse(text()) == *this. This text is what the key and the compiler plugin get.
  std::string text() const;
  /// Compute capability digits, 90 for sm_90a; 0 on a CPU.
  int computeCapability() const;

  /// A name of the table, "native", or the text of a native target.
  /// Throws UserError (UnknownTarget) with the nearest name and the list.
  static Target parse(std::string_view text);
  /// The shipped profiles in the order of the table.
  static std::span<const Target> table();
  /// The names of `table()` and "native".
  static std::vector<std::string> names();
  /// This host: psABI level and further features, read from cpuid. Throws UserError (Unsupported) off x86-64.
  static Target native();
  /// The best named level that this host runs: x86-64-v4 or x86-64-v3, else native().
  static Target hostLevel();
  /// The profile for a device: exact product where the table has it, else the generic one of the capability, else
  /// the nearest older capability of the same major version. `deviceName` is what the driver calls it.
  /// Throws UserError (UnknownTarget) below sm_80.
  static Target forCudaDevice(int major, int minor, std::string_view deviceName);
  /// Whether this host can run code for a CPU target.
  bool runsHere() const;

  bool operator==(const Target &) const = default;
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_TARGET_H

// Target.cpp - the shipped table of profiles, and this host as a target.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Target.h"

#include "Text.h"
#include "hyperjit/core/Error.h"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

using namespace hyperjit;

static constexpr int64_t KiB = 1024;

static Target gpu(std::string isa, std::string profile, int processors, int64_t sharedKiB, int threads, int maxCluster,
                  double copyGBs) {
  Target target;
  target.device = DeviceType::Cuda;
  target.isa = std::move(isa);
  target.profile = std::move(profile);
  target.processors = processors;
  target.sharedBytes = (sharedKiB - 1) * KiB; // the driver keeps 1 KiB of each block
  target.registers = 65536;
  target.processorThreads = threads;
  target.maxCluster = maxCluster;
  target.copyGBs = copyGBs;
  return target;
}

static Target processor(std::string isa, std::string name, std::string features, int registers) {
  Target target;
  target.isa = std::move(isa);
  target.cpu = std::move(name);
  target.features = std::move(features);
  target.registers = registers;
  target.copyGBs = 20;
  return target;
}

/// SMs, shared memory KiB an SM, threads an SM, cluster, GB/s of a copy. H100 and H200: measured;
/// others: 0.88 of the data sheet's memory rate, as measured on those two.
static const std::vector<Target> &shipped() {
  static const std::vector<Target> table = {
      gpu("sm_80", "", 108, 164, 2048, 1, 1370), // A100 40 GB
      gpu("sm_86", "", 84, 100, 1536, 1, 610),   // A40, RTX 3090
      gpu("sm_89", "", 142, 100, 1536, 1, 760),  // L40S; RTX 4090 is close
      gpu("sm_90a", "", 132, 228, 2048, 8, 3000),     gpu("sm_90a", "h100", 132, 228, 2048, 8, 3020), // SXM5, HBM3
      gpu("sm_90a", "h200", 132, 228, 2048, 8, 4252), gpu("sm_100a", "", 148, 228, 2048, 8, 6800),    // B200
      gpu("sm_103a", "", 148, 228, 2048, 8, 7000),                                                    // B300
      gpu("sm_120", "", 170, 100, 1536, 8, 1570),                                                     // RTX 5090
      gpu("sm_121", "", 48, 100, 1536, 8, 240),                                                       // GB10
      processor("x86-64-v3", "x86-64-v3", "", 16),    processor("x86-64-v4", "x86-64-v4", "", 32),
  };
  return table;
}

std::string_view hyperjit::name(DeviceType device) { return device == DeviceType::Cpu ? "cpu" : "cuda"; }

std::span<const Target> Target::table() { return shipped(); }

std::vector<std::string> Target::names() {
  std::vector<std::string> names;
  for (const Target &target : shipped())
    names.push_back(target.text());
  names.push_back("native");
  return names;
}

std::string Target::text() const {
  if (device == DeviceType::Cuda)
    return profile.empty() ? isa : isa + "/" + profile;
  return isa == cpu ? isa : fmt::format("{}/{}/{}", isa, cpu, features);
}

int Target::computeCapability() const {
  if (device != DeviceType::Cuda)
    return 0;
  std::string_view digits = std::string_view(isa).substr(3);
  while (!digits.empty() && !text::isDigit(digits.back()))
    digits.remove_suffix(1);
  return text::number<int>(digits).value_or(0);
}

Target Target::parse(std::string_view whole) {
  std::string_view text = text::trim(whole);
  if (text == "native")
    return native();
  for (const Target &target : shipped())
    if (target.text() == text)
      return target;
  // The text of some host's native target.
  std::vector<std::string_view> pieces = text::split(text, '/');
  if (pieces.size() == 3 && pieces[0].starts_with("x86_64-") && pieces[1].starts_with("x86-64")) {
    std::string_view previous;
    bool sound = true;
    if (!pieces[2].empty())
      for (std::string_view feature : text::split(pieces[2], ',')) {
        sound = sound && feature.size() > 1 && feature[0] == '+' && previous < feature &&
                std::all_of(feature.begin() + 1, feature.end(), [](char c) {
                  return text::isLower(c) || text::isDigit(c) || c == '.' || c == '-' || c == '_';
                });
        previous = feature;
      }
    bool wide = pieces[1] == "x86-64-v4";
    bool avx = wide || pieces[1] == "x86-64-v3";
    if (sound && (avx || pieces[1] == "x86-64-v2" || pieces[1] == "x86-64"))
      return processor(std::string(pieces[0]), std::string(pieces[1]), std::string(pieces[2]), wide ? 32 : 16);
  }
  throw UserError(ErrorId::UnknownTarget, unknownWord("target", whole, names()));
}

#if defined(__x86_64__)
namespace {
/// What cpuid and the operating system (XCR0) grant together.
struct Host {
  uint32_t leaf1c = 0, leaf7b = 0, leaf7c = 0, leaf7d = 0, leaf71a = 0, leaf81c = 0;
  bool ymm = false, zmm = false;

  Host() {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d))
      leaf1c = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
      leaf7b = b, leaf7c = c, leaf7d = d;
      if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
        leaf71a = a;
    }
    if (__get_cpuid(0x80000001, &a, &b, &c, &d))
      leaf81c = c;
    if (leaf1c & (1u << 27)) {
      uint32_t low, high;
      __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
      ymm = (low & 0x6) == 0x6;
      zmm = (low & 0xe6) == 0xe6;
    }
  }
  static bool bit(uint32_t word, int position) { return word >> position & 1; }
  bool v2() const {
    // sse3 ssse3 cx16 sse4.1 sse4.2 popcnt, lahf
    return bit(leaf1c, 0) && bit(leaf1c, 9) && bit(leaf1c, 13) && bit(leaf1c, 19) && bit(leaf1c, 20) &&
           bit(leaf1c, 23) && bit(leaf81c, 0);
  }
  bool v3() const {
    // fma movbe f16c avx, bmi avx2 bmi2, lzcnt
    return v2() && ymm && bit(leaf1c, 12) && bit(leaf1c, 22) && bit(leaf1c, 29) && bit(leaf1c, 28) && bit(leaf7b, 3) &&
           bit(leaf7b, 5) && bit(leaf7b, 8) && bit(leaf81c, 5);
  }
  bool v4() const {
    // avx512 f dq cd bw vl
    return v3() && zmm && bit(leaf7b, 16) && bit(leaf7b, 17) && bit(leaf7b, 28) && bit(leaf7b, 30) && bit(leaf7b, 31);
  }
  std::string level() const { return v4() ? "x86-64-v4" : v3() ? "x86-64-v3" : v2() ? "x86-64-v2" : "x86-64"; }
  /// Features that change numeric code, beyond the level, sorted.
  std::string features() const {
    std::vector<std::string_view> list;
    auto add = [&](bool there, std::string_view name) {
      if (there)
        list.push_back(name);
    };
    if (v4()) {
      add(bit(leaf71a, 5), "+avx512bf16");
      add(bit(leaf7c, 12), "+avx512bitalg");
      add(bit(leaf7d, 23), "+avx512fp16");
      add(bit(leaf7b, 21), "+avx512ifma");
      add(bit(leaf7c, 1), "+avx512vbmi");
      add(bit(leaf7c, 6), "+avx512vbmi2");
      add(bit(leaf7c, 11), "+avx512vnni");
      add(bit(leaf7c, 14), "+avx512vpopcntdq");
    }
    if (v3())
      add(bit(leaf71a, 4), "+avxvnni");
    std::sort(list.begin(), list.end());
    return fmt::format("{}", fmt::join(list, ","));
  }
};
const Host &host() {
  static const Host value;
  return value;
}
} // namespace

Target Target::native() {
  const Host &found = host();
  return processor("x86_64-unknown-linux-gnu", found.level(), found.features(), found.v4() ? 32 : 16);
}

Target Target::hostLevel() {
  std::string level = host().level();
  for (const Target &target : shipped())
    if (target.device == DeviceType::Cpu && target.isa == level)
      return target;
  return native();
}

bool Target::runsHere() const {
  if (device != DeviceType::Cpu)
    return false;
  const Host &found = host();
  bool level = cpu == "x86-64" || (cpu == "x86-64-v2" && found.v2()) || (cpu == "x86-64-v3" && found.v3()) ||
               (cpu == "x86-64-v4" && found.v4());
  if (!level || features.empty())
    return level;
  // A feature string is compared with this host's when it asks for nothing more than the host has.
  std::string have = found.features();
  std::vector<std::string_view> list = text::split(have, ',');
  for (std::string_view feature : text::split(features, ','))
    if (std::find(list.begin(), list.end(), feature) == list.end())
      return false;
  return true;
}
#else
Target Target::native() {
  throw UserError(ErrorId::Unsupported, "the CPU back end makes x86-64 code; this host is of another architecture");
}
Target Target::hostLevel() { return native(); }
bool Target::runsHere() const { return false; }
#endif

Target Target::forCudaDevice(int major, int minor, std::string_view deviceName) {
  std::string lower(deviceName);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  int capability = 10 * major + minor;
  const Target *best = nullptr;
  for (const Target &target : shipped()) {
    int offered = target.computeCapability();
    // "a" code runs on its exact capability only.
    bool exact = target.isa.ends_with('a');
    if (target.device != DeviceType::Cuda || offered / 10 != major || offered > capability ||
        (exact && offered != capability))
      continue;
    if (!target.profile.empty()) {
      if (lower.find(target.profile) != std::string::npos)
        return target;
      continue;
    }
    if (!best || best->computeCapability() < offered)
      best = &target;
  }
  if (best)
    return *best;
  throw UserError(ErrorId::UnknownTarget, fmt::format("no target for compute capability {}.{} ({}). There are: {}",
                                                      major, minor, deviceName, fmt::join(names(), ", ")));
}

// Targets: the shipped table, native, devices.
// SPDX-License-Identifier: Apache-2.0
#include "Support.h"

#include "hyperjit/core/Target.h"

#include <set>

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

TEST(Targets, EveryShippedNameParsesBack) {
  std::set<std::string> names;
  for (const Target &target : Target::table()) {
    EXPECT_EQ(Target::parse(target.text()), target);
    EXPECT_TRUE(names.insert(target.text()).second) << target.text() << " is there twice";
  }
  for (const char *name : {"sm_80", "sm_86", "sm_89", "sm_90a", "sm_90a/h100", "sm_90a/h200", "sm_100a", "sm_103a",
                           "sm_120", "sm_121", "x86-64-v3", "x86-64-v4"})
    EXPECT_TRUE(names.count(name)) << name;
}

TEST(Targets, TheTableMakesSense) {
  for (const Target &target : Target::table()) {
    SCOPED_TRACE(target.text());
    EXPECT_GT(target.registers, 0);
    EXPECT_GT(target.copyGBs, 0);
    if (target.device == DeviceType::Cuda) {
      EXPECT_GE(target.computeCapability(), 80);
      EXPECT_GT(target.sharedBytes, 48 * 1024);
      EXPECT_GT(target.processors, 1);
      EXPECT_EQ(target.maxCluster > 1, target.computeCapability() >= 90);
    } else {
      EXPECT_EQ(target.computeCapability(), 0);
      EXPECT_EQ(target.processors, 1);
    }
  }
}

TEST(Targets, NativeIsItsOwnText) {
  Target native = Target::native();
  EXPECT_EQ(Target::parse("native"), native);
  EXPECT_EQ(Target::parse(native.text()), native);
  EXPECT_TRUE(native.runsHere());
  EXPECT_TRUE(Target::hostLevel().runsHere());
  EXPECT_FALSE(Target::parse("sm_90a").runsHere());
  // Another host's text can be named here and is told apart.
  Target other = Target::parse("x86_64-unknown-linux-gnu/x86-64-v4/+avx512bf16,+avx512fp16");
  EXPECT_EQ(other.features, "+avx512bf16,+avx512fp16");
  EXPECT_EQ(Target::parse(other.text()), other);
}

TEST(Targets, UnknownNamesHelp) {
  auto text = [](const std::string &name) { return caught([&] { Target::parse(name); }).text; };
  EXPECT_EQ(text("sm_90/h100").rfind("unknown target 'sm_90/h100'; did you mean 'sm_90a/h100'? There are: sm_80, ", 0),
            0u);
  EXPECT_EQ(text("h100").rfind("unknown target 'h100'", 0), 0u);
  EXPECT_NE(text("avx9").find("native"), std::string::npos);
  for (const char *name : {"", "sm_", "sm_90a/", "x86_64-linux/x86-64-v4/+b,+a", "x86_64-linux/x86-64-v4/avx",
                           "x86_64-linux/znver4/", "aarch64-linux/x86-64-v4/", "x86_64-linux/x86-64-v4/+a;rm"})
    EXPECT_EQ(caught([&] { Target::parse(name); }).id, "unknown-target") << name;
}

TEST(Targets, Devices) {
  EXPECT_EQ(Target::forCudaDevice(9, 0, "NVIDIA H100 80GB HBM3").text(), "sm_90a/h100");
  EXPECT_EQ(Target::forCudaDevice(9, 0, "NVIDIA H200").text(), "sm_90a/h200");
  EXPECT_EQ(Target::forCudaDevice(9, 0, "NVIDIA GH-something").text(), "sm_90a");
  EXPECT_EQ(Target::forCudaDevice(8, 0, "NVIDIA A100-SXM4-40GB").text(), "sm_80");
  // The nearest older capability of the same major version.
  EXPECT_EQ(Target::forCudaDevice(8, 7, "Orin").text(), "sm_86");
  EXPECT_EQ(Target::forCudaDevice(12, 1, "Spark").text(), "sm_121");
  EXPECT_EQ(Target::forCudaDevice(10, 3, "B300").text(), "sm_103a");
  // "a" code runs on its exact capability only.
  EXPECT_EQ(caught([] { Target::forCudaDevice(10, 1, "Thor"); }).id, "unknown-target");
  EXPECT_EQ(caught([] {
              Target::forCudaDevice(7, 5, "T4");
            }).text.rfind("no target for compute capability 7.5 (T4). There are: ", 0),
            0u);
}

} // namespace

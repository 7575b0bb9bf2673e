// Equal texts are compiled once in a process, also when they are asked for at the same time. By an NVRTC that counts.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Backend.h"
#include "hyperjit/core/Error.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace hyperjit;

namespace {

int compiles() {
  static auto *count = reinterpret_cast<int (*)()>(dlsym(dlopen(FAKE_NVRTC, RTLD_NOW), "fakeCompiles"));
  return count();
}

Artifact build(const std::string &text, const std::string &spec = "spec", const std::string &target = "sm_90a",
               const std::vector<std::string> &launches = {}) {
  ArtifactMeta meta;
  meta.spec = spec;
  for (const std::string &entry : launches)
    meta.launches.emplace_back().entry = entry;
  return Backend::find(DeviceType::Cuda)->build(meta, text, Target::parse(target), {});
}

std::string bytes(const Artifact &artifact) {
  return {reinterpret_cast<const char *>(artifact.payload.data()), artifact.payload.size()};
}

class Share : public testing::Test {
protected:
  static void SetUpTestSuite() { ::setenv("HYPERJIT_NVRTC_PATH", FAKE_NVRTC, 1); }
  void SetUp() override { before = compiles(); }
  int since() const { return compiles() - before; }
  int before = 0;
};

TEST_F(Share, OneAfterTheOther) {
  Artifact small = build("one", "small"), large = build("one", "large");
  EXPECT_EQ(since(), 1);
  for (const Artifact &artifact : {small, large}) {
    EXPECT_EQ(artifact.kind, PayloadKind::Cubin);
    EXPECT_EQ(bytes(artifact), "one");
    ASSERT_EQ(artifact.meta.entries.size(), 1u);
    EXPECT_EQ(artifact.meta.entries[0].name, "k_main");
    EXPECT_EQ(artifact.meta.entries[0].registers, 42);
  }
  EXPECT_EQ(small.meta.spec, "small");
  EXPECT_EQ(large.meta.spec, "large");
}

TEST_F(Share, AtTheSameTime) {
  std::vector<std::thread> threads;
  std::vector<std::string> made(8);
  for (std::string &result : made)
    threads.emplace_back([&] { result = bytes(build("together")); });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(since(), 1);
  EXPECT_EQ(made, std::vector<std::string>(8, "together"));
}

/// A launch's part with what all parts need is a program, which another kernel may have too.
TEST_F(Share, LaunchesArePrograms) {
  const std::string common = "// for all", head = "\n//===- k_head\nhead", main = "\n//===- k_main\nmain",
                    other = "\n//===- k_main\nother";
  const Artifact one = build(common + head + main, "spec", "sm_90a", {"k_head", "k_main"});
  EXPECT_EQ(since(), 2);
  const auto binaries = binariesOf(one);
  ASSERT_EQ(binaries.size(), 2u);
  auto begins = [](std::span<const std::byte> binary, const std::string &text) {
    return std::string(reinterpret_cast<const char *>(binary.data()), binary.size()).rfind(text, 0) == 0;
  };
  EXPECT_TRUE(begins(binaries[0], common + head));
  EXPECT_TRUE(begins(binaries[1], common + main));
  EXPECT_EQ(one.meta.launches[0].offset, 0);
  EXPECT_EQ(one.meta.launches[1].offset, binaries[1].data() - one.payload.data());
  EXPECT_EQ(one.meta.launches[1].offset % 16, 0);
  EXPECT_EQ(one.meta.entries.size(), 2u);
  build(common + head + other, "spec", "sm_90a", {"k_head", "k_main"});
  EXPECT_EQ(since(), 3);
  build("// for others" + head + other, "spec", "sm_90a", {"k_head", "k_main"});
  EXPECT_EQ(since(), 5);
}

TEST_F(Share, OtherTextsAndTargetsAreTheirOwn) {
  build("two");
  build("three");
  build("two", "spec", "sm_80");
  EXPECT_EQ(since(), 3);
}

TEST_F(Share, EachGetsItsOwnErrorAndNothingIsKept) {
  auto message = [](const std::string &spec) -> std::string {
    try {
      build("wrong", spec);
      return "no error";
    } catch (const InternalError &error) {
      return error.what();
    }
  };
  std::string errors[2];
  std::thread one([&] { errors[0] = message("spec of one"); }),
      other([&] { errors[1] = message("spec of the other"); });
  one.join();
  other.join();
  EXPECT_NE(errors[0].find("spec of one"), std::string::npos) << errors[0];
  EXPECT_NE(errors[1].find("spec of the other"), std::string::npos) << errors[1];
  EXPECT_EQ(since(), 2);
}

TEST_F(Share, WhatIsOldAndLargeIsForgotten) {
  std::string large(size_t(9) << 20, 'x');
  build(large + "1");
  build(large + "2");
  EXPECT_EQ(since(), 2);
  build(large + "2");
  EXPECT_EQ(since(), 2);
  build(large + "1");
  EXPECT_EQ(since(), 3);
}

TEST_F(Share, AForkedChildWaitsForNobody) {
  std::thread busy([] { build("forked"); });
  while (since() == 0)
    std::this_thread::yield();
  pid_t child = ::fork();
  if (child == 0) {
    ::alarm(10);
    ::_exit(bytes(build("forked")) == "forked" ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  busy.join();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

} // namespace

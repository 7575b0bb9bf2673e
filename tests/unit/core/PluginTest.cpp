// The door to the compiler: what is said where it is missing, is of another build, or fails; and a missing NVRTC.
// SPDX-License-Identifier: Apache-2.0
#include "Support.h"

#include "hyperjit/core/Backend.h"
#include "hyperjit/core/CompilerPlugin.h"
#include "hyperjit/core/Target.h"

using namespace hyperjit;
using namespace hyperjit::test;

namespace {

std::string advice() {
  return "\nBuild the target hyperjit-compiler, or set HYPERJIT_COMPILER_PATH to libhyperjit-compiler.so or its "
         "folder, or use "
         "kernels compiled elsewhere (HYPERJIT_CACHE_PATH).";
}
std::string cannotOpen(const std::string &tried) {
  return "a kernel has to be compiled and the compiler plugin cannot be opened:\n  " + tried + advice();
}
Caught opening(const std::string &path) {
  return caught([&] { CompilerPlugin(path).open(); });
}

TEST(Plugin, MissingFile) {
  TemporaryFolder folder;
  Caught error = opening(folder / "absent.so");
  EXPECT_EQ(error.id, "compiler-missing");
  EXPECT_EQ(error.text, cannotOpen((folder / "absent.so") + ": no such file"));
  // A folder stands for the file in it.
  EXPECT_EQ(opening(folder.path).text, cannotOpen((folder / "libhyperjit-compiler.so") + ": no such file"));
  Variable variable("HYPERJIT_COMPILER_PATH", (folder / "named.so").c_str());
  EXPECT_EQ(opening("").text, cannotOpen((folder / "named.so") + ": no such file"));
}

TEST(Plugin, IsLookedForBesideTheLibrary) {
  Variable variable("HYPERJIT_COMPILER_PATH", nullptr);
  std::vector<std::string> places = CompilerPlugin().candidates();
  ASSERT_EQ(places.size(), 2u);
  std::string beside = std::filesystem::canonical(LIBHYPERJIT).parent_path().string();
  EXPECT_EQ(places[0], beside + "/libhyperjit-compiler.so");
}

TEST(Plugin, FilesThatAreNone) {
  TemporaryFolder folder;
  writeFile(folder / "text.so", "not a library");
  Caught error = opening(folder / "text.so");
  EXPECT_EQ(error.id, "compiler-missing");
  EXPECT_NE(error.text.find((folder / "text.so") + ": "), std::string::npos) << error.text;
  EXPECT_EQ(opening(LIBHYPERJIT).text, cannotOpen(std::string(LIBHYPERJIT) + ": it has no symbol hyperjit_compiler"));
  EXPECT_EQ(opening(PLUGIN_no_interface).text,
            cannotOpen(std::string(PLUGIN_no_interface) + ": it does not speak interface version 2"));
}

TEST(Plugin, OtherBuildsAreRefused) {
  if (llvmVersion().empty())
    GTEST_SKIP() << "this build found no LLVM, so no plugin is of another one";
  EXPECT_EQ(opening(PLUGIN_other_build).text,
            cannotOpen(std::string(PLUGIN_other_build) +
                       ": it is of another build: llvm 1.2.3, this library expects llvm " +
                       std::string(llvmVersion())));
}

TEST(Plugin, OtherSourcesAreRefused) {
  EXPECT_EQ(opening(PLUGIN_other_sources).text,
            cannotOpen(std::string(PLUGIN_other_sources) +
                       ": it is made of other sources: fake 1, sources 0123456789abcdef, this library of " +
                       std::string(compilerDigest().substr(0, 16)) + "; build both"));
}

TEST(Plugin, AnswersBecomeRepliesOrErrors) {
  CompilerPlugin plugin{PLUGIN_answers};
  EXPECT_EQ(plugin.path(), "");
  EXPECT_EQ(plugin.version(), "fake 1");
  EXPECT_EQ(plugin.path(), PLUGIN_answers);
  CompilerReply reply = plugin.run("{}");
  EXPECT_EQ(reply.json, "{\"stage\": \"recipe\"}");
  EXPECT_EQ(reply.payload, "the text");
  Caught user = caught([&] { plugin.run("{\"spec\": \"mistake\"}"); });
  EXPECT_EQ(user.id, "unsupported");
  EXPECT_EQ(user.text, "you asked for too much");
  // A failure of ours: pass, message, and a command that shows it again.
  Caught bug = caught([&] {
    plugin.run(R"({"spec": "before(static:n=4,m=1,d=8,dtype=fp32):forward:save:tokens=small", "target": "x86-64-v3",
                  "note": "defect"})");
  });
  EXPECT_EQ(bug.id, "compiler-bug");
  EXPECT_EQ(bug.text.rfind("the compiler failed in hc-split: no way on\nThis is a bug in hyperjit ", 0), 0u)
      << bug.text;
  EXPECT_NE(
      bug.text.find(
          "To reproduce: hyperjit show 'static:n=4,m=1,d=8,dtype=fp32' --role before --direction forward --tokens "
          "small --target x86-64-v3"),
      std::string::npos)
      << bug.text;
  for (const char *request : {"{\"spec\": \"silent\"}", "{\"spec\": \"garbage\"}"}) {
    Caught none = caught([&] { plugin.run(request); });
    EXPECT_EQ(none.id, "compiler-bug");
    EXPECT_EQ(none.text.rfind("the compiler gave no answer\n", 0), 0u) << none.text;
  }
}

TEST(Nvrtc, MissingLibraryIsNamed) {
  auto backend = Backend::find(DeviceType::Cuda);
  if (!backend)
    GTEST_SKIP() << "this build has no CUDA back end";
  TemporaryFolder folder;
  // The library is looked for once a process, so this one looks in a child of its own.
  EXPECT_TRUE(inChild([&] {
    Variable variable("HYPERJIT_NVRTC_PATH", (folder / "libnvrtc.so.13").c_str());
    std::string expected = "libnvrtc was not found, so CUDA kernels cannot be compiled; it comes with the torch wheel "
                           "(nvidia/cu13/lib) or the CUDA toolkit, or name it in HYPERJIT_NVRTC_PATH. Tried: " +
                           (folder / "libnvrtc.so.13") + ": no such file";
    Caught toolchain = caught([&] { backend->toolchain(); });
    Caught build = caught([&] { backend->build({}, "int x;", Target::parse("sm_80"), {}); });
    return toolchain.id == "library-missing" && toolchain.text == expected && build.id == "library-missing";
  }));
}

} // namespace

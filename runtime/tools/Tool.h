// The commands of `hyperjit`, one file each, and what they share: how a spec on the command line becomes kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "Console.h"
#include "Specs.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/KernelManager.h>
#include <hyperjit/core/SpecList.h>

#include <CLI/CLI.hpp>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace hyperjit::tools {

/// Each adds its sub-command; the sub-command's callback sets `exit`.
void addRecipes(CLI::App &app, int &exit);
void addShow(CLI::App &app, int &exit);
void addPrecompile(CLI::App &app, int &exit);
void addAutotune(CLI::App &app, int &exit);
void addBench(CLI::App &app, int &exit);
void addDemo(CLI::App &app, int &exit);
void addCache(CLI::App &app, int &exit);
void addEnv(CLI::App &app, int &exit);
void addDoctor(CLI::App &app, int &exit);

/// "\nExamples:\n  hyperjit FIRST\n  hyperjit SECOND\n", the footer of a command's --help.
std::string examples(std::string_view first, std::string_view second);

/// Where specs come from in every command that takes them.
struct SpecArguments {
  std::vector<std::string> specs;
  std::string specsFile;              ///< one a line, `#` starts a comment
  std::vector<std::string> libraries; ///< opened first: they call hyperjit::define
  std::vector<std::string> programs;  ///< files of recorded programs, each a recipe of the file's name

  void add(CLI::App &command, bool many);
  /// Only what makes recipes known that modules can be made of: --load.
  void addLibraries(CLI::App &command);
  /// The same and recorded programs: --load and --recipe.
  void addRecipes(CLI::App &command);
  /// Makes the recipes known, reads the file; UsageError if there is no spec at all.
  std::vector<SpecText> read() const;
  /// The same, where there may be none.
  std::vector<SpecText> readAny() const;
  /// Opens the libraries and takes the programs in, once.
  void open() const;
  /// The words that make the same recipes known to another process of this command.
  std::vector<std::string> openingWords() const;

private:
  mutable bool opened = false;
};

/// One or two sites: "spec", or "boundary(spec|spec)". Normalised.
struct Part {
  SiteSpec after, before;
  bool pair = false; ///< the text named two sites
  /// A site's own text; boundary(a|b) for two.
  std::string text() const;
};
Part parsePart(const std::string &text);

/// The kernel's spec with its sites normalised.
KernelSpec parseKernel(const std::string &text);

/// The kernel that training asks for: forward that saves, or the backward of everything the sites have.
KernelSpec trainingKernel(const Part &part, Role role, Direction direction, Bucket bucket);
/// The target of --target; without it what LibTorch asks for here, the best named level of this CPU.
Target targetOf(const std::string &text);
/// A comma list of them.
std::vector<Target> targetsOf(const std::string &text);

/// How --json works everywhere: given without a file it means stdout.
void addJson(CLI::App &command, std::string &destination);

/// `option` names a file that the command will write: refused before the work where that cannot be.
CLI::Option *writes(CLI::Option *option);

/// What times of options are: a finite number above zero, and at most `most`.
CLI::Validator aboveZero(double most = std::numeric_limits<double>::max());
/// What counts of options are: a whole number from 1 to `most`.
CLI::Validator wholeNumber(int64_t most);
/// Far above what any memory holds, and far enough below the largest number to be multiplied by a row's bytes.
inline constexpr int64_t kMostTokens = int64_t(1) << 32;

/// Options that name files to be written, or that must not be: UsageError where two name the same one. Empty names,
/// "-" and "none" are no files.
void refuseSameFile(std::initializer_list<std::pair<const char *, std::string>> files);

/// The exit code of an exception.
int exitCodeOf(const std::exception &error);
/// The same with a message on stderr.
int report(const std::exception &error);

} // namespace hyperjit::tools

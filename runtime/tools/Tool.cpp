// SPDX-License-Identifier: Apache-2.0
#include "Tool.h"

#include <hyperjit/DSL.h>

#include <fmt/format.h>

#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace hyperjit::tools {

std::string examples(std::string_view first, std::string_view second) {
  return fmt::format("\nExamples:\n  hyperjit {}\n  hyperjit {}\n", first, second);
}

void SpecArguments::add(CLI::App &command, bool many) {
  if (many) {
    command.add_option("SPEC", specs, "recipe:key=value,... or boundary(spec|spec) or a kernel's text");
    command.add_option("--specs", specsFile, "file with one spec a line; # starts a comment");
  } else {
    command.add_option("SPEC", specs, "recipe:key=value,... or boundary(spec|spec)")->expected(1)->required();
  }
  addRecipes(command);
}

void SpecArguments::addLibraries(CLI::App &command) {
  command.add_option("--load", libraries, "library that calls hyperjit::define, opened first")->allow_extra_args(false);
}

void SpecArguments::addRecipes(CLI::App &command) {
  addLibraries(command);
  command
      .add_option("--recipe", programs,
                  "FILE.hc, a recorded program (show SPEC --stage recipe): the recipe FILE of specs")
      ->type_name("FILE.hc")
      ->allow_extra_args(false);
}

/// What is no text is said before a reader complains of its first line.
static std::string readText(std::string_view option, const std::string &path, std::string_view wanted) {
  std::ifstream file(path, std::ios::binary);
  std::error_code error;
  if (!file || std::filesystem::is_directory(path, error))
    throw UsageError(fmt::format("{} {}: the file cannot be read", option, path));
  std::string text((std::istreambuf_iterator<char>(file)), {});
  auto control = std::find_if(text.begin(), text.end(), [](char c) {
    return std::iscntrl(static_cast<unsigned char>(c)) &&
           std::string_view("\t\n\v\f\r").find(c) == std::string_view::npos;
  });
  if (control != text.end())
    throw UsageError(fmt::format("{} {}: the file looks binary (byte {} is {:#04x}); {} is wanted", option, path,
                                 control - text.begin(), static_cast<unsigned char>(*control), wanted));
  return text;
}

static std::string readProgramFile(const std::string &path) {
  std::string text = readText("--recipe", path, "the text of a recorded program");
  if (text.find_first_not_of(" \t\r\n") == std::string::npos)
    throw UsageError(fmt::format("--recipe {}: the file is empty", path));
  return text;
}

/// A program's text has no name of its own: the recipe is called as the file is.
static void takePrograms(const std::vector<std::string> &paths) {
  std::map<std::string, std::string> taken;
  for (const std::string &path : paths) {
    std::string text = readProgramFile(path);
    std::filesystem::path file(path);
    std::string name = file.extension() == ".hc" ? file.stem().string() : file.filename().string();
    constexpr const char *advice = "a recipe is called as its file is, so give the file another name";
    if (auto [place, first] = taken.emplace(name, path); !first)
      throw UsageError(
          fmt::format("--recipe {}: recipe '{}' is --recipe {} already; {}", path, name, place->second, advice));
    std::vector<std::string> known = ProgramSource::global().recipes();
    if (std::find(known.begin(), known.end(), name) != known.end())
      throw UsageError(fmt::format("--recipe {}: there is a recipe '{}' already; {}", path, name, advice));
    try {
      defineProgram(name, text, path);
    } catch (const UserError &error) {
      throw UsageError(fmt::format("--recipe {}: {}", path, error.what()));
    }
  }
}

std::vector<std::string> SpecArguments::openingWords() const {
  std::vector<std::string> words;
  for (const std::string &library : libraries)
    words.insert(words.end(), {"--load", library});
  for (const std::string &program : programs)
    words.insert(words.end(), {"--recipe", program});
  return words;
}

void SpecArguments::open() const {
  if (std::exchange(opened, true))
    return;
  for (const std::string &library : libraries) {
    // A name without a slash would be searched on the loader's path; what is meant is the file.
    std::string path = library.find('/') == std::string::npos ? "./" + library : library;
    try {
      loadRecipes(path);
    } catch (const UserError &error) {
      throw UsageError(fmt::format("--load {}: {}", library, error.what()));
    }
  }
  takePrograms(programs);
}

std::vector<SpecText> SpecArguments::read() const {
  std::vector<SpecText> all = readAny();
  if (all.empty())
    throw UsageError(
        "no spec given; write one like manifold:n=4,d=4096,dtype=bf16 (hyperjit recipes lists the recipes)");
  return all;
}

std::vector<SpecText> SpecArguments::readAny() const {
  open();
  std::vector<SpecText> all;
  for (const std::string &spec : specs)
    all.push_back({spec, ""});
  if (!specsFile.empty()) {
    std::istringstream file(readText("--specs", specsFile, "a spec a line"));
    for (const auto &[number, line] : specLines(file))
      all.push_back({line, fmt::format("{}, line {}", specsFile, number)});
  }
  return all;
}

std::string Part::text() const {
  return pair ? fmt::format("boundary({}|{})", after.text(), before.text()) : before.text();
}

Part parsePart(const std::string &text) {
  auto [after, before] = sitesOf(text);
  return {std::move(after), std::move(before), text.starts_with("boundary(")};
}

KernelSpec parseKernel(const std::string &text) { return kernelsOf(text).at(0); }

KernelSpec trainingKernel(const Part &part, Role role, Direction direction, Bucket bucket) {
  return hyperjit::trainingKernel(ProgramSource::global(), part.after, part.before, role, direction, bucket);
}

Target targetOf(const std::string &text) { return text.empty() ? Target::hostLevel() : Target::parse(text); }

std::vector<Target> targetsOf(const std::string &text) {
  if (text.empty())
    return {Target::hostLevel()};
  std::vector<std::string> words;
  for (const std::string &word : CLI::detail::split(text, ','))
    if (word.starts_with('+') && !words.empty()) // a feature of the CPU's target before
      words.back() += "," + word;
    else
      words.push_back(word);
  std::vector<Target> targets;
  for (const std::string &word : words)
    targets.push_back(Target::parse(word));
  return targets;
}

void addJson(CLI::App &command, std::string &destination) {
  command
      .add_option("--json", destination,
                  "print JSON, or write it to FILE: the next word if it ends in .json, any name as --json=FILE")
      ->expected(0, 1)
      ->default_str("-")
      ->type_name("[FILE.json]");
  writes(command.get_option("--json"));
}

CLI::Option *writes(CLI::Option *option) {
  return option->each([option](const std::string &path) {
    if (path == "-" && !option->check_lname("json"))
      throw UsageError(fmt::format("{} -: only JSON goes to the standard output; name a file", option->get_name()));
    if (path != "-")
      checkDestination(path);
  });
}

CLI::Validator aboveZero(double most) {
  // The parser's own PositiveNumber prints the largest double as the end of its range.
  return CLI::Validator(
      [most](std::string &word) {
        double value = 0;
        bool number = CLI::detail::lexical_cast(word, value);
        if (!number || !(value > 0) || !std::isfinite(value))
          return fmt::format("{} is not a number above 0", word);
        return value <= most ? std::string() : fmt::format("{} is more than {}", word, most);
      },
      "POSITIVE");
}

CLI::Validator wholeNumber(int64_t most) {
  return CLI::Validator(
      [most](std::string &word) {
        int64_t value = 0;
        const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
        return error == std::errc() && end == word.data() + word.size() && value >= 1 && value <= most
                   ? std::string()
                   : fmt::format("{} is not a whole number from 1 to {}", word, most);
      },
      "POSITIVE");
}

void refuseSameFile(std::initializer_list<std::pair<const char *, std::string>> files) {
  std::map<std::filesystem::path, const char *> named;
  for (const auto &[option, file] : files) {
    if (file.empty() || file == "-" || file == "none")
      continue;
    std::error_code error;
    auto [place, first] =
        named.emplace(std::filesystem::weakly_canonical(std::filesystem::absolute(file, error), error), option);
    if (!first)
      throw UsageError(fmt::format("{} and {} both name '{}'", place->second, option, file));
  }
}

int report(const std::exception &error) {
  say("{}", error.what());
  return exitCodeOf(error);
}

int exitCodeOf(const std::exception &error) {
  if (dynamic_cast<const UsageError *>(&error))
    return exitUsage;
  if (dynamic_cast<const EnvironmentProblem *>(&error))
    return exitEnvironment;
  if (const auto *known = dynamic_cast<const hyperjit::Error *>(&error)) {
    switch (known->id()) {
    case ErrorId::InvalidSetting:
    case ErrorId::MissingKernel:
    case ErrorId::CompilerMissing:
    case ErrorId::BackendMissing:
    case ErrorId::LibraryMissing:
    case ErrorId::DeviceFailure:
      return exitEnvironment;
    case ErrorId::InvalidFile:
    case ErrorId::Internal:
    case ErrorId::CompilerBug:
    case ErrorId::ImageRejected:
      return exitProblem;
    default:
      return exitUsage;
    }
  }
  return exitProblem;
}

} // namespace hyperjit::tools

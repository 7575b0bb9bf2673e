//===- Registry.h - Recipes by name, and their recorded programs --------------*- C++ -*-===//
//
// Implements core's ProgramSource. A program is recorded once for each recipe, n, m and set of kernel options: d,
// dtypes and module options do not enter it, so layers that differ only in these share one text and one digest.
//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#pragma once

#include <map>
#include <mutex>

#include "Recorder.h"

namespace hyperjit::dsl {

class Registry final : public ProgramSource {
public:
  /// Holds the shipped recipes.
  Registry();

  void define(std::string name, Recipe recipe, Definition definition);
  void defineProgram(std::string name, std::string_view text, std::string origin);

  std::vector<std::string> recipes() const override;
  RecipeInfo describe(std::string_view recipe) const override;
  SiteSpec normalise(const SiteSpec &spec) const override;
  std::shared_ptr<const SiteProgram> site(const SiteSpec &spec) override;
  std::vector<ParameterInfo> parameters(const SiteSpec &spec) override;

  /// The process's registry; the one installed as ProgramSource::global().
  static std::shared_ptr<Registry> instance();

private:
  struct Entry {
    std::string name;
    Recipe recipe;
    Definition definition = {};
    int n = 0, m = 0;        // of a recorded program: its only sizes
    std::string origin = {}; // of a recorded program: where its text came from
  };
  /// A spec taken apart: its canonical form, and every option with its value.
  struct Resolved {
    std::shared_ptr<const Entry> entry;
    SiteSpec canonical;
    std::map<std::string, std::string, std::less<>> options;
    bool defaultModuleOptions = true;
    std::string programKey;
  };

  void insert(Entry entry);
  std::shared_ptr<const Entry> find(std::string_view name) const;
  Resolved resolve(const SiteSpec &spec) const;
  detail::Recording record(const Resolved &resolved) const;
  /// The recording of these kernel options, from memory or made now.
  std::shared_ptr<const detail::Recording> recorded(const Resolved &resolved);

  mutable std::mutex mutex; // never held while a recipe runs
  std::map<std::string, std::shared_ptr<const Entry>, std::less<>> entries;
  std::map<std::string, std::shared_ptr<const detail::Recording>> recordings;
  std::map<std::string, std::shared_ptr<const SiteProgram>> programs;
};

/// Registers the shipped recipes (lib/Recipes).
void registerRecipes(Registry &registry);

} // namespace hyperjit::dsl

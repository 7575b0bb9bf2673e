// ProgramSource.h - where core gets recorded programs from. The DSL library implements it over its registry of recipes,
// so core knows no recipe.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_PROGRAMSOURCE_H
#define HYPERJIT_CORE_PROGRAMSOURCE_H

#include "hyperjit/core/Export.h"
#include "hyperjit/core/SiteSignature.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace hyperjit {

struct RecipeOption {
  std::string name;
  std::string defaultValue;
  std::vector<std::string> values; ///< the words it takes; empty for numbers
  std::string meaning;
  bool kernel = true; ///< false: a module option, never part of a KernelSpec
};

struct RecipeInfo {
  std::string name;
  std::string summary;               ///< one line
  std::string paper;                 ///< "arXiv 2512.24880, eq. 7-9"; may be empty
  std::string equation;              ///< may be empty
  std::vector<RecipeOption> options; ///< in declaration order
  int n = 0, m = 0;                  ///< of a recorded program, the only ones it takes; 0: any
};

/// Thread safe. All throw UserError: UnknownRecipe, UnknownKey, UnknownValue, InvalidValue, InvalidRecipe.
class HYPERJIT_EXPORT ProgramSource {
public:
  virtual ~ProgramSource();

  /// Names, sorted.
  virtual std::vector<std::string> recipes() const = 0;
  virtual RecipeInfo describe(std::string_view recipe) const = 0;
  /// The canonical spec: kernel options only, those at their default omitted, values spelled canonically, in
  /// declaration order.
  virtual SiteSpec normalise(const SiteSpec &spec) const = 0;
  /// Records, or returns what was recorded before. `spec` may hold module options; they are ignored.
  virtual std::shared_ptr<const SiteProgram> site(const SiteSpec &spec) = 0;
  /// The parameters with the initialisation that the module options in `spec` choose. Where it differs by layer and the
  /// spec does not say which, it is PerLayer: shapes are for everybody, values only for who names the layer.
  virtual std::vector<ParameterInfo> parameters(const SiteSpec &spec) = 0;

  /// The process's source. Throws InternalError while none is installed.
  static ProgramSource &global();
  /// Called once by the DSL library's initialiser; a later call replaces the source (tests).
  static void install(std::shared_ptr<ProgramSource> source);
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_PROGRAMSOURCE_H

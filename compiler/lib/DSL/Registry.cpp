//===- Registry.cpp - Recipes by name, and their recorded programs ------------------------===//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "Registry.h"

#include <algorithm>
#include <dlfcn.h>
#include <exception>

#include "Options.h"
#include "ProgramText.h"
#include "hyperjit/core/CacheKey.h"
#include "hyperjit/core/Error.h"

namespace hyperjit {
namespace {
/// Of the library that this thread opens: its first failure.
thread_local std::exception_ptr *failure = nullptr;

void unlessLoading(const std::function<void()> &defines) {
  if (!failure)
    return defines();
  try {
    defines();
  } catch (...) {
    if (!*failure)
      *failure = std::current_exception();
  }
}
} // namespace

void define(std::string name, dsl::Recipe recipe, dsl::Definition definition) {
  unlessLoading([&] { dsl::Registry::instance()->define(std::move(name), std::move(recipe), std::move(definition)); });
}
void defineProgram(std::string name, std::string_view text, std::string origin) {
  unlessLoading([&] { dsl::Registry::instance()->defineProgram(std::move(name), text, std::move(origin)); });
}
void loadRecipes(const std::string &path) {
  std::exception_ptr mine;
  std::exception_ptr *outer = std::exchange(failure, &mine);
  void *library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  failure = outer;
  if (mine)
    std::rethrow_exception(mine);
  if (!library)
    throw UserError(ErrorId::LibraryMissing, ::dlerror());
}
} // namespace hyperjit

namespace hyperjit::dsl {
using namespace detail;

Registry::Registry() { registerRecipes(*this); }

std::shared_ptr<Registry> Registry::instance() {
  static const std::shared_ptr<Registry> registry = std::make_shared<Registry>();
  return registry;
}

namespace {
/// Core reaches recipes through the source that is installed here, when the library is loaded.
[[maybe_unused]] const bool installed = (ProgramSource::install(Registry::instance()), true);

/// Keys that a spec has for every recipe.
constexpr std::string_view reservedKeys[] = {"n", "m", "d", "dtype", "branch", "branch_in", "branch_out", "weight"};

bool isName(std::string_view text, std::string_view further) {
  if (text.empty() || text[0] < 'a' || text[0] > 'z')
    return false;
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || further.find(c) != further.npos;
  });
}
} // namespace

void Registry::define(std::string name, Recipe recipe, Definition definition) {
  if (!recipe)
    throw UserError(ErrorId::InvalidRecipe, join("define: recipe '", name, "' is empty"));
  std::vector<std::string> seen;
  for (Option &option : definition.options) {
    bool reserved = std::find(std::begin(reservedKeys), std::end(reservedKeys), option.name) != std::end(reservedKeys);
    if (!isName(option.name, "_") || reserved)
      throw UserError(ErrorId::InvalidRecipe,
                      join("define: recipe '", name, "' declares option '", option.name, "'; ",
                           reserved ? "every spec has this key already"
                                    : "a name has lower case letters, digits and '_', with a letter first"));
    if (std::find(seen.begin(), seen.end(), option.name) != seen.end())
      throw UserError(ErrorId::InvalidRecipe,
                      join("define: recipe '", name, "' declares option '", option.name, "' twice"));
    seen.push_back(option.name);
    option.defaultValue = canonicalValue(name, option, option.defaultValue);
  }
  insert({std::move(name), std::move(recipe), std::move(definition)});
}

void Registry::defineProgram(std::string name, std::string_view text, std::string origin) {
  auto program = std::make_shared<const ProgramText>(readProgram(text));
  Entry entry{std::move(name), [program](Site &site) { replay(*program, site); }};
  entry.n = static_cast<int>(program->n);
  entry.m = static_cast<int>(program->m);
  entry.definition.summary = join("the program of ", origin, ", recorded for n=", entry.n, ", m=", entry.m);
  entry.origin = std::move(origin);
  // What is wrong with a text is said where it is named, not where a kernel of it is first needed.
  Resolved resolved;
  resolved.entry = std::make_shared<const Entry>(entry);
  resolved.canonical.n = entry.n;
  resolved.canonical.m = entry.m;
  record(resolved);
  insert(std::move(entry));
}

void Registry::insert(Entry entry) {
  std::string name = entry.name;
  if (!isName(name, "-_."))
    throw UserError(ErrorId::InvalidRecipe, join("define: '", name,
                                                 "' is no name of a recipe; a name has lower case "
                                                 "letters, digits, '-', '_' and '.', with a letter first"));
  std::lock_guard lock(mutex);
  if (!entries.try_emplace(name, std::make_shared<const Entry>(std::move(entry))).second)
    throw UserError(ErrorId::InvalidRecipe, join("define: a recipe named '", name, "' exists already"));
}

std::vector<std::string> Registry::recipes() const {
  std::lock_guard lock(mutex);
  std::vector<std::string> names;
  for (const auto &[name, entry] : entries)
    names.push_back(name);
  return names;
}

std::shared_ptr<const Registry::Entry> Registry::find(std::string_view name) const {
  {
    std::lock_guard lock(mutex);
    auto found = entries.find(name);
    if (found != entries.end())
      return found->second;
  }
  throw UserError(ErrorId::UnknownRecipe, unknownWord("recipe", name, recipes()));
}

RecipeInfo Registry::describe(std::string_view recipe) const {
  auto entry = find(recipe);
  const Definition &definition = entry->definition;
  RecipeInfo info{entry->name, definition.summary, definition.paper, definition.equation, {}, entry->n, entry->m};
  for (const Option &option : definition.options)
    info.options.push_back({option.name, option.defaultValue, option.words, option.meaning, option.kernel});
  return info;
}

Registry::Resolved Registry::resolve(const SiteSpec &spec) const {
  Resolved resolved;
  resolved.entry = find(spec.recipe);
  spec.validate();
  const Definition &definition = resolved.entry->definition;
  auto limit = [&](const char *what, int value, int maximum) {
    if (value > maximum)
      throw UserError(ErrorId::LimitExceeded,
                      join("recipe '", spec.recipe, "' takes ", what, " <= ", maximum, ", the spec has ", what, " = ",
                           value, definition.limitReason.empty() ? "" : "; " + definition.limitReason));
  };
  if (resolved.entry->n) {
    const Entry &program = *resolved.entry;
    std::string is = join("recipe '", spec.recipe, "' is the program of ", program.origin, ", recorded ");
    if (spec.n != program.n || spec.m != program.m)
      throw UserError(ErrorId::InvalidValue, join(is, "for n=", program.n, ", m=", program.m,
                                                  "; the spec asks for n=", spec.n, ", m=", spec.m));
    if (!spec.options.empty())
      throw UserError(ErrorId::UnknownKey, join(is, "with its options in it; the spec asks for ", spec.options[0].first,
                                                "=", spec.options[0].second));
  }
  limit("n", spec.n, definition.maximumStreams);
  limit("m", spec.m, definition.maximumFracs);

  for (const Option &option : definition.options)
    resolved.options[option.name] = option.defaultValue;
  std::vector<std::string> given;
  for (const auto &[key, value] : spec.options) {
    auto option = std::find_if(definition.options.begin(), definition.options.end(),
                               [&key = key](const Option &o) { return o.name == key; });
    if (option == definition.options.end()) {
      if (std::find(std::begin(reservedKeys), std::end(reservedKeys), key) != std::end(reservedKeys))
        throw UserError(
            ErrorId::UnknownKey,
            join("'", key, "' is a key of every spec, no option of recipe '", spec.recipe,
                 "': a module takes n, m and d by streams(), fracs() and dim(), and dtypes from its input and "
                 "parameters"));
      std::vector<std::string> known(std::begin(reservedKeys), std::end(reservedKeys));
      for (const Option &o : definition.options)
        known.push_back(o.name);
      throw UserError(ErrorId::UnknownKey, unknownWord("option of recipe '" + spec.recipe + "'", key, known));
    }
    if (std::find(given.begin(), given.end(), key) != given.end())
      throw UserError(ErrorId::InvalidSpec, join("option '", key, "' is given twice in ", spec.text()));
    given.push_back(key);
    resolved.options[key] = canonicalValue(spec.recipe, *option, value);
  }

  auto isGiven = [&](std::string_view key) { return std::find(given.begin(), given.end(), key) != given.end(); };
  if (isGiven("layer_index") && isGiven("layer_seed") && resolved.options["layer_index"] != "none" &&
      resolved.options["layer_seed"] != "none")
    throw UserError(ErrorId::InvalidValue, join("layer_index=", resolved.options["layer_index"],
                                                " and layer_seed=", resolved.options["layer_seed"],
                                                " are both given; a layer's index is named or drawn"));

  resolved.canonical = spec;
  resolved.canonical.options.clear();
  resolved.programKey = join(spec.recipe, ":", spec.n, ",", spec.m);
  for (const Option &option : definition.options) {
    const std::string &value = resolved.options[option.name];
    if (value == option.defaultValue)
      continue;
    if (!option.kernel) {
      resolved.defaultModuleOptions = false;
      continue;
    }
    resolved.canonical.options.emplace_back(option.name, value);
    resolved.programKey += "," + option.name + "=" + value;
  }
  return resolved;
}

SiteSpec Registry::normalise(const SiteSpec &spec) const { return resolve(spec).canonical; }

Recording Registry::record(const Resolved &resolved) const {
  auto recorder = std::make_shared<Recorder>(
      SiteInputs{resolved.entry->name, resolved.canonical.n, resolved.canonical.m, resolved.options});
  Site site = Access::site(recorder);
  site.streams(); // the first argument of every program
  try {
    resolved.entry->recipe(site);
  } catch (const UserError &error) {
    if (error.id() == ErrorId::InvalidRecipe) // names the recipe already
      throw;
    recorder->fail(error.what());
  }
  return recorder->finish();
}

std::shared_ptr<const Recording> Registry::recorded(const Resolved &resolved) {
  {
    std::lock_guard lock(mutex);
    auto found = recordings.find(resolved.programKey);
    if (found != recordings.end())
      return found->second;
  }
  Resolved defaults = resolved;
  for (const Option &option : resolved.entry->definition.options)
    if (!option.kernel)
      defaults.options[option.name] = option.defaultValue;
  auto recording = std::make_shared<const Recording>(record(defaults));
  std::lock_guard lock(mutex);
  return recordings.try_emplace(resolved.programKey, std::move(recording)).first->second;
}

static std::vector<ParameterInfo> bindSizes(const std::vector<DeclaredParameter> &declared, const SiteSpec &spec) {
  std::vector<ParameterInfo> parameters;
  for (const DeclaredParameter &parameter : declared) {
    ParameterInfo info{parameter.name, {}, parameter.kind, spec.weight, parameter.initialisation};
    for (const Extent &extent : parameter.shape)
      info.shape.push_back(extent.channels ? extent.factor * spec.rowWidth() : extent.factor);
    parameters.push_back(std::move(info));
  }
  return parameters;
}

std::shared_ptr<const SiteProgram> Registry::site(const SiteSpec &spec) {
  Resolved resolved = resolve(spec);
  std::string key = resolved.canonical.text();
  {
    std::lock_guard lock(mutex);
    auto found = programs.find(key);
    if (found != programs.end())
      return found->second;
  }
  auto recording = recorded(resolved);
  SiteProgram program;
  program.spec = resolved.canonical;
  program.text = recording->text;
  program.digest = digestText(recording->text);
  program.signature = recording->signature;
  program.signature.rowWidth = resolved.canonical.rowWidth();
  program.parameters = bindSizes(recording->parameters, resolved.canonical);
  auto shared = std::make_shared<const SiteProgram>(std::move(program));
  std::lock_guard lock(mutex);
  return programs.try_emplace(std::move(key), std::move(shared)).first->second;
}

std::vector<ParameterInfo> Registry::parameters(const SiteSpec &spec) {
  Resolved resolved = resolve(spec);
  auto recording = recorded(resolved);
  auto declared = [&] {
    Recording own = record(resolved);
    if (own.text != recording->text)
      throw UserError(ErrorId::InvalidRecipe,
                      join("recipe '", spec.recipe, "' records another program when its module options change (",
                           spec.text(), "); what enters the program must be a kernel option"));
    return bindSizes(own.parameters, resolved.canonical);
  };
  std::vector<ParameterInfo> parameters =
      resolved.defaultModuleOptions ? bindSizes(recording->parameters, resolved.canonical) : declared();
  auto index = resolved.options.find("layer_index"), seed = resolved.options.find("layer_seed");
  if (index == resolved.options.end() || index->second != "none" || seed == resolved.options.end() ||
      seed->second != "none")
    return parameters;
  // Which starts differ by layer is not declared, it is seen: one run of the recipe for each stream, at least two.
  std::vector<bool> differs(parameters.size());
  for (int layer = 1; layer < std::max(spec.n, 2); ++layer) {
    index->second = std::to_string(layer);
    std::vector<ParameterInfo> other = declared();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Initialisation &a = parameters[i].initialisation, &b = other[i].initialisation;
      if (a.kind != b.kind || a.first != b.first || a.second != b.second || a.zeroSlices != b.zeroSlices ||
          a.values != b.values)
        differs[i] = true;
    }
  }
  for (std::size_t i = 0; i < parameters.size(); ++i)
    if (differs[i]) {
      parameters[i].initialisation.kind = Initialisation::Kind::PerLayer;
      parameters[i].initialisation.values.clear();
    }
  return parameters;
}

} // namespace hyperjit::dsl

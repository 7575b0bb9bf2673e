//===- Options.cpp - Declarations and canonical values of recipe options -----------------===//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include "Options.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "Recorder.h"
#include "hyperjit/core/Error.h"

namespace hyperjit::dsl {

static std::string shortest(double value) {
  char buffer[64];
  return {buffer, std::to_chars(buffer, buffer + sizeof(buffer), value == 0 ? 0.0 : value).ptr};
}

Option flagOption(std::string name, bool defaultValue, std::string meaning) {
  Option option;
  option.name = std::move(name);
  option.type = Option::Type::Flag;
  option.defaultValue = defaultValue ? "true" : "false";
  option.words = {"true", "false"};
  option.meaning = std::move(meaning);
  return option;
}

Option integerOption(std::string name, int64_t defaultValue, int64_t minimum, int64_t maximum, std::string meaning) {
  Option option;
  option.name = std::move(name);
  option.type = Option::Type::Integer;
  option.defaultValue = std::to_string(defaultValue);
  option.minimum = static_cast<double>(minimum);
  option.maximum = static_cast<double>(maximum);
  option.meaning = std::move(meaning);
  return option;
}

Option numberOption(std::string name, double defaultValue, double minimum, double maximum, std::string meaning) {
  Option option;
  option.name = std::move(name);
  option.type = Option::Type::Number;
  option.defaultValue = shortest(defaultValue);
  option.minimum = minimum;
  option.maximum = maximum;
  option.meaning = std::move(meaning);
  return option;
}

Option wordOption(std::string name, std::string defaultValue, std::vector<std::string> words, std::string meaning) {
  Option option;
  option.name = std::move(name);
  option.type = Option::Type::Word;
  option.defaultValue = std::move(defaultValue);
  option.words = std::move(words);
  option.meaning = std::move(meaning);
  return option;
}

Option moduleOption(Option option) {
  option.kernel = false;
  return option;
}

std::vector<Option> layerOptions() {
  Option index = integerOption("layer_index", 0, 0, 1 << 30,
                               "sublayer, counted from 0 over the model; chooses the stream it starts to read");
  // Exactly the integers that a double holds.
  Option seed = integerOption("layer_seed", 0, 0, int64_t{1} << 53,
                              "instead of layer_index: a seed of this sublayer's own that it is drawn from");
  for (Option *option : {&index, &seed}) {
    option->words = {"none"};
    option->defaultValue = "none";
  }
  return {moduleOption(std::move(index)), moduleOption(std::move(seed))};
}

namespace {
[[noreturn]] void refuse(std::string_view recipe, const Option &option, std::string_view value) {
  std::string allowed;
  for (const std::string &word : option.words)
    allowed += (allowed.empty() ? "" : ", ") + word;
  if (option.type == Option::Type::Integer || option.type == Option::Type::Number) {
    std::string range = option.type == Option::Type::Integer ? "an integer" : "a number";
    range += std::isfinite(option.maximum) ? " from " + shortest(option.minimum) + " to " + shortest(option.maximum)
                                           : " of at least " + shortest(option.minimum);
    allowed += (allowed.empty() ? "" : ", or ") + range;
    throw UserError(ErrorId::InvalidValue, detail::join("option '", option.name, "' of recipe '", recipe, "' is '",
                                                        value, "'; it takes ", allowed));
  }
  throw UserError(ErrorId::UnknownValue, unknownWord("value of option '" + option.name + "'", value, option.words));
}
} // namespace

std::string canonicalValue(std::string_view recipe, const Option &option, std::string_view value) {
  if (option.type == Option::Type::Flag) {
    for (std::string_view yes : {"true", "1", "on", "yes"})
      if (value == yes)
        return "true";
    for (std::string_view no : {"false", "0", "off", "no"})
      if (value == no)
        return "false";
    refuse(recipe, option, value);
  }
  if (std::find(option.words.begin(), option.words.end(), value) != option.words.end())
    return std::string(value);
  const char *first = value.data(), *last = first + value.size();
  if (option.type == Option::Type::Integer) {
    int64_t number = 0;
    auto [end, error] = std::from_chars(first, last, number);
    if (error == std::errc() && end == last && number >= option.minimum && number <= option.maximum)
      return std::to_string(number);
  } else if (option.type == Option::Type::Number) {
    double number = 0;
    auto [end, error] = std::from_chars(first, last, number);
    if (error == std::errc() && end == last && std::isfinite(number) && number >= option.minimum &&
        number <= option.maximum)
      return shortest(number);
  }
  refuse(recipe, option, value);
}

} // namespace hyperjit::dsl

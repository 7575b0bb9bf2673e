// Json.h - JSON that somebody else may have written: entries, manifests, tuning results, counters.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_JSON_H
#define HYPERJIT_CORE_JSON_H

#include <nlohmann/json.hpp>

#include <string_view>

namespace hyperjit {

/// What we write nests five deep.
inline constexpr int kMaxJsonDepth = 64;

/// The value, or a discarded one: no JSON, or nested deeper than kMaxJsonDepth. Parsing takes any depth, but copying
/// and printing a value call themselves for each level, and a megabyte of '[' would be the end of the stack.
template <typename Json> Json parseJson(std::string_view text) {
  bool deep = false;
  auto shallow = [&](int depth, typename Json::parse_event_t event, Json &) {
    bool opens = event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    deep |= opens && depth >= kMaxJsonDepth;
    return !deep; // what is not kept is not built
  };
  Json value = Json::parse(text, shallow, /*allow_exceptions=*/false);
  return deep ? Json(Json::value_t::discarded) : value;
}

/// Whether the text is UTF-8, which a string in JSON must be.
inline bool fitsJson(std::string_view text) {
  try {
    (void)nlohmann::json(text).dump();
    return true;
  } catch (const nlohmann::json::type_error &) {
    return false;
  }
}

} // namespace hyperjit

#endif // HYPERJIT_CORE_JSON_H

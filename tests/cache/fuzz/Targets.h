// One function a parser: any bytes go in, nothing but the documented errors comes out, and what is taken survives a
// round trip.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace hyperjit::fuzz {

/// entry | spec | manifest. Aborts where a promise is broken; false for another name.
bool parse(std::string_view parser, const uint8_t *bytes, size_t size);

} // namespace hyperjit::fuzz

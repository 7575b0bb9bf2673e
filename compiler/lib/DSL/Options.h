//===- Options.h - Canonical values of recipe options --------------------------*- C++ -*-===//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#pragma once

#include "hyperjit/DSL.h"

namespace hyperjit::dsl {

/// One spelling for each value (on, yes, 1 are "true"; 0.000001 is "1e-06"). Throws UserError UnknownValue or
/// InvalidValue with what the option takes.
std::string canonicalValue(std::string_view recipe, const Option &option, std::string_view value);

} // namespace hyperjit::dsl

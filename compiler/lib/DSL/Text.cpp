//===- Text.cpp - hc assembly of types, numbers and attributes --------------------------===//
// SPDX-License-Identifier: Apache-2.0
//===-----------------------------------------------------------------------------------===//
#include <algorithm>
#include <charconv>
#include <cmath>

#include "Recorder.h"
#include "hyperjit/core/Error.h"

namespace hyperjit::dsl::detail {

int64_t product(const std::vector<int64_t> &sizes) {
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  if (std::any_of(sizes.begin(), sizes.end(), [](int64_t size) { return size < 1; }))
    return 0;
  int64_t result = 1;
  for (int64_t size : sizes)
    result = size > most / result ? most : result * size;
  return result;
}

static std::string separated(const std::vector<int64_t> &values) {
  std::string text;
  for (std::size_t i = 0; i < values.size(); ++i)
    text += (i ? ", " : "") + std::to_string(values[i]);
  return text;
}

std::string shapeText(const std::vector<int64_t> &shape) { return "<" + separated(shape) + ">"; }

std::string arrayText(const std::vector<int64_t> &values) {
  return values.empty() ? "array<i64>" : "array<i64: " + separated(values) + ">";
}

std::string Type::text() const {
  switch (kind) {
  case TypeKind::Rows:
    return "!hc.rows<" + std::to_string(sizes[0]) + ", d>";
  case TypeKind::Weight:
    return "!hc.weight<" + std::to_string(sizes[0]) + ", d, " + std::to_string(sizes[1]) + ">";
  case TypeKind::Coefficients:
    break;
  }
  return "!hc.coeffs" + shapeText(sizes);
}

std::string Type::description() const {
  switch (kind) {
  case TypeKind::Rows:
    return std::to_string(sizes[0]) + (sizes[0] == 1 ? " row" : " rows");
  case TypeKind::Weight:
    return "a weight [" + std::to_string(sizes[0]) + ", d, " + std::to_string(sizes[1]) + "]";
  case TypeKind::Coefficients:
    break;
  }
  return "coefficients " + shapeText(sizes);
}

int64_t Type::elements() const { return product(sizes); }

std::string numberText(double value) {
  if (!std::isfinite(value))
    throw UserError("the number " + std::to_string(value) + " is used; constants of a program are finite");
  if (value == 0)
    value = 0; // no negative zero: it would be another text for the same maths
  char buffer[64];
  auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  std::string text(buffer, end);
  std::size_t exponent = text.find('e');
  if (text.find('.') == std::string::npos)
    text.insert(exponent == std::string::npos ? text.size() : exponent, ".0");
  return text;
}

static void denseLevel(std::string &text, const std::vector<int64_t> &shape, const std::vector<double> &values,
                       std::size_t axis, std::size_t &next) {
  text += '[';
  for (int64_t i = 0; i < shape[axis]; ++i) {
    if (i)
      text += ", ";
    if (axis + 1 == shape.size())
      text += numberText(values[next++]);
    else
      denseLevel(text, shape, values, axis + 1, next);
  }
  text += ']';
}

std::string denseText(const std::vector<int64_t> &shape, const std::vector<double> &values) {
  bool splat = true;
  for (double value : values)
    splat &= value == values.front();
  std::string text = "dense<";
  std::size_t next = 0;
  if (splat)
    text += numberText(values.front());
  else
    denseLevel(text, shape, values, 0, next);
  text += "> : tensor<";
  for (int64_t size : shape)
    text += std::to_string(size) + "x";
  return text + "f64>";
}

} // namespace hyperjit::dsl::detail

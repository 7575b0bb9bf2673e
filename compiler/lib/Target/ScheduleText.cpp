//===- ScheduleText.cpp - Text of a schedule, for every exit --------------===//
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/Target/ScheduleText.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace hyperjit;

LogicalResult hyperjit::readSchedule(hc::FuncOp kernel, StringRef text, StringRef skeleton, StringRef device,
                                     ArrayRef<ScheduleNumber> table) {
  if (text.empty() || text == "auto")
    return success();
  auto [name, numbers] = text.split(':');
  if (name != skeleton)
    return kernel.emitError() << "schedule '" << text << "' names the skeleton '" << name << "'; " << device
                              << " have '" << skeleton << "'";
  llvm::StringSet<> seen;
  while (!numbers.empty()) {
    auto [pair, rest] = numbers.split(',');
    numbers = rest;
    auto [key, digits] = pair.split('=');
    auto *row = llvm::find_if(table, [&, key = key](const ScheduleNumber &row) { return row.name == key; });
    int64_t value;
    if (row == table.end() || digits.getAsInteger(10, value)) {
      std::string known = llvm::join(llvm::map_range(table, [](const ScheduleNumber &row) { return row.name; }), ", ");
      return kernel.emitError() << "schedule '" << text << "': '" << pair << "' is no number of '" << skeleton
                                << "'; it takes " << known;
    }
    if (value < row->least || value > row->most || (row->power && !llvm::isPowerOf2_64(static_cast<uint64_t>(value))))
      return kernel.emitError() << "schedule '" << text << "': " << key << " is " << value << "; legal are "
                                << row->least << " to " << row->most << (row->power ? ", powers of two" : "");
    if (!seen.insert(key).second)
      return kernel.emitError() << "schedule '" << text << "': " << key << " is given twice";
    *row->value = value;
  }
  return success();
}

std::string hyperjit::writeSchedule(StringRef skeleton, ArrayRef<std::pair<StringRef, int64_t>> numbers) {
  std::string text = skeleton.str();
  char separator = ':';
  for (auto [name, value] : numbers) {
    if (value < 0)
      continue;
    text += separator + name.str() + "=" + std::to_string(value);
    separator = ',';
  }
  return text;
}

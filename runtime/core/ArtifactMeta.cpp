// ArtifactMeta.cpp - JSON of what launching needs; written by the compiler, stored in the entry, read by the runtime.
// SPDX-License-Identifier: Apache-2.0
#include "Json.h"
#include "hyperjit/core/Artifact.h"
#include "hyperjit/core/Error.h"

#include <algorithm>
#include <fmt/format.h>

using namespace hyperjit;
using nlohmann::json;

int64_t ArtifactMeta::chunkTokens(int64_t tokens) const {
  int64_t blocks = (tokens + blockTokens - 1) / blockTokens;
  return blockTokens * std::max<int64_t>(1, (blocks + maxChunks - 1) / maxChunks);
}

int64_t ArtifactMeta::chunks(int64_t tokens) const {
  int64_t size = chunkTokens(tokens);
  return (tokens + size - 1) / size;
}

size_t ArtifactMeta::workspaceBytes(int64_t tokens) const {
  return size_t(workspaceFixed + workspacePerChunk * chunks(tokens) + workspacePerToken * tokens);
}

namespace {
struct GridName {
  GridKind kind;
  const char *name;
};
constexpr GridName kGrids[] = {{GridKind::Once, "once"},       {GridKind::Chunks, "chunks"},
                               {GridKind::Columns, "columns"}, {GridKind::Tokens, "tokens"},
                               {GridKind::Fixed, "fixed"},     {GridKind::Persistent, "persistent"}};

[[noreturn]] void fail(const std::string &why) {
  throw InternalError("the meta data of a kernel make no sense: " + why);
}

/// A number in a range; `fallback` where the key is absent.
int64_t number(const json &object, const char *key, int64_t fallback, int64_t least = 0,
               int64_t most = int64_t(1) << 46) {
  auto it = object.find(key);
  if (it == object.end() || it->is_null())
    return fallback;
  if (!it->is_number_integer())
    fail(fmt::format("{} is of type {}, not a whole number", key, it->type_name()));
  int64_t value = it->get<int64_t>();
  if (value < least || value > most)
    fail(fmt::format("{} = {} is outside {} .. {}", key, value, least, most));
  return value;
}

std::string word(const json &object, const char *key) {
  auto it = object.find(key);
  if (it == object.end() || !it->is_string())
    fail(fmt::format("no text '{}'", key));
  return it->get<std::string>();
}

/// The keys that this version does not know, kept for the next writer.
std::string rest(const json &object, std::initializer_list<std::string_view> known) {
  json others = json::object();
  for (const auto &[key, value] : object.items())
    if (std::find(known.begin(), known.end(), key) == known.end())
      others[key] = value;
  return others.empty() ? std::string() : others.dump();
}

void addRest(json &object, const std::string &others) {
  if (!others.empty())
    object.update(json::parse(others));
}

OperandInfo readOperand(const json &object) {
  OperandInfo operand;
  operand.name = word(object, "name");
  std::string kind = word(object, "kind"), scope = word(object, "scope");
  if (kind == "rows")
    operand.kind = OperandKind::Rows;
  else if (kind == "coeffs")
    operand.kind = OperandKind::Coeffs;
  else if (kind == "weight")
    operand.kind = OperandKind::Weight;
  else
    fail(fmt::format("operand kind '{}'", kind));
  if (scope != "token" && scope != "uniform")
    fail(fmt::format("operand scope '{}'", scope));
  operand.scope = scope == "token" ? OperandScope::Token : OperandScope::Uniform;
  operand.elements = number(object, "elements", 0);
  std::string dtype = word(object, "dtype");
  if (std::optional<DType> type = findDType(dtype))
    operand.dtype = *type;
  else
    fail(fmt::format("operand dtype '{}'", dtype));
  operand.output = object.value("output", false);
  operand.used = object.value("used", true);
  return operand;
}

LaunchInfo readLaunch(const json &object) {
  LaunchInfo launch;
  launch.entry = word(object, "entry");
  const json &grid = object.at("grid");
  std::string kind = grid.is_string() ? grid.get<std::string>() : word(grid, "kind");
  const GridName *row =
      std::find_if(std::begin(kGrids), std::end(kGrids), [&](const GridName &g) { return kind == g.name; });
  if (row == std::end(kGrids))
    fail(fmt::format("grid '{}' of {}", kind, launch.entry));
  launch.grid = row->kind;
  launch.extent = number(object, "extent", 0);
  if (grid.is_object()) {
    launch.extent = number(grid, "extent", launch.extent);
    launch.perBlock = number(grid, "per_block", number(grid, "tokens_per_block", 1, 1), 1);
    launch.blocks = number(grid, "blocks", 0);
    launch.perProcessor = number(grid, "per_sm", 0);
  }
  launch.block = int(number(object, "block", 1, 1, 1024));
  launch.cluster = int(number(object, "cluster", 1, 1, 16));
  launch.sharedBytes = number(object, "shared_bytes", 0, 0, 1 << 20);
  launch.offset = number(object, "offset", 0, 0, int64_t(kMaxEntryBytes));
  launch.extra = rest(object, {"entry", "grid", "extent", "block", "cluster", "shared_bytes", "offset"});
  return launch;
}

json writeLaunch(const LaunchInfo &launch) {
  json grid;
  for (const GridName &row : kGrids)
    if (row.kind == launch.grid)
      grid["kind"] = row.name;
  if (launch.perBlock != 1)
    grid[launch.grid == GridKind::Tokens ? "tokens_per_block" : "per_block"] = launch.perBlock;
  if (launch.blocks)
    grid["blocks"] = launch.blocks;
  if (launch.perProcessor)
    grid["per_sm"] = launch.perProcessor;
  json object = {{"entry", launch.entry},     {"grid", grid},
                 {"extent", launch.extent},   {"block", launch.block},
                 {"cluster", launch.cluster}, {"shared_bytes", launch.sharedBytes},
                 {"offset", launch.offset}};
  addRest(object, launch.extra);
  return object;
}

ArtifactMeta read(const json &object) {
  if (!object.is_object())
    fail(fmt::format("they are no JSON object, or nested deeper than {}", kMaxJsonDepth));
  ArtifactMeta meta;
  meta.spec = word(object, "spec");
  meta.target = word(object, "target");
  meta.schedule = word(object, "schedule");
  for (const json &operand : object.at("operands"))
    meta.operands.push_back(readOperand(operand));
  for (const json &launch : object.at("launches"))
    meta.launches.push_back(readLaunch(launch));
  static const json none = json::object(), empty = json::array();
  auto typed = [&](const char *key, const json &absent) -> const json & {
    auto it = object.find(key);
    if (it == object.end() || it->is_null())
      return absent;
    // Looking for a key in a list finds nothing and would pass as "absent".
    if (it->type() != absent.type())
      fail(fmt::format("{} is of type {}, not {}", key, it->type_name(), absent.type_name()));
    return *it;
  };
  auto part = [&](const char *key) -> const json & { return typed(key, none); };
  auto list = [&](const char *key) -> const json & { return typed(key, empty); };
  const json &workspace = part("workspace");
  meta.workspaceFixed = number(workspace, "fixed", 0);
  meta.workspacePerChunk = number(workspace, "per_chunk", 0);
  meta.workspacePerToken = number(workspace, "per_token", 0);
  const json &chunks = part("chunks");
  meta.blockTokens = number(chunks, "block_tokens", 1, 1, 1 << 24);
  meta.maxChunks = number(chunks, "max_chunks", 1, 1, 1 << 24);
  meta.scratchBytes = number(object, "scratch_bytes", 0, 0, int64_t(1) << 32);
  const json &traffic = part("traffic");
  meta.traffic.readsU = number(traffic, "reads_u", 0);
  meta.traffic.writesU = number(traffic, "writes_u", 0);
  meta.traffic.savedU = number(traffic, "saved_u", 0);
  meta.traffic.narrowBytes = number(traffic, "narrow_bytes", 0);
  meta.stages = int(number(object, "stages", 1, 0, 1024));
  for (const json &entry : list("entries")) {
    EntryInfo info;
    info.name = word(entry, "name");
    info.registers = int(number(entry, "registers", 0));
    info.sharedBytes = number(entry, "shared_bytes", 0);
    info.spills = number(entry, "spills", 0);
    meta.entries.push_back(std::move(info));
  }
  for (const json &field : list("key"))
    meta.keyFields.emplace_back(field.at(0).get<std::string>(), field.at(1).get<std::string>());
  meta.compileMilliseconds = object.value("compile_ms", 0.0);
  meta.extra = rest(object, {"spec", "target", "schedule", "operands", "launches", "workspace", "chunks",
                             "scratch_bytes", "traffic", "stages", "entries", "key", "compile_ms"});
  return meta;
}
} // namespace

ArtifactMeta ArtifactMeta::parse(std::string_view text) {
  try {
    return read(parseJson<nlohmann::json>(text));
  } catch (const json::exception &error) {
    fail(error.what());
  }
}

std::string ArtifactMeta::json() const {
  static constexpr const char *kinds[] = {"rows", "coeffs", "weight"};
  nlohmann::json object = {
      {"spec", spec},
      {"target", target},
      {"schedule", schedule},
      {"operands", nlohmann::json::array()},
      {"launches", nlohmann::json::array()},
      {"workspace", {{"fixed", workspaceFixed}, {"per_chunk", workspacePerChunk}, {"per_token", workspacePerToken}}},
      {"chunks", {{"block_tokens", blockTokens}, {"max_chunks", maxChunks}}},
      {"scratch_bytes", scratchBytes},
      {"traffic",
       {{"reads_u", traffic.readsU},
        {"writes_u", traffic.writesU},
        {"saved_u", traffic.savedU},
        {"narrow_bytes", traffic.narrowBytes}}},
      {"stages", stages},
      {"entries", nlohmann::json::array()},
      {"key", nlohmann::json::array()},
      {"compile_ms", compileMilliseconds}};
  for (const OperandInfo &operand : operands)
    object["operands"].push_back({{"name", operand.name},
                                  {"kind", kinds[int(operand.kind)]},
                                  {"scope", operand.scope == OperandScope::Token ? "token" : "uniform"},
                                  {"elements", operand.elements},
                                  {"dtype", name(operand.dtype)},
                                  {"output", operand.output},
                                  {"used", operand.used}});
  for (const LaunchInfo &launch : launches)
    object["launches"].push_back(writeLaunch(launch));
  for (const EntryInfo &entry : entries)
    object["entries"].push_back({{"name", entry.name},
                                 {"registers", entry.registers},
                                 {"shared_bytes", entry.sharedBytes},
                                 {"spills", entry.spills}});
  for (const auto &[field, value] : keyFields)
    object["key"].push_back({field, value});
  addRest(object, extra);
  return object.dump();
}

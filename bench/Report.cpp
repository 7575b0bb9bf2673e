// SPDX-License-Identifier: Apache-2.0
#include "Report.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>

namespace hyperjit::tools {

std::string tableOf(const std::vector<Row> &rows, bool schedules) {
  Table table({"spec", "tokens", "direction", "implementation", "us", "min", "max", "launched", "host", "u", "share",
               "speedup"});
  for (const Row &row : rows)
    table.add({schedules ? row.spec + " " + row.schedule : row.spec, fmt::format("{}", row.tokens), row.direction,
               row.implementation, fmt::format("{:.1f}", row.us.median), fmt::format("{:.1f}", row.us.min),
               fmt::format("{:.1f}", row.us.max), row.launched ? fmt::format("{:.1f}", row.launched->median) : "-",
               row.host ? fmt::format("{:.1f}", row.host->median) : "-", fmt::format("{:.2f}", row.u),
               fmt::format("{:.3f}", row.share), fmt::format("{:.2f}x", row.speedup)});
  return table.text();
}

Json jsonOf(const std::vector<Row> &rows) {
  auto json = [](const Timing &timing) {
    return Json{{"median", timing.median}, {"min", timing.min}, {"max", timing.max}};
  };
  Json list = Json::array();
  for (const Row &row : rows)
    list.push_back({{"implementation", row.implementation},
                    {"spec", row.spec},
                    {"tokens", row.tokens},
                    {"direction", row.direction},
                    {"mode", row.mode},
                    {"schedule", row.schedule.empty() ? Json() : Json(row.schedule)},
                    {"us", json(row.us)},
                    {"launched_us", row.launched ? json(*row.launched) : Json()},
                    {"host_us", row.host ? json(*row.host) : Json()},
                    {"u", row.u},
                    {"share", row.share},
                    {"speedup", row.speedup}});
  return list;
}

Plot plotOf(const std::vector<Row> &rows, const std::string &device, double copy, int64_t sites,
            const std::string &note) {
  Plot plot;
  plot.title = "Share of copy bandwidth, forward + backward";
  plot.subtitle = fmt::format("{}, copy {:.1f} GB/s, chains of {} sites{}", device, copy, sites, note);
  std::vector<Row> drawn; // of chains
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(drawn),
               [](const Row &row) { return row.direction == "both"; });
  std::set<int64_t> widths, tokens;
  for (const Row &row : drawn) {
    widths.insert(SiteSpec::parse(row.spec).d);
    tokens.insert(row.tokens);
  }
  const bool overWidths = widths.size() > 1 && tokens.size() == 1;
  plot.xLabel = overWidths ? "channels D" : "tokens";
  plot.yLabel = "share";
  plot.yFromZero = true;
  std::stable_sort(drawn.begin(), drawn.end(), [overWidths](const Row &a, const Row &b) {
    return overWidths ? SiteSpec::parse(a.spec).d < SiteSpec::parse(b.spec).d : a.tokens < b.tokens;
  });
  std::map<std::string, Curve> curves;
  for (const Row &row : drawn) {
    const SiteSpec spec = SiteSpec::parse(row.spec);
    Curve &curve = curves[fmt::format("{} {} n={}{}{}", row.implementation, spec.recipe, spec.n,
                                      spec.m > 1 ? fmt::format(" m={}", spec.m) : "",
                                      overWidths || widths.size() == 1 ? "" : fmt::format(" D={}", spec.d))];
    curve.dashed = row.implementation == "eager";
    curve.x.push_back(double(overWidths ? spec.d : row.tokens));
    curve.y.push_back(row.share);
  }
  for (auto &[title, curve] : curves) {
    curve.name = title;
    plot.curves.push_back(curve);
  }
  return plot;
}

} // namespace hyperjit::tools

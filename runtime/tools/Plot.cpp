// SPDX-License-Identifier: Apache-2.0
#include "Plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace hyperjit::tools {

static std::string escaped(const std::string &text) {
  std::string out;
  for (char c : text) {
    switch (c) {
    case '<':
      out += "&lt;";
      break;
    case '>':
      out += "&gt;";
      break;
    case '&':
      out += "&amp;";
      break;
    default:
      out += c;
    }
  }
  return out;
}

// The largest of 1, 2, 5 x 10^k that gives at least four steps.
static double tickStep(double span) {
  if (!(span > 0))
    return 1;
  double base = std::pow(10.0, std::floor(std::log10(span)));
  for (double factor : {1.0, 0.5, 0.2, 0.1})
    if (span / (base * factor) >= 4)
      return base * factor;
  return base / 10;
}

std::vector<double> smoothed(const std::vector<double> &values, size_t window) {
  std::vector<double> out(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    size_t half = std::min({window / 2, i, values.size() - 1 - i});
    double sum = 0;
    for (size_t j = i - half; j <= i + half; ++j)
      sum += values[j];
    out[i] = sum / double(2 * half + 1);
  }
  return out;
}

std::string Plot::svg() const {
  constexpr double width = 860, height = 480, left = 70, top = 60, bottom = 56;
  size_t longest = 0;
  for (const Curve &curve : curves)
    longest = std::max(longest, curve.name.size());
  const double right = 60 + 7 * double(std::clamp<size_t>(longest, 4, 40)); // the legend
  constexpr std::array<const char *, 10> colours = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e",
                                                    "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22"};
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  for (const Curve &curve : curves)
    for (size_t i = 0; i < std::min(curve.x.size(), curve.y.size()); ++i)
      if (std::isfinite(curve.x[i]) && std::isfinite(curve.y[i])) {
        x0 = std::min(x0, curve.x[i]);
        x1 = std::max(x1, curve.x[i]);
        y0 = std::min(y0, curve.y[i]);
        y1 = std::max(y1, curve.y[i]);
      }
  if (!(x0 <= x1)) {
    x0 = y0 = 0;
    x1 = y1 = 1;
  }
  if (yFromZero && y0 > 0)
    y0 = 0;
  if (x1 == x0)
    x1 = x0 + 1;
  if (y1 == y0)
    y1 = y0 + 1;
  double margin = 0.03 * (y1 - y0);
  y1 += margin;
  if (!yFromZero)
    y0 -= margin;
  auto px = [&](double x) { return left + (x - x0) / (x1 - x0) * (width - left - right); };
  auto py = [&](double y) { return height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom); };

  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n"
      "<text x=\"{2}\" y=\"26\" font-size=\"17\">{3}</text>\n<text x=\"{2}\" y=\"45\" fill=\"#666\">{4}</text>\n",
      width, height, left, escaped(title), escaped(subtitle));
  double step = tickStep(y1 - y0);
  for (double y = std::ceil(y0 / step) * step; y <= y1; y += step)
    out += fmt::format("<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" stroke=\"#e4e4e4\"/>"
                       "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:.4g}</text>\n",
                       left, width - right, py(y), left - 8, py(y) + 4, std::abs(y) < step / 1e6 ? 0.0 : y);
  step = tickStep(x1 - x0);
  for (double x = std::ceil(x0 / step) * step; x <= x1; x += step)
    out += fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#999\"/>"
                       "<text x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4:.4g}</text>\n",
                       px(x), height - bottom, height - bottom + 5, height - bottom + 19, x);
  out += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#999\"/>\n", left, top,
                     width - left - right, height - top - bottom);
  out += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (left + width - right) / 2,
                     height - 14, escaped(xLabel));
  out += fmt::format("<text transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
                     (top + height - bottom) / 2, escaped(yLabel));
  for (size_t c = 0; c < curves.size(); ++c) {
    const Curve &curve = curves[c];
    const char *dash = curve.dashed ? " stroke-dasharray=\"6 4\"" : "";
    std::string points, markers;
    const size_t count = std::min(curve.x.size(), curve.y.size());
    for (size_t i = 0; i < count; ++i)
      if (std::isfinite(curve.x[i]) && std::isfinite(curve.y[i])) {
        points += fmt::format("{:.1f},{:.1f} ", px(curve.x[i]), py(curve.y[i]));
        if (count <= 16) // a line through few points hides where they are, and one point has no line
          markers += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>", px(curve.x[i]),
                                 py(curve.y[i]), colours[c % colours.size()]);
      }
    out += fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"{} points=\"{}\"/>{}\n",
                       colours[c % colours.size()], dash, points, markers);
    double y = top + 12 + 20 * double(c);
    out += fmt::format("<line x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\" stroke=\"{3}\" stroke-width=\"3\"{4}/>"
                       "<text x=\"{5}\" y=\"{6}\">{7}</text>\n",
                       width - right + 12, width - right + 36, y, colours[c % colours.size()], dash, width - right + 42,
                       y + 4, escaped(curve.name));
  }
  return out + "</svg>\n";
}

} // namespace hyperjit::tools

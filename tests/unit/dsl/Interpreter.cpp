// Interpreter.cpp - see the header.
// SPDX-License-Identifier: Apache-2.0
#include "Interpreter.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace hyperjit::test {

static int64_t count(const std::vector<int64_t> &shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

Tensor::Tensor(std::vector<int64_t> shape, std::vector<double> data) : shape(std::move(shape)), data(std::move(data)) {
  this->data.resize(count(this->shape));
}

double &Tensor::at(std::initializer_list<int64_t> index) {
  int64_t flat = 0;
  auto size = shape.begin();
  for (int64_t i : index)
    flat = flat * *size++ + i;
  return data.at(flat);
}

namespace {

using Attributes = std::map<std::string, std::string>;

std::vector<int64_t> numbersIn(const std::string &text) {
  std::vector<int64_t> result;
  static const std::regex number("-?[0-9]+");
  for (auto it = std::sregex_iterator(text.begin(), text.end(), number); it != std::sregex_iterator(); ++it)
    result.push_back(std::stoll(it->str()));
  return result;
}

/// "!hc.rows<4, d>" to {4, d}.
std::vector<int64_t> shapeOf(const std::string &type, int64_t rowWidth) {
  std::string sizes = type.substr(type.find('<'));
  std::size_t d = sizes.find('d');
  if (d != std::string::npos)
    sizes.replace(d, 1, std::to_string(rowWidth));
  return numbersIn(sizes);
}

std::vector<int64_t> arrayOf(const std::string &text) { return numbersIn(text.substr(text.find(':') + 1)); }

std::vector<std::string> matches(const std::string &text, const char *pattern) {
  std::vector<std::string> result;
  std::regex regex(pattern);
  for (auto it = std::sregex_iterator(text.begin(), text.end(), regex); it != std::sregex_iterator(); ++it)
    result.push_back(it->str());
  return result;
}

Tensor elementwise(const Tensor &a, const std::function<double(double)> &f) {
  Tensor r = a;
  std::transform(r.data.begin(), r.data.end(), r.data.begin(), f);
  return r;
}

/// Visits all indices of a shape, row-major.
void each(const std::vector<int64_t> &shape, const std::function<void(const std::vector<int64_t> &)> &visit) {
  std::vector<int64_t> index(shape.size(), 0);
  for (int64_t n = count(shape); n > 0; --n) {
    visit(index);
    for (int64_t axis = static_cast<int64_t>(shape.size()) - 1; axis >= 0; --axis) {
      if (++index[axis] < shape[axis])
        break;
      index[axis] = 0;
    }
  }
}

double &element(Tensor &t, const std::vector<int64_t> &index) {
  int64_t flat = 0;
  for (std::size_t i = 0; i < index.size(); ++i)
    flat = flat * t.shape[i] + index[i];
  return t.data[flat];
}

Tensor norm(const std::vector<const Tensor *> &in, const Attributes &attributes) {
  const Tensor &x = *in[0];
  std::string kind = attributes.at("kind");
  double eps = std::stod(attributes.at("eps"));
  int64_t group = std::stoll(attributes.at("group")), d = x.shape[1], size = group * d;
  Tensor r = x;
  for (int64_t g = 0; g < x.shape[0] / group; ++g) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < size; ++i)
      sum += x.data[g * size + i];
    double mean = kind == "\"layernorm\"" ? sum / size : 0;
    for (int64_t i = 0; i < size; ++i)
      squares += std::pow(x.data[g * size + i] - mean, 2);
    for (int64_t i = 0; i < size; ++i) {
      double value = x.data[g * size + i] - mean, gain = in.size() > 1 ? in[1]->data[i % in[1]->data.size()] : 0;
      if (kind == "\"l2_unit_offset\"") {
        value *= std::sqrt(double(size)) / std::max(std::sqrt(squares), eps) * (gain + 1);
      } else {
        value *=
            kind == "\"rms_outside\"" ? 1 / (std::sqrt(squares / size) + eps) : 1 / std::sqrt(squares / size + eps);
        if (in.size() > 1)
          value *= gain;
        if (in.size() > 2)
          value += in[2]->data[i % in[2]->data.size()];
      }
      r.data[g * size + i] = value;
    }
  }
  return r;
}

Tensor sinkhorn(const Tensor &logits, const Attributes &attributes) {
  int64_t n = logits.shape[0], iterations = std::stoll(attributes.at("iterations"));
  std::string start = attributes.at("start"), place = attributes.at("place");
  bool rowFirst = attributes.at("first") == "\"row\"", log = attributes.at("log_domain") == "true";
  double eps = std::stod(attributes.at("eps")), tau = std::stod(attributes.at("tau"));
  Tensor m = elementwise(logits, [&](double l) { return l / tau; });
  auto line = [&](int64_t i, int64_t j, bool row) -> double & { return row ? m.data[i * n + j] : m.data[j * n + i]; };
  auto step = [&](bool row) {
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < n; ++j)
        sum += log ? std::exp(line(i, j, row)) : line(i, j, row);
      double divisor = place == "\"clamp\"" ? std::max(sum, eps) : place == "\"add\"" ? sum + eps : sum;
      for (int64_t j = 0; j < n; ++j)
        log ? line(i, j, row) -= std::log(sum) : line(i, j, row) /= divisor;
    }
  };
  bool softmax = start == "\"softmax_eps\"", rowMax = softmax || rowFirst;
  if (start != "\"exp_raw\"")
    for (int64_t i = 0; i < n; ++i) {
      double largest = -INFINITY;
      for (int64_t j = 0; j < n; ++j)
        largest = std::max(largest, line(i, j, rowMax));
      for (int64_t j = 0; j < n; ++j)
        line(i, j, rowMax) -= largest;
    }
  if (!log)
    m = elementwise(m, [](double l) { return std::exp(l); });
  if (softmax) {
    std::string given = place;
    place = "\"none\"";
    step(true);
    place = given;
    m = elementwise(m, [&](double p) { return p + eps; });
    step(false);
    for (int64_t t = 1; t < iterations; ++t)
      step(true), step(false);
    return m;
  }
  for (int64_t t = 0; t < iterations; ++t)
    step(rowFirst), step(!rowFirst);
  return log ? elementwise(m, [](double l) { return std::exp(l); }) : m;
}

Tensor constant(const std::string &text, const std::vector<int64_t> &shape) {
  std::vector<double> list;
  std::string body = text.substr(0, text.find("> : tensor"));
  for (const std::string &number : matches(body, "-?[0-9]+\\.[0-9]*(e[-+]?[0-9]+)?"))
    list.push_back(std::stod(number));
  if (list.size() == 1)
    list.resize(count(shape), list[0]);
  return Tensor(shape, list);
}

Tensor permutationMix(const Tensor &c, int64_t n) {
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  Tensor r({n, n});
  std::size_t index = 0;
  do {
    for (int64_t j = 0; j < n; ++j)
      r.data[j * n + order[j]] += c.data[index];
    ++index;
  } while (std::next_permutation(order.begin(), order.end()));
  return r;
}

Tensor evaluate(const std::string &name, const std::vector<const Tensor *> &in, const Attributes &attributes,
                const std::vector<int64_t> &shape) {
  static const std::map<std::string, double (*)(double)> unary = {
      {"neg", [](double a) { return -a; }},
      {"exp", [](double a) { return std::exp(a); }},
      {"log", [](double a) { return std::log(a); }},
      {"tanh", [](double a) { return std::tanh(a); }},
      {"sqrt", [](double a) { return std::sqrt(a); }},
      {"rsqrt", [](double a) { return 1 / std::sqrt(a); }},
      {"reciprocal", [](double a) { return 1 / a; }},
      {"sigmoid", [](double a) { return 1 / (1 + std::exp(-a)); }}};
  static const std::map<std::string, double (*)(double, double)> binary = {
      {"add", [](double a, double b) { return a + b; }},
      {"sub", [](double a, double b) { return a - b; }},
      {"mul", [](double a, double b) { return a * b; }},
      {"div", [](double a, double b) { return a / b; }},
      {"max", [](double a, double b) { return std::max(a, b); }}};
  if (auto f = unary.find(name); f != unary.end())
    return elementwise(*in[0], f->second);
  Tensor r(shape);
  if (auto f = binary.find(name); f != binary.end()) {
    for (std::size_t i = 0; i < r.data.size(); ++i)
      r.data[i] = f->second(in[0]->data.at(i), in[1]->data.at(i));
    return r;
  }
  if (name == "constant")
    return constant(attributes.at("value"), shape);
  const Tensor &a = *in[0];
  auto b = [&]() -> const Tensor & { return *in[1]; };
  if (name == "norm")
    return norm(in, attributes);
  if (name == "sinkhorn")
    return sinkhorn(a, attributes);
  if (name == "permutation_mix")
    return permutationMix(a, shape[0]);
  if (name == "round")
    return a;
  if (name == "reshape")
    return Tensor(shape, a.data);
  if (name == "mix" || name == "matmul") {
    for (int64_t i = 0; i < shape[0]; ++i)
      for (int64_t c = 0; c < shape[1]; ++c)
        for (int64_t j = 0; j < a.shape[1]; ++j)
          r.at({i, c}) += a.at({i, j}) * b().at({j, c});
    return r;
  }
  if (name == "scale_rows") {
    for (int64_t i = 0; i < shape[0]; ++i)
      for (int64_t c = 0; c < shape[1]; ++c)
        r.at({i, c}) = a.data[i] * b().at({i, c});
    return r;
  }
  if (name == "gather_rows" || name == "scatter_rows") {
    std::vector<int64_t> indices = arrayOf(attributes.at("indices"));
    bool gather = name == "gather_rows";
    for (std::size_t i = 0; i < indices.size(); ++i)
      for (int64_t c = 0; c < shape[1]; ++c)
        r.at({gather ? int64_t(i) : indices[i], c}) += a.at({gather ? indices[i] : int64_t(i), c});
    return r;
  }
  if (name == "fill_rows") {
    for (int64_t i = 0; i < shape[0]; ++i)
      for (int64_t c = 0; c < shape[1]; ++c)
        r.at({i, c}) = a.data[i];
    return r;
  }
  if (name == "project") {
    int64_t rows = b().shape[0];
    for (int64_t i = 0; i < a.shape[0]; ++i)
      for (int64_t c = 0; c < a.shape[1]; ++c)
        for (int64_t k = 0; k < shape[1]; ++k)
          r.at({i / rows, k}) += a.at({i, c}) * b().at({i % rows, c, k});
    return r;
  }
  if (name == "expand") {
    int64_t rows = b().shape[0];
    for (int64_t i = 0; i < shape[0]; ++i)
      for (int64_t c = 0; c < shape[1]; ++c)
        for (int64_t k = 0; k < a.shape[1]; ++k)
          r.at({i, c}) += a.at({i / rows, k}) * b().at({i % rows, c, k});
    return r;
  }
  if (name == "slice_weight" || name == "scale_weight") {
    bool slice = name == "slice_weight";
    int64_t offset = slice ? std::stoll(attributes.at("offset")) : 0;
    for (int64_t row = 0; row < shape[0]; ++row)
      for (int64_t c = 0; c < shape[1]; ++c)
        for (int64_t k = 0; k < shape[2]; ++k)
          r.at({row, c, k}) = a.at({row, c, k + offset}) * (slice ? 1.0 : b().at({row, c}));
    return r;
  }
  if (name == "dot") {
    for (int64_t i = 0; i < shape[0]; ++i)
      for (int64_t j = 0; j < shape[1]; ++j)
        for (int64_t c = 0; c < a.shape[1]; ++c)
          r.at({i, j}) += a.at({i, c}) * b().at({j, c});
    return r;
  }
  if (name == "dot_rows" || name == "row_sum") {
    for (int64_t i = 0; i < shape[0]; ++i)
      for (int64_t c = 0; c < a.shape[1]; ++c)
        r.data[i] += a.at({i, c}) * (name == "row_sum" ? 1.0 : b().at({i, c}));
    return r;
  }
  if (name == "softmax") {
    int64_t last = shape.back();
    for (std::size_t i = 0; i < r.data.size(); i += last) {
      double largest = *std::max_element(a.data.begin() + i, a.data.begin() + i + last), sum = 0;
      for (int64_t j = 0; j < last; ++j)
        sum += r.data[i + j] = std::exp(a.data[i + j] - largest);
      for (int64_t j = 0; j < last; ++j)
        r.data[i + j] /= sum;
    }
    return r;
  }
  if (name == "weight_from_rows") {
    for (int64_t row = 0; row < shape[0]; ++row)
      for (int64_t c = 0; c < shape[1]; ++c)
        for (int64_t k = 0; k < shape[2]; ++k)
          r.at({row, c, k}) = a.at({k * shape[0] + row, c});
    return r;
  }
  if (name == "rows_from_weight") {
    for (int64_t row = 0; row < a.shape[0]; ++row)
      for (int64_t c = 0; c < a.shape[1]; ++c)
        for (int64_t k = 0; k < a.shape[2]; ++k)
          r.at({k * a.shape[0] + row, c}) = a.at({row, c, k});
    return r;
  }
  if (name == "concat_weights" || name == "concat") {
    int64_t axis = name == "concat" ? std::stoll(attributes.at("axis")) : 2, offset = 0;
    for (const Tensor *part : in) {
      Tensor copy = *part;
      each(part->shape, [&](std::vector<int64_t> index) {
        double value = element(copy, index);
        index[axis] += offset;
        element(r, index) = value;
      });
      offset += part->shape[axis];
    }
    return r;
  }
  Tensor source = a;
  if (name == "slice") {
    int64_t axis = std::stoll(attributes.at("axis")), offset = std::stoll(attributes.at("offset"));
    each(shape, [&](std::vector<int64_t> index) {
      double &target = element(r, index);
      index[axis] += offset;
      target = element(source, index);
    });
    return r;
  }
  if (name == "transpose" || name == "broadcast") {
    bool transpose = name == "transpose";
    std::vector<int64_t> dims = arrayOf(attributes.at(transpose ? "permutation" : "dims"));
    each(shape, [&](const std::vector<int64_t> &index) {
      std::vector<int64_t> from(a.shape.size());
      for (std::size_t i = 0; i < dims.size(); ++i) {
        if (transpose)
          from[dims[i]] = index[i];
        else
          from[i] = a.shape[i] == 1 ? 0 : index[dims[i]];
      }
      element(r, index) = element(source, from);
    });
    return r;
  }
  if (name == "reduce_sum") {
    std::vector<int64_t> axes = arrayOf(attributes.at("axes"));
    each(a.shape, [&](const std::vector<int64_t> &index) {
      std::vector<int64_t> kept;
      for (std::size_t i = 0; i < index.size(); ++i)
        if (std::find(axes.begin(), axes.end(), int64_t(i)) == axes.end())
          kept.push_back(index[i]);
      element(r, kept.empty() ? std::vector<int64_t>{0} : kept) += element(source, index);
    });
    return r;
  }
  throw std::runtime_error("no meaning for hc." + name);
}

Attributes attributesIn(const std::string &text) {
  Attributes result;
  // Values hold no '=': a name starts after '{' or ", ".
  static const std::regex name("([A-Za-z_]+) = ");
  std::vector<std::pair<std::size_t, std::smatch>> found;
  for (auto it = std::sregex_iterator(text.begin(), text.end(), name); it != std::sregex_iterator(); ++it)
    found.emplace_back(it->position(), *it);
  for (std::size_t i = 0; i < found.size(); ++i) {
    std::size_t begin = found[i].first + found[i].second.length();
    std::size_t end = i + 1 < found.size() ? found[i + 1].first - 2 : text.size();
    result[found[i].second[1]] = text.substr(begin, end - begin);
  }
  return result;
}

} // namespace

Outcome run(const std::string &program, int64_t rowWidth, const std::map<std::string, Tensor> &arguments,
            const std::function<Tensor(const Tensor &)> &branch) {
  std::map<std::string, Tensor> values, beforeHole; // carries are made before the hole
  Outcome outcome;
  std::istringstream lines(program);
  std::string line;
  std::getline(lines, line);
  std::size_t arrow = line.find(") -> (");
  static const std::regex argument("(%[^:]+): (![^>]+>) \\{hc.operand = \"([a-z]+)\"(, hc.name = \"([^\"]+)\")?");
  std::string head = line.substr(0, arrow), results = line.substr(arrow);
  for (auto it = std::sregex_iterator(head.begin(), head.end(), argument); it != std::sregex_iterator(); ++it) {
    std::string name = (*it)[3] == "streams" ? "x" : (*it)[5].str();
    std::vector<int64_t> shape = shapeOf((*it)[2], rowWidth);
    auto given = arguments.find(name);
    if (given == arguments.end() || int64_t(given->second.data.size()) != count(shape))
      throw std::runtime_error("argument '" + name + "' is missing or has another number of elements than " +
                               (*it)[2].str());
    values[(*it)[1]] = Tensor(shape, given->second.data);
  }
  while (std::getline(lines, line) && line != "}") {
    try {
      std::vector<std::string> names = matches(line, "%[A-Za-z0-9_.]+");
      if (line.rfind("  hc.return", 0) == 0) {
        outcome.next = values.at(names[0]);
        std::vector<std::string> carries = matches(results, "hc.name = \"[^\"]+");
        for (std::size_t i = 0; i < carries.size(); ++i)
          outcome.carries[carries[i].substr(carries[i].find('"') + 1)] = beforeHole.at(names[i + 1]);
        continue;
      }
      std::size_t equals = line.find(" = hc."), types = line.rfind(" : (");
      std::string left = line.substr(0, equals), right = line.substr(equals + 6, types - equals - 6);
      std::string operation = right.substr(0, right.find_first_of(" {"));
      std::size_t brace = right.find('{');
      std::vector<std::string> made = matches(left, "%[A-Za-z0-9_.]+");
      std::vector<const Tensor *> in;
      for (const std::string &name : matches(right.substr(0, brace), "%[A-Za-z0-9_.]+"))
        in.push_back(&values.at(name));
      if (operation == "branch") {
        outcome.input = *in[0];
        std::vector<Tensor> out = {branch(*in[0])};
        for (std::size_t i = 1; i < in.size(); ++i)
          out.push_back(*in[i]);
        Tensor streams = values.at("%x");
        // Only the streams and what crosses are left: this is what the rule of the hole means.
        beforeHole = std::exchange(values, {});
        values["%x"] = std::move(streams);
        for (std::size_t i = 0; i < made.size(); ++i)
          values[made[i]] = out.at(i);
        continue;
      }
      std::string type = line.substr(line.rfind(" -> ") + 4);
      std::string attributes = brace == std::string::npos ? "" : right.substr(brace + 1, right.rfind('}') - brace - 1);
      Tensor value = evaluate(operation, in, attributesIn(attributes), shapeOf(type, rowWidth));
      values[made.at(0)] = std::move(value);
    } catch (const std::exception &error) {
      throw std::runtime_error(line + "\n  " + error.what());
    }
  }
  return outcome;
}

} // namespace hyperjit::test

// Connection: parameters from a recipe's declaration, and the chain of fused operators.
// SPDX-License-Identifier: Apache-2.0

#include "Loading.h"
#include "OpPlan.h"
#include "StreamState.h"

#include <hyperjit/core/Error.h>
#include <hyperjit/core/ProgramSource.h>
#include <hyperjit/torch/Connection.h>
#include <hyperjit/torch/Ops.h>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/serialize/archive.h>

#include <algorithm>
#include <charconv>

namespace hyperjit::nn {
namespace {

constexpr const char *kSpecAttribute = "hyperjit_spec";

DType dtypeOf(at::ScalarType type, const char *what) {
  switch (type) {
  case at::kBFloat16:
    return DType::BFloat16;
  case at::kHalf:
    return DType::Float16;
  case at::kFloat:
    return DType::Float32;
  case at::kDouble:
    return DType::Float64;
  default:
    break;
  }
  TORCH_CHECK(false, "hyperjit::nn: ", what, " is ", type, "; BFloat16, Half, Float and Double are supported");
}

/// Holds the parameters of a dotted name's first part: "norm.gamma" is `gamma` of the child `norm`.
class ParameterGroupImpl : public torch::nn::Module {
public:
  ParameterGroupImpl() : Module("ParameterGroup") {}
};

at::Tensor initialValue(const std::string &recipe, const ParameterInfo &info, at::ScalarType type) {
  const Initialisation &start = info.initialisation;
  at::Tensor value = at::empty(info.shape, at::TensorOptions().dtype(type));
  // A view: what is drawn below leaves the first slices alone.
  const auto drawn = [&] { return value.zero_().narrow(0, start.zeroSlices, value.size(0) - start.zeroSlices); };
  switch (start.kind) {
  case Initialisation::Kind::Constant:
    return value.fill_(start.first);
  case Initialisation::Kind::Normal:
    drawn().normal_(start.first, start.second);
    return value;
  case Initialisation::Kind::Uniform:
    drawn().uniform_(start.first, start.second);
    return value;
  case Initialisation::Kind::Values:
    if (static_cast<int64_t>(start.values.size()) != value.numel())
      throw InternalError("parameter '" + info.name + "' has " + std::to_string(value.numel()) + " elements and " +
                          std::to_string(start.values.size()) + " initial values");
    return value.copy_(at::tensor(start.values, at::kDouble).reshape(info.shape));
  case Initialisation::Kind::PerLayer:
    throw UserError(
        ErrorId::InvalidValue,
        "recipe '" + recipe + "': the initial values of parameter '" + info.name +
            "' depend on which sublayer this is; give layerIndex (layer_index=0 for the first of the model, ...), "
            "or layerSeed (layer_seed=...), a seed of this layer's own to draw it from");
  case Initialisation::Kind::Unknown:
    throw UserError(ErrorId::Unsupported,
                    "parameter '" + info.name + "' of recipe '" + recipe +
                        "' has no initial value: the recipe is a recorded program, whose text holds "
                        "none; a library that calls hyperjit::define has them");
  }
  return value;
}

} // namespace

//===----------------------------------------------------------------------===//
// Options
//===----------------------------------------------------------------------===//

ConnectionOptions::ConnectionOptions(const SiteSpec &spec)
    : recipe_(spec.recipe), dim_(spec.d), streams_(spec.n), fracs_(spec.m),
      parameterDtype_(ops::scalarType(spec.weight)) {
  for (const auto &[name, value] : spec.options) {
    int64_t number = 0;
    const char *last = value.data() + value.size();
    const auto [end, error] = std::from_chars(value.data(), last, number);
    const bool isNumber = error == std::errc() && end == last;
    if (name == "layer_index" && isNumber)
      layerIndex_ = number;
    else if (name == "layer_seed" && isNumber)
      layerSeed_ = number;
    else if ((name != "layer_index" && name != "layer_seed") || value != "none")
      options_.emplace_back(name, value); // what is no number here is the recipe's to refuse
  }
}

SiteSpec ConnectionOptions::spec(at::ScalarType stream) const {
  constexpr int64_t kLargest = std::numeric_limits<int>::max();
  if (streams_ < 1 || streams_ > kLargest || fracs_ < 1 || fracs_ > kLargest || dim_ < 1)
    throw UserError(ErrorId::InvalidValue, "connection '" + recipe_ + "': streams n=" + std::to_string(streams_) +
                                               ", fracs m=" + std::to_string(fracs_) +
                                               ", dim D=" + std::to_string(dim_) + "; each must be at least 1");
  SiteSpec spec;
  spec.recipe = recipe_;
  spec.n = static_cast<int>(streams_);
  spec.m = static_cast<int>(fracs_);
  spec.d = dim_;
  spec.stream = spec.branchIn = spec.branchOut = dtypeOf(stream, "the streams' dtype");
  spec.weight = dtypeOf(parameterDtype_, "parameterDtype");
  spec.options = options_;
  spec.validate();
  const RecipeInfo info = ProgramSource::global().describe(recipe_);
  const auto add = [&](const char *name, const std::optional<int64_t> &value) {
    const bool known = std::any_of(info.options.begin(), info.options.end(),
                                   [name](const RecipeOption &option) { return option.name == name; });
    if (known && value)
      spec.options.emplace_back(name, std::to_string(*value));
  };
  add("layer_index", layerIndex_);
  add("layer_seed", layerSeed_);
  return spec;
}

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

ConnectionImpl::ConnectionImpl(ConnectionOptions options)
    : ConnectionImpl("hyperjit::nn::Connection", std::move(options)) {}

ConnectionImpl::ConnectionImpl(std::string name, ConnectionOptions given)
    : Module(name), options(std::move(given)), typeName(std::move(name)) {
  const SiteSpec spec = options.spec();
  program = ProgramSource::global().site(spec);
  declared = ProgramSource::global().parameters(spec);
  reset();
}

void ConnectionImpl::reset() {
  const c10::AutoGradMode noGrad(false);
  values.clear();
  for (const ParameterInfo &info : declared) {
    at::Tensor value = initialValue(options.recipe(), info, options.parameterDtype());
    // A dot starts a child module, as in the Python libraries whose state dicts use these names.
    const size_t dot = info.name.rfind('.');
    Module *holder = this;
    if (dot != std::string::npos) {
      for (size_t begin = 0; begin < dot;) {
        const size_t end = std::min(info.name.find('.', begin), dot);
        const std::string part = info.name.substr(begin, end - begin);
        auto children = holder->named_children();
        holder = children.contains(part) ? children[part].get()
                                         : holder->register_module(part, std::make_shared<ParameterGroupImpl>()).get();
        begin = end + 1;
      }
    }
    const std::string leaf = dot == std::string::npos ? info.name : info.name.substr(dot + 1);
    auto existing = holder->named_parameters(/*recurse=*/false);
    if (existing.contains(leaf)) {
      existing[leaf].set_data(value.to(existing[leaf].options()));
      values.push_back(existing[leaf]);
    } else
      values.push_back(holder->register_parameter(leaf, value));
  }
}

std::map<std::string, at::Tensor> ConnectionImpl::namedSiteParameters() const {
  std::map<std::string, at::Tensor> result;
  for (size_t i = 0; i < declared.size(); ++i)
    result[declared[i].name] = values[i];
  return result;
}

void ConnectionImpl::pretty_print(std::ostream &stream) const {
  // Parameters are of one dtype, unless they were converted one by one.
  SiteSpec now = program->spec;
  if (!values.empty() && std::all_of(values.begin(), values.end(), [&](const at::Tensor &value) {
        return value.scalar_type() == values.front().scalar_type() && value.is_floating_point();
      }))
    now.weight = dtypeOf(values.front().scalar_type(), "the parameters' dtype");
  stream << typeName << "(" << now.text();
  if (options.layerIndex())
    stream << ", layer_index=" << *options.layerIndex();
  if (options.layerSeed())
    stream << ", layer_seed=" << *options.layerSeed();
  stream << ")";
}

std::shared_ptr<ConnectionImpl> ConnectionImpl::make() const { return std::make_shared<ConnectionImpl>(options); }

/// LibTorch's own clones ask for all gradients.
static std::shared_ptr<torch::nn::Module> cloneOf(const torch::nn::Module &module,
                                                  const std::optional<at::Device> &device) {
  std::shared_ptr<torch::nn::Module> copy = module.clone(device);
  auto targets = copy->named_parameters();
  for (const auto &source : module.named_parameters())
    if (at::Tensor *target = targets.find(source.key()))
      target->set_requires_grad(source.value().requires_grad());
  return copy;
}

std::shared_ptr<torch::nn::Module> ConnectionImpl::clone(const std::optional<at::Device> &device) const {
  std::shared_ptr<ConnectionImpl> copy = make();
  if (branchModule)
    copy->wrapModule(cloneOf(*branchModule, device), branchCall);
  else
    copy->branchFunction = branchFunction;
  copy->copyFrom(*this, device);
  return copy;
}

void ConnectionImpl::clone_(Module &other, const std::optional<at::Device> &device) {
  auto *source = dynamic_cast<ConnectionImpl *>(&other);
  TORCH_CHECK(source, typeName, ": cannot take the parameters of a module of another type, ", other.name());
  TORCH_CHECK(!branchModule || source->branchModule, typeName, ": cannot take the parameters of ",
              source->program->spec.text(), ": this layer's branch is ",
              branchModule ? branchModule->name() : std::string(), ", that one's is no module");
  if (branchModule)
    copyBranch(*branchModule, *source->branchModule, device);
  else if (source->branchModule)
    wrapModule(cloneOf(*source->branchModule, device), source->branchCall);
  else if (!branchFunction)
    branchFunction = source->branchFunction;
  copyFrom(*source, device);
}

// In place: what holds this layer may hold its branch under a name of its own.
void ConnectionImpl::copyBranch(Module &mine, const Module &other, const std::optional<at::Device> &device) const {
  const c10::AutoGradMode noGrad(false);
  auto copyAll = [&](const auto &targets, const auto &sources, const char *what) {
    TORCH_CHECK(targets.size() == sources.size(), typeName, ": branch ", mine.name(), " has ", targets.size(), " ",
                what, ", the one to copy has ", sources.size());
    for (const auto &target : targets) {
      const at::Tensor *source = sources.find(target.key());
      TORCH_CHECK(source, typeName, ": the branch to copy has no ", target.key(), ", which ", mine.name(), " has");
      target.value().set_data(device ? source->to(*device, /*non_blocking=*/false, /*copy=*/true) : source->clone());
      target.value().set_requires_grad(source->requires_grad());
    }
  };
  copyAll(mine.named_parameters(), other.named_parameters(), "parameters");
  copyAll(mine.named_buffers(), other.named_buffers(), "buffers");
}

void ConnectionImpl::copyFrom(const ConnectionImpl &other, const std::optional<at::Device> &device) {
  const c10::AutoGradMode noGrad(false);
  TORCH_CHECK(values.size() == other.values.size(), typeName, ": cannot take the parameters of ",
              other.program->spec.text());
  for (size_t i = 0; i < values.size(); ++i) {
    const at::Tensor &source = other.values[i];
    values[i].set_data(device ? source.to(*device, /*non_blocking=*/false, /*copy=*/true) : source.clone());
    values[i].set_requires_grad(source.requires_grad());
  }
  auto refuseMissing = [&](const auto &here, const auto &there, const char *what) {
    for (const auto &item : there)
      TORCH_CHECK(here.contains(item.key()), typeName, ": clone() cannot carry the ", what, " '", item.key(),
                  "', which was registered from outside; register it in a module that holds this layer");
  };
  refuseMissing(named_parameters(), other.named_parameters(), "parameter");
  refuseMissing(named_buffers(), other.named_buffers(), "buffer");
  const auto mine = named_modules("", /*include_self=*/false), theirs = other.named_modules("", /*include_self=*/false);
  refuseMissing(mine, theirs, "module");
  // Each module has a mode of its own: a branch may be frozen. train() reaches all below, so those below come later.
  train(other.is_training());
  for (const auto &module : mine)
    if (const auto *source = theirs.find(module.key()))
      module.value()->train((*source)->is_training());
}

void ConnectionImpl::save(torch::serialize::OutputArchive &archive) const {
  Module::save(archive);
  archive.write(kSpecAttribute, c10::IValue(spec().text()));
}

void ConnectionImpl::load(torch::serialize::InputArchive &archive) {
  c10::IValue value;
  if (archive.try_read(kSpecAttribute, value) && value.isString()) {
    SiteSpec saved = SiteSpec::parse(value.toStringRef()), mine = spec();
    // Dtypes may differ: what the file holds is converted to what the parameters are.
    saved.weight = mine.weight;
    saved.stream = saved.branchIn = saved.branchOut = mine.stream;
    if (!(saved == mine))
      throw UserError(ErrorId::InvalidValue, typeName + ": the archive holds " + saved.text() + ", this module is " +
                                                 mine.text() + "; make the module with the saved options");
  }
  torch::serialize::InputArchive branch;
  if (!named_children().contains("branch") && archive.try_read("branch", branch) && !branch.keys().empty())
    throw UserError(ErrorId::InvalidFile,
                    typeName + ": the archive holds a branch, this layer has no module for it; wrap() one before load");
  ParameterLoader loader(typeName, archive);
  for (size_t i = 0; i < values.size(); ++i)
    loader.read(declared[i].name, values[i]);
  loader.readOthers(
      *this,
      [&](const std::string &name) {
        return std::any_of(declared.begin(), declared.end(), [&](const auto &info) { return info.name == name; });
      },
      [](const Module &child) { return dynamic_cast<const ParameterGroupImpl *>(&child) != nullptr; });
  loader.finish();
}

//===----------------------------------------------------------------------===//
// Specs for the dtypes at hand
//===----------------------------------------------------------------------===//

SiteSpec ConnectionImpl::spec(at::ScalarType stream) const { return site(stream, stream)->program->spec; }

at::ScalarType ConnectionImpl::weightType() const {
  if (values.empty())
    return options.parameterDtype();
  const at::ScalarType type = values[0].scalar_type();
  for (size_t i = 1; i < values.size(); ++i)
    TORCH_CHECK(values[i].scalar_type() == type, typeName, ": parameter '", declared[i].name, "' is ",
                values[i].scalar_type(), " and '", declared[0].name, "' is ", type,
                "; all parameters of a layer must have one dtype");
  return type;
}

std::shared_ptr<const ConnectionImpl::Site> ConnectionImpl::site(at::ScalarType stream,
                                                                 at::ScalarType branchOut) const {
  const at::ScalarType weight = weightType();
  std::lock_guard lock(mutex);
  for (const auto &known : sites)
    if (known->stream == stream && known->branchOut == branchOut && known->weight == weight)
      return known;
  SiteSpec spec = program->spec;
  spec.stream = spec.branchIn = dtypeOf(stream, "the streams' dtype");
  spec.branchOut = dtypeOf(branchOut, "the branch output's dtype");
  spec.weight = dtypeOf(weight, "the parameters' dtype");
  auto made = std::make_shared<Site>();
  made->stream = stream;
  made->branchOut = branchOut;
  made->weight = weight;
  made->program = ProgramSource::global().site(spec);
  made->text = made->program->spec.text();
  sites.push_back(made);
  return made;
}

//===----------------------------------------------------------------------===//
// The chain
//===----------------------------------------------------------------------===//

std::pair<at::Tensor, Stream> ConnectionImpl::widthConnection(const Stream &stream) {
  TORCH_CHECK(stream.state, typeName, ": the stream is empty; make one from streams x [..., n=", options.streams(),
              ", D=", options.dim(), "]");
  Stream::State &in = *stream.state;
  TORCH_CHECK(!in.open, typeName, ": the branch of ", in.site,
              " has not returned; call depthConnection(y, stream) on its layer first");
  const bool gradMode = at::GradMode::is_enabled(), inferenceMode = c10::InferenceMode::is_enabled();
  const SiteSpec &mine = program->spec;
  // Sites made under different modes stay apart, and sizes that do not fit are for before() to refuse by name.
  const bool fuse = in.pending() && in.gradMode == gradMode && in.inferenceMode == inferenceMode &&
                    in.spec.n == mine.n && in.spec.m == mine.m && in.spec.d == mine.d;
  const at::Tensor x = fuse ? in.x : in.materialise();
  const auto here = site(x.scalar_type(), x.scalar_type());
  const SiteSignature &signature = here->program->signature;

  std::vector<at::Tensor> carries;
  for (const CarryInfo &carry : signature.carriesIn) {
    at::Tensor value = stream.carry(carry.name);
    if (!value.defined()) { // nobody made it yet: its declared start, for every token
      if (carry.start.empty())
        throw UserError(ErrorId::Unsupported, "carry '" + carry.name + "' of recipe '" + mine.recipe +
                                                  "' has no start value: the recipe is a recorded program, whose text "
                                                  "holds none");
      std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end() - std::min<int64_t>(x.dim(), 2));
      shape.push_back(carry.size);
      value = at::empty(shape, x.options().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
      for (int64_t i = 0; i < carry.size; ++i) // no copy from the host: graphs are captured here
        value.select(-1, i).fill_(carry.start[i]);
    }
    carries.push_back(std::move(value));
  }

  auto state = std::make_shared<Stream::State>();
  std::vector<at::Tensor> outputs;
  size_t next = 0;
  if (fuse) {
    in.checkVersions();
    in.keepForThisStream();
    outputs = ops::boundary(in.x, in.y, in.coefficients, values, carries, in.site + "|" + here->text);
    state->x = outputs[next++];
  } else {
    std::tie(state->x, outputs) = ops::begin(x, values, carries, here->text);
    // Under no_grad the write that comes later must not find a gradient path that eager code would not have.
    if (!gradMode)
      state->x = x.detach();
  }
  at::Tensor u = outputs[next++];
  const size_t crossing =
      (signature.tokenCoefficients > 0) + (signature.uniformCoefficients > 0) + (signature.channelRows > 0);
  state->coefficients.assign(outputs.begin() + next, outputs.begin() + next + crossing);
  next += crossing;
  state->carries = in.carries;
  for (const CarryInfo &carry : signature.carriesOut)
    state->carries[carry.name] = outputs[next++];
  state->site = here->text;
  state->spec = here->program->spec;
  state->owner = this;
  state->open = true;
  state->gradMode = gradMode;
  state->inferenceMode = inferenceMode;
  state->recordVersions();
  state->recordStream();
  return {u, Stream(state)};
}

Stream ConnectionImpl::depthConnection(const at::Tensor &y, const Stream &stream) {
  TORCH_CHECK(stream.state && stream.state->open, typeName,
              ": depthConnection needs the stream that widthConnection returned");
  TORCH_CHECK(stream.state->owner == this, typeName, ": depthConnection got a stream that another layer opened, ",
              stream.state->site);
  const Stream::State &open = *stream.state;
  TORCH_CHECK(y.defined(), typeName, ": the branch output y is undefined; [..., D=", options.dim(), "] is supported");
  bool fits = y.dim() == open.x.dim() - 1 && y.size(-1) == options.dim();
  for (int64_t axis = 0; fits && axis + 2 < open.x.dim(); ++axis)
    fits = y.size(axis) == open.x.size(axis);
  TORCH_CHECK(fits, typeName, ": the branch output y has sizes ", y.sizes(), "; it must have those of the streams ",
              open.x.sizes(), " without the stream axis");
  TORCH_CHECK(y.is_floating_point() && y.device() == open.x.device(), typeName, ": the branch output y is ",
              y.scalar_type(), " on ", y.device(), "; a floating-point tensor on ", open.x.device(), " is supported");
  auto state = std::make_shared<Stream::State>(open);
  state->open = false;
  const auto here = site(open.x.scalar_type(), y.scalar_type());
  state->site = here->text;
  state->spec = here->program->spec;
  state->y = open.gradMode ? y : y.detach();
  state->keepForThisStream(); // the branch may have come from another stream than the one that opened the site
  state->recordStream();
  state->yVersion = Stream::State::versionOf(state->y);
  return Stream(std::move(state));
}

Stream ConnectionImpl::forward(const Stream &stream, const Branch &branch) {
  TORCH_CHECK(branch || branchModule || branchFunction, typeName,
              ": no branch; call wrap(branch), forward(stream, branch), or widthConnection and "
              "depthConnection by hand");
  auto [u, open] = widthConnection(stream);
  const at::Tensor y = branch ? branch(u) : branchModule ? branchCall(*branchModule, u) : branchFunction(u);
  return depthConnection(y, open);
}

std::shared_ptr<ConnectionImpl> ConnectionImpl::wrapModule(std::shared_ptr<torch::nn::Module> module, ModuleCall call) {
  TORCH_CHECK(!branchModule && !branchFunction, typeName, ": this layer already has a branch");
  TORCH_CHECK(module, typeName, ": the branch module is empty");
  branchModule = register_module("branch", std::move(module));
  branchCall = call;
  return std::dynamic_pointer_cast<ConnectionImpl>(shared_from_this());
}

std::shared_ptr<ConnectionImpl> ConnectionImpl::wrapFunction(Branch branch) {
  TORCH_CHECK(!branchModule && !branchFunction, typeName, ": this layer already has a branch");
  TORCH_CHECK(branch, typeName, ": the branch function is empty");
  branchFunction = std::move(branch);
  return std::dynamic_pointer_cast<ConnectionImpl>(shared_from_this());
}

} // namespace hyperjit::nn

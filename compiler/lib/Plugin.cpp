//===- Plugin.cpp - The one exported symbol of the compiler ---------------===//
// SPDX-License-Identifier: Apache-2.0
//
// JSON in, meta JSON and payload out (Compiler.h). A fresh MLIRContext per
// request, no thread pool: requests may come from any thread.
//===----------------------------------------------------------------------===//
#include "PluginVersion.h"
#include "hyperjit/Compiler.h"
#include "hyperjit/Pipeline.h"
#include "hyperjit/Target/CpuImage.h"
#include "hyperjit/Target/CudaSource.h"

#include "mlir/IR/Diagnostics.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/xxhash.h"

using namespace mlir;
using namespace hyperjit;
using llvm::StringRef;

namespace json = llvm::json;

namespace {

/// How the runtime spells a storage type, and how MLIR does.
constexpr std::pair<StringLiteral, StringLiteral> typeNames[] = {
    {"bf16", "bf16"}, {"fp16", "f16"}, {"fp32", "f32"}, {"fp64", "f64"}};

std::string mlirTypeName(StringRef name) {
  for (auto [runtime, mlir] : typeNames)
    if (runtime == name)
      return mlir.str();
  return name.str();
}
StringRef runtimeTypeName(Type type) {
  return isa<BFloat16Type>(type) ? "bf16" : isa<Float16Type>(type) ? "fp16" : isa<Float32Type>(type) ? "fp32" : "fp64";
}

std::string text(const json::Object &object, StringRef key) { return object.getString(key).value_or("").str(); }

std::optional<SiteRequest> siteOf(const json::Object *object) {
  if (!object)
    return std::nullopt;
  SiteRequest site;
  site.program = text(*object, "program");
  site.width = object->getInteger("d").value_or(0);
  site.fracs = object->getInteger("m").value_or(1);
  if (auto saved = object->getInteger("saved"))
    site.saved = *saved;
  site.stream = mlirTypeName(text(*object, "stream"));
  site.branchIn = mlirTypeName(text(*object, "branch_in"));
  site.branchOut = mlirTypeName(text(*object, "branch_out"));
  site.weight = mlirTypeName(text(*object, "weight"));
  return site;
}

std::string digestOf(StringRef text) {
  return llvm::utohexstr(llvm::xxh3_64bits(text), /*LowerCase=*/true, /*Width=*/16).substr(0, 8);
}

/// A kernel's name says what it is; a digest keeps two kernels of one role apart in a profile.
std::string kernelName(const json::Object &request, StringRef role, bool backward) {
  std::string name = (llvm::Twine("hc_") + role + (backward ? "_backward" : "_forward")).str();
  // CUDA text gets the digest of what it says (nameByText).
  if (StringRef(text(request, "target")).starts_with("sm_"))
    return name;
  return name + "_" +
         digestOf(text(request, "spec") + "\n" + text(request, "target") + "\n" + text(request, "schedule"));
}

/// The digest in an entry's name is that of what its part says: requests that end in the same part then have equal
/// texts, which the runtime compiles once.
void nameByText(cuda::CudaSource &source, StringRef name) {
  const std::string mark = (llvm::Twine("\n") + cuda::CudaSource::partMark).str();
  const StringRef text = source.text;
  size_t begin = text.find(mark);
  const StringRef common = text.substr(0, begin);
  std::string named = common.str();
  for (json::Value &launch : source.launches) {
    const size_t end = text.find(mark, begin + mark.size());
    const StringRef part = text.slice(begin, end);
    const std::string full = (llvm::Twine(name) + "_" + digestOf((common + part).str())).str();
    auto renamed = [&](StringRef text) {
      std::string result;
      for (size_t at = text.find(name); at != StringRef::npos; at = text.find(name)) {
        result += (text.take_front(at) + full).str();
        text = text.drop_front(at + name.size());
      }
      return result + text.str();
    };
    named += renamed(part);
    json::Value &entry = (*launch.getAsObject())["entry"];
    entry = renamed(*entry.getAsString());
    begin = end;
  }
  source.text = std::move(named);
}

json::Array describeOperands(hc::FuncOp kernel) {
  json::Array operands;
  hc::Uniformity uniformity;
  auto describe = [&](Type type, DictionaryAttr attrs, bool uniform, bool output, bool used) {
    auto name = attrs.getAs<StringAttr>(hc::HCDialect::nameAttrName);
    auto dtype = attrs.getAs<TypeAttr>(hc::HCDialect::dtypeAttrName);
    operands.push_back(json::Object{{"name", name ? name.getValue() : ""},
                                    {"kind", isa<hc::RowsType>(type)     ? "rows"
                                             : isa<hc::CoeffsType>(type) ? "coeffs"
                                                                         : "weight"},
                                    {"scope", uniform ? "uniform" : "token"},
                                    {"elements", hc::elementCount(type)},
                                    {"dtype", dtype ? runtimeTypeName(dtype.getValue()) : "fp32"},
                                    {"output", output},
                                    {"used", used}});
  };
  for (BlockArgument argument : kernel.getArguments())
    describe(argument.getType(), kernel.getArgAttrDict(argument.getArgNumber()), uniformity.isUniform(argument), false,
             !argument.use_empty());
  for (unsigned i = 0; i < kernel.getNumResults(); ++i) {
    DictionaryAttr attrs = kernel.getResultAttrDict(i);
    describe(kernel.getResultTypes()[i], attrs, attrs && attrs.contains(hc::HCDialect::uniformAttrName), true, true);
  }
  return operands;
}

class Request {
public:
  Request(StringRef source, HyperjitSink sink, void *sinkContext)
      : source(source), sink(sink), sinkContext(sinkContext), context(MLIRContext::Threading::DISABLED) {
    context.getOrLoadDialect<hc::HCDialect>();
    context.printOpOnDiagnostic(false);
  }

  int run() {
    ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diagnostic) {
      llvm::raw_string_ostream os(errors);
      os << (errors.empty() ? "" : "\n") << diagnostic << lineOf(diagnostic.getLocation());
      for (Diagnostic &note : diagnostic.getNotes())
        os << "\n  " << note;
      return success();
    });
    llvm::Expected<json::Value> parsed = json::parse(source);
    if (!parsed)
      return fail("internal", "request", "the request is no JSON: " + llvm::toString(parsed.takeError()));
    const json::Object *object = parsed->getAsObject();
    if (!object)
      return fail("internal", "request", "the request is no JSON object");
    read(*object);
    if (request.cut != "early" && request.cut != "late" && request.cut != "auto")
      return fail("user", "request", "unknown cut '" + request.cut + "'; there are early, late and auto");
    const std::string role = request.role, direction = text(*object, "direction");
    if (role != "before" && role != "boundary" && role != "after")
      return fail("internal", "request", "unknown role '" + role + "'; there are before, boundary and after");
    if (direction != "forward" && direction != "backward")
      return fail("internal", "request", "unknown direction '" + direction + "'; there are forward and backward");
    if (request.bucket != "small" && request.bucket != "large")
      return fail("internal", "request", "unknown bucket '" + request.bucket + "'; there are small and large");
    if (!request.after != (role == "before") || !request.before != (role == "after"))
      return fail("internal", "request", "role '" + role + "' lacks a site");

    if (stage == "recipe")
      return reply(json::Object{{"stage", stage}},
                   (request.after ? request.after->program : "") + (request.before ? request.before->program : ""));
    std::string printed;
    bool found = false;
    StageCallback onStage = [&](StringRef name, ModuleOp module) {
      if (name != stage)
        return true;
      llvm::raw_string_ostream os(printed);
      module.print(os);
      os << "\n";
      found = true;
      return false;
    };
    OwningOpRef<ModuleOp> module = buildKernel(&context, request, onStage, failedPass);
    if (found)
      return reply(json::Object{{"stage", stage}}, printed);
    if (!module)
      return fail("user", failedPass, errors);
    if (stage.empty() && listed == 0 && !request.backward && request.save && !backwardToo(failedPass))
      return fail("user", failedPass,
                  "its backward is refused, so nothing is saved for it (without gradients forward runs): " + errors);
    hc::FuncOp kernel = *module->getOps<hc::FuncOp>().begin();
    if (!uniformResultsHold(kernel))
      return fail("internal", "hc-form-phases", "a result of a parameter belongs to a token");
    kernel->setAttr("hc.bucket", StringAttr::get(&context, request.bucket));
    bool gpu = StringRef(request.target).starts_with("sm_");
    if (listed > 0)
      return list(kernel, gpu, object->getObject("machine"));
    return gpu ? buildCuda(kernel) : buildCpu(kernel);
  }

private:
  void read(const json::Object &object) {
    stage = text(object, "stage");
    spec = text(object, "spec");
    request.role = text(object, "role");
    request.backward = text(object, "direction") == "backward";
    request.save = object.getBoolean("save").value_or(false);
    request.given = text(object, "given");
    request.want = text(object, "want");
    if (auto cut = object.getString("cut"))
      request.cut = cut->str();
    request.bucket = text(object, "bucket");
    request.target = text(object, "target");
    request.schedule = text(object, "schedule");
    listed = object.getInteger("list").value_or(0);
    if (listed > 0)
      stage.clear();
    request.after = siteOf(object.getObject("after"));
    request.before = siteOf(object.getObject("before"));
    if (request.role == "before")
      request.after.reset();
    if (request.role == "after")
      request.before.reset();
    request.name = kernelName(object, request.role, request.backward);
  }

  /// Whether what is saved for backward will serve, here and where the branch has returned: a refusal belongs before the
  /// forward that it makes useless.
  bool backwardToo(std::string &failedPass) {
    CompileRequest backward = request;
    backward.backward = true, backward.save = false;
    backward.given = "xuck", backward.want = "xycpk";
    if (!buildKernel(&context, backward, {}, failedPass))
      return false;
    if (!request.before)
      return true;
    backward.role = "after";
    backward.after = std::exchange(backward.before, std::nullopt);
    return buildKernel(&context, backward, {}, failedPass).get();
  }

  /// What is said to be a parameter's gradient does not depend on a token.
  static bool uniformResultsHold(hc::FuncOp kernel) {
    hc::Uniformity uniformity;
    return llvm::all_of(llvm::enumerate(kernel.getReturn()->getOperands()), [&](auto result) {
      return !kernel.getResultAttr(result.index(), hc::HCDialect::uniformAttrName) ||
             uniformity.isUniform(result.value());
    });
  }

  json::Object meta(hc::FuncOp kernel) {
    auto number = [&](StringRef name) { return kernel->getAttrOfType<IntegerAttr>(name).getInt(); };
    return json::Object{{"spec", spec},
                        {"target", request.target},
                        {"operands", describeOperands(kernel)},
                        {"traffic", json::Object{{"reads_u", number("hc.reads_u")},
                                                 {"writes_u", number("hc.writes_u")},
                                                 {"saved_u", number("hc.saved_u")},
                                                 {"narrow_bytes", number("hc.narrow_bytes")}}},
                        {"stages", number("hc.stages")}};
  }

  int list(hc::FuncOp kernel, bool gpu, const json::Object *machine) {
    SmallVector<RankedSchedule> ranked;
    LogicalResult made = success();
    if (gpu) {
      if (!machine)
        return fail("internal", "request", "a list of schedules for a GPU needs its machine");
      GpuShape shape;
      shape.processors = machine->getInteger("processors").value_or(shape.processors);
      shape.registers = machine->getInteger("registers").value_or(shape.registers);
      shape.processorThreads = machine->getInteger("processor_threads").value_or(shape.processorThreads);
      shape.maxCluster = machine->getInteger("max_cluster").value_or(1);
      shape.copyGBs = machine->getNumber("copy_gbs").value_or(shape.copyGBs);
      made = cuda::listSchedules(kernel, request.target, shape, machine->getInteger("shared_bytes").value_or(49152),
                                 static_cast<size_t>(listed), ranked);
    } else {
      llvm::Expected<cpu::VectorTarget> target = cpu::vectorTarget(request.target);
      if (!target)
        return fail("user", "cpu", llvm::toString(target.takeError()));
      made = cpu::listSchedules(kernel, *target, ranked);
    }
    if (failed(made))
      return fail("internal", gpu ? "cuda" : "cpu", errors);
    json::Array schedules;
    for (const RankedSchedule &schedule : ArrayRef(ranked).take_front(static_cast<size_t>(listed)))
      schedules.push_back(json::Object{{"schedule", schedule.text}, {"cost", schedule.cost}});
    return reply(json::Object{{"schedules", std::move(schedules)}}, "");
  }

  /// Whose fault it is that a kernel was refused: a schedule that was given, or more than kernels take, are the
  /// caller's.
  StringRef blame(hc::FuncOp kernel) const {
    return request.schedule == "auto" && !hc::beyondLimits(kernel) ? "internal" : "user";
  }

  int buildCpu(hc::FuncOp kernel) {
    std::string vector, llvmText, assembly;
    cpu::CpuTexts texts;
    if (stage == "vector")
      texts.vector = &vector;
    if (stage == "llvm")
      texts.llvm = &llvmText;
    if (stage == "asm")
      texts.assembly = &assembly;
    cpu::CpuImage image;
    if (failed(cpu::buildCpuImage(kernel, request.target, request.schedule, image, texts)))
      return fail(blame(kernel), "cpu", errors);
    if (!stage.empty())
      return texts.vector || texts.llvm || texts.assembly
                 ? reply(json::Object{{"stage", stage}}, vector + llvmText + assembly)
                 : unknownStage("vector, llvm, asm");
    json::Object object = meta(kernel);
    object["schedule"] = image.layout.schedule;
    json::Array launches;
    for (const cpu::ImageLaunch &launch : image.launches)
      launches.push_back(json::Object{{"entry", launch.entry},
                                      {"grid", launch.grid},
                                      {"extent", launch.extent},
                                      {"offset", static_cast<int64_t>(launch.offset)}});
    object["launches"] = std::move(launches);
    object["workspace"] = json::Object{{"fixed", image.layout.workspaceFixed},
                                       {"per_chunk", image.layout.workspacePerChunk},
                                       {"per_token", int64_t(0)}};
    object["chunks"] = json::Object{{"block_tokens", image.layout.blockTokens}, {"max_chunks", image.layout.maxChunks}};
    object["scratch_bytes"] = image.layout.scratchBytes;
    return reply(std::move(object), StringRef(image.bytes.data(), image.bytes.size()));
  }

  int buildCuda(hc::FuncOp kernel) {
    cuda::CudaSource result;
    if (stage == "emitc") {
      OwningOpRef<ModuleOp> module = cuda::buildCudaModule(kernel, request.target, request.schedule, result);
      if (!module)
        return fail("user", "cuda", errors);
      std::string printed;
      llvm::raw_string_ostream os(printed);
      module->print(os);
      return reply(json::Object{{"stage", stage}}, printed);
    }
    if (failed(cuda::buildCudaSource(kernel, request.target, request.schedule, result)))
      return fail(blame(kernel), "cuda", errors);
    nameByText(result, request.name);
    if (stage == "cuda")
      return reply(json::Object{{"stage", stage}}, result.text);
    if (!stage.empty())
      return unknownStage("emitc, cuda");
    json::Object object = meta(kernel);
    object["schedule"] = result.schedule;
    object["launches"] = std::move(result.launches);
    object["workspace"] = json::Object{{"fixed", result.workspaceFixed},
                                       {"per_chunk", result.workspacePerChunk},
                                       {"per_token", result.workspacePerToken}};
    object["chunks"] = json::Object{{"block_tokens", result.blockTokens}, {"max_chunks", result.maxChunks}};
    return reply(std::move(object), result.text);
  }

  /// Where a program's text is at fault, its line: the text is the compiler's own copy, so a number would say nothing.
  std::string lineOf(Location location) {
    auto place = location->findInstanceOf<FileLineColLoc>();
    const std::optional<SiteRequest> &site = place && place.getFilename() == "a" ? request.after : request.before;
    if (!place || !site)
      return "";
    SmallVector<StringRef> lines;
    StringRef(site->program).split(lines, '\n');
    return place.getLine() < 1 || place.getLine() > lines.size() ? ""
                                                                 : "\n  in: " + lines[place.getLine() - 1].trim().str();
  }

  int unknownStage(StringRef exits) {
    std::string message = "stage \"" + stage + "\" does not exist for target " + request.target + "; there are recipe";
    for (StringRef name : pipelineStages())
      message += ", " + name.str();
    return fail("user", "", message + ", " + exits.str());
  }

  int reply(json::Object object, StringRef payload) {
    std::string out;
    llvm::raw_string_ostream(out) << json::Value(std::move(object));
    sink(sinkContext, out.data(), out.size(), payload.data(), payload.size());
    return 0;
  }
  int fail(StringRef kind, StringRef pass, StringRef message) {
    std::string out;
    llvm::raw_string_ostream(out) << json::Value(json::Object{
        {"error", message.empty() ? StringRef("no diagnostic was given") : message}, {"kind", kind}, {"pass", pass}});
    sink(sinkContext, out.data(), out.size(), nullptr, 0);
    return 1;
  }

  StringRef source;
  HyperjitSink sink;
  void *sinkContext;
  MLIRContext context;
  CompileRequest request;
  std::string stage, spec, errors, failedPass;
  int64_t listed = 0;
};

int runRequest(const char *request, size_t size, HyperjitSink sink, void *sinkContext) {
  return Request(StringRef(request, size), sink, sinkContext).run();
}

} // namespace

extern "C" const HyperjitCompiler *hyperjit_compiler(uint32_t abi) {
  static const HyperjitCompiler compiler = {HYPERJIT_COMPILER_ABI, pluginVersion(), runRequest};
  return abi == HYPERJIT_COMPILER_ABI ? &compiler : nullptr;
}

// One JSON object a line in both directions:
//   {"op":"open","spec","target","tokens","copy"}   -> {"device","threads","schedule","wide_bytes","gbps"}
//   {"op":"try","schedule","samples","hopeless"}    -> {"schedule","status","message","us":[...],"error"}
//   {"op":"duel","schedules":[...],"samples"}       -> {"us":[[...],...]}
//   any of them that cannot be done                 -> {"failed": message, "code": exit code}
// SPDX-License-Identifier: Apache-2.0
#include "Worker.h"

#include "Tool.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace hyperjit::tools {

using Clock = std::chrono::steady_clock;

//===-- The process that searches -------------------------------------------------------------------------===//

Worker::Worker(std::vector<std::string> opening, double limit) : openingWords(std::move(opening)), limit(limit) {}
Worker::~Worker() { stop(); }

void Worker::start() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    throw EnvironmentProblem(fmt::format("no worker can be started: {}", std::strerror(errno)));
  // All that the child needs is made before the fork.
  std::vector<std::string> words = {"hyperjit", "autotune", "--worker", std::to_string(ends[1])};
  words.insert(words.end(), openingWords.begin(), openingWords.end());
  std::vector<char *> arguments;
  for (std::string &word : words)
    arguments.push_back(word.data());
  arguments.push_back(nullptr);
  process = ::fork();
  if (process < 0) {
    ::close(ends[0]);
    ::close(ends[1]);
    throw EnvironmentProblem(fmt::format("no worker can be started: {}", std::strerror(errno)));
  }
  if (process == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int signal : {SIGINT, SIGTERM}) // from its first instruction on: what they mean is decided here
      std::signal(signal, SIG_IGN);
    ::fcntl(ends[1], F_SETFD, 0);
    ::dup2(STDERR_FILENO, STDOUT_FILENO); // stdout is the parent's data
    ::execv("/proc/self/exe", arguments.data());
    ::_exit(127);
  }
  ::close(ends[1]);
  channel = ends[0];
  received.clear();
  opened = false;
}

void Worker::stop() {
  if (process > 0) {
    ::kill(process, SIGKILL);
    ::waitpid(process, nullptr, 0);
  }
  if (channel >= 0)
    ::close(channel);
  process = -1;
  channel = -1;
  opened = false;
}

Worker::Answer Worker::ask(const Json &request) {
  if (process < 0)
    start();
  Answer answer;
  auto lose = [&](const char *failure, std::string detail) {
    stop();
    answer.failure = failure;
    answer.detail = std::move(detail);
    return answer;
  };
  auto ended = [&] {
    int status = 0;
    ::waitpid(process, &status, 0);
    process = -1;
    return lose("crash", WIFSIGNALED(status) ? fmt::format("the worker died of signal {} ({})", WTERMSIG(status),
                                                           strsignal(WTERMSIG(status)))
                                             : fmt::format("the worker ended with {}", WEXITSTATUS(status)));
  };
  std::string line = request.dump() + "\n";
  for (size_t sent = 0; sent < line.size();) {
    ssize_t count = ::send(channel, line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return ended();
    sent += size_t(count);
  }
  Clock::time_point end = Clock::now() + std::chrono::milliseconds(int64_t(limit * 1000));
  for (;;) {
    if (size_t newline = received.find('\n'); newline != std::string::npos) {
      answer.json = Json::parse(received.substr(0, newline), nullptr, false);
      received.erase(0, newline + 1);
      if (!answer.json.is_object())
        return lose("crash", "the worker's answer makes no sense");
      return answer;
    }
    if (interrupted()) {
      stop();
      throw Interrupted();
    }
    if (Clock::now() >= end)
      return lose("timeout", fmt::format("no answer in {} s", limit));
    pollfd wait{channel, POLLIN, 0};
    if (::poll(&wait, 1, 100) <= 0)
      continue;
    char block[4096];
    ssize_t count = ::recv(channel, block, sizeof block, 0);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return ended();
    received.append(block, size_t(count));
  }
}

Worker::Answer Worker::reopen() {
  Answer answer = ask(opening);
  opened = answer.failure.empty() && !answer.json.contains("failed");
  return answer;
}

OpenedKernel Worker::open(const KernelSpec &spec, const Target &target, int64_t tokens) {
  opening = {
      {"op", "open"}, {"spec", spec.text()}, {"target", target.text()}, {"tokens", tokens}, {"copy", copyGBs == 0}};
  Answer answer = reopen();
  opening["copy"] = false;
  if (!answer.failure.empty())
    throw std::runtime_error(fmt::format("the default schedule: {}", answer.detail));
  if (!opened) {
    std::string why = answer.json["failed"].get<std::string>();
    if (answer.json.value("code", int(exitProblem)) == exitEnvironment)
      throw EnvironmentProblem(why);
    throw std::runtime_error(fmt::format("the default schedule: {}", why));
  }
  OpenedKernel kernel;
  kernel.device = answer.json.value("device", "");
  kernel.threads = answer.json.value("threads", 0);
  kernel.base = Schedule::parse(answer.json.value("schedule", "auto"));
  kernel.wideBytes = answer.json.value("wide_bytes", int64_t(0));
  kernel.copyGBs = copyGBs = answer.json.value("gbps", copyGBs);
  return kernel;
}

Trial Worker::attempt(const Schedule &schedule, int samples, double hopeless) {
  Trial trial;
  trial.schedule = schedule;
  auto lost = [&](const Answer &answer) {
    trial.status = answer.failure;
    trial.message = answer.detail;
    return trial;
  };
  if (!opened)
    if (Answer answer = reopen(); !opened) {
      trial.status = "launch_error";
      trial.message = "the default schedule ran before, and no longer does: " +
                      (answer.failure.empty() ? answer.json["failed"].get<std::string>() : answer.detail);
      return trial;
    }
  Answer answer = ask({{"op", "try"},
                       {"schedule", schedule.text()},
                       {"samples", samples},
                       {"hopeless", std::isfinite(hopeless) ? Json(hopeless) : Json(nullptr)}});
  if (!answer.failure.empty())
    return lost(answer);
  if (answer.json.contains("failed")) {
    trial.status = "launch_error";
    trial.message = answer.json["failed"].get<std::string>();
    return trial;
  }
  trial.schedule = Schedule::parse(answer.json.value("schedule", schedule.text()));
  trial.status = answer.json.value("status", "");
  trial.message = answer.json.value("message", "");
  trial.us = answer.json.value("us", std::vector<double>());
  trial.error = answer.json["error"].is_number() ? answer.json["error"].get<double>() : INFINITY;
  // A device that reported a failure reports it for every launch that follows.
  if (trial.status == "launch_error")
    stop();
  return trial;
}

std::vector<std::vector<double>> Worker::duel(const std::vector<Schedule> &schedules, int samples) {
  if (!opened)
    if (reopen(); !opened)
      return {};
  Json texts = Json::array();
  for (const Schedule &schedule : schedules)
    texts.push_back(schedule.text());
  Answer answer = ask({{"op", "duel"}, {"schedules", texts}, {"samples", samples}});
  if (!answer.failure.empty())
    return {};
  if (answer.json.contains("failed")) { // a device that reported a failure goes on doing so
    stop();
    return {};
  }
  return answer.json.value("us", std::vector<std::vector<double>>());
}

//===-- The process that measures -------------------------------------------------------------------------===//

namespace {

class Server {
public:
  Server() {
    KernelManagerOptions options;
    // Candidates come by the hundred: they are nobody's to find on disk. Nor is what a table says the default here.
    options.settings.cache = CacheMode::Off;
    options.settings.recordFile.clear();
    options.settings.jit = true;
    options.tuning = [](const KernelSpec &, const Target &) { return Schedule(); };
    manager = std::make_unique<KernelManager>(std::move(options));
    faults = environment("HYPERJIT_TUNING_FAULT").value_or("");
  }

  Json answer(const Json &request) {
    std::string op = request.value("op", "");
    if (op == "open") {
      bench = nullptr;
      Target wanted = Target::parse(request.at("target").get<std::string>());
      if (!machine || !(wanted == target)) {
        machine = nullptr;
        target = wanted;
        try {
          machine = machineFor(target);
        } catch (const std::exception &error) { // no other kernel will fare better
          return {{"failed", error.what()}, {"code", exitCodeOf(error)}};
        }
      }
      Json reply;
      if (request.value("copy", false)) // before the operands, which then lie in the memory of the copy
        reply["gbps"] = machine->copyBandwidth();
      KernelSpec spec = KernelSpec::parse(request.at("spec").get<std::string>());
      bench = std::make_unique<Workbench>(*manager, *machine, spec, target, request.at("tokens").get<int64_t>());
      const ArtifactMeta &meta = bench->base();
      const SiteSpec &site = spec.before ? *spec.before : *spec.after;
      int64_t u = site.d * sizeOf(site.stream);
      reply["device"] = machine->name();
      reply["threads"] = machine->threads();
      reply["schedule"] = meta.schedule;
      reply["wide_bytes"] = (meta.traffic.readsU + meta.traffic.writesU) * u;
      return reply;
    }
    if (!bench)
      throw std::runtime_error("no kernel is open");
    int samples = request.value("samples", 1);
    if (op == "try") {
      double hopeless = request.at("hopeless").is_number() ? request.at("hopeless").get<double>() : INFINITY;
      Trial trial =
          bench->attempt(Schedule::parse(request.at("schedule").get<std::string>()), samples, hopeless, faults);
      return {{"schedule", trial.schedule.text()},
              {"status", trial.status},
              {"message", trial.message},
              {"us", trial.us},
              {"error", std::isfinite(trial.error) ? Json(trial.error) : Json(nullptr)}};
    }
    if (op == "duel") {
      std::vector<Schedule> schedules;
      for (const Json &text : request.at("schedules"))
        schedules.push_back(Schedule::parse(text.get<std::string>()));
      return {{"us", bench->duel(schedules, samples)}};
    }
    throw std::runtime_error("unknown request");
  }

private:
  std::unique_ptr<KernelManager> manager;
  std::unique_ptr<Machine> machine;
  Target target;
  std::unique_ptr<Workbench> bench;
  std::string faults;
};

} // namespace

int serveTuning(int channel) {
  Server server;
  std::string received;
  char block[4096];
  for (;;) {
    ssize_t count = ::read(channel, block, sizeof block);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return exitOk;
    received.append(block, size_t(count));
    for (size_t newline; (newline = received.find('\n')) != std::string::npos; received.erase(0, newline + 1)) {
      Json reply;
      try {
        reply = server.answer(Json::parse(received.substr(0, newline)));
      } catch (const std::exception &error) {
        reply = {{"failed", error.what()}};
      }
      std::string line = reply.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
      for (size_t sent = 0; sent < line.size();) {
        ssize_t wrote = ::send(channel, line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
        if (wrote <= 0 && errno != EINTR)
          return exitOk;
        sent += wrote > 0 ? size_t(wrote) : 0;
      }
    }
  }
}

} // namespace hyperjit::tools

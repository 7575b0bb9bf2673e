// Programs.cpp - one compile a text. The lock guards the map of futures and is held for a look-up only.
// SPDX-License-Identifier: Apache-2.0
#include "Programs.h"

#include <atomic>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <unistd.h>

using namespace hyperjit;
using namespace hyperjit::cuda;

namespace {

using ProgramPointer = std::shared_ptr<const CompiledProgram>;

/// A model's kernels together have less; a search or a large pack has more, and must not keep all of them.
constexpr size_t kKeptBytes = size_t(16) << 20;

struct Programs {
  const pid_t process = ::getpid();
  std::mutex mutex;
  std::map<std::string, std::shared_future<ProgramPointer>> slots; ///< by digest; null where the compile failed
  std::deque<std::pair<std::string, size_t>> finished;             ///< oldest first
  size_t bytes = 0;
};

/// A forked child starts with none: the threads that compile, and perhaps hold the lock, are its parent's.
Programs &programsOfThisProcess() {
  static std::atomic<Programs *> current{nullptr};
  Programs *known = current.load();
  while (!known || known->process != ::getpid()) {
    auto made = std::make_unique<Programs>();
    if (current.compare_exchange_strong(known, made.get()))
      known = made.release();
  }
  return *known;
}

} // namespace

std::vector<ProgramText> cuda::programsOf(std::string_view text) {
  constexpr std::string_view mark = "\n//===- ";
  size_t begin = text.find(mark);
  if (begin == text.npos)
    return {{"", std::string(text)}};
  const std::string_view common = text.substr(0, begin);
  std::vector<ProgramText> programs;
  while (begin != text.npos) {
    const size_t end = text.find(mark, begin + mark.size());
    const std::string_view part = text.substr(begin, end == text.npos ? end : end - begin);
    const std::string_view entry = part.substr(mark.size(), part.find('\n', 1) - mark.size());
    programs.push_back({std::string(entry), std::string(common).append(part)});
    begin = end;
  }
  return programs;
}

ProgramPointer cuda::compileOnce(const std::string &source, const std::function<CompiledProgram()> &compile) {
  Programs &programs = programsOfThisProcess();
  const std::string digest = digestText(source);
  std::promise<ProgramPointer> promise;
  std::shared_future<ProgramPointer> others;
  {
    std::lock_guard guard(programs.mutex);
    auto [slot, first] = programs.slots.try_emplace(digest);
    if (first)
      slot->second = promise.get_future().share();
    else
      others = slot->second;
  }
  if (others.valid()) {
    if (ProgramPointer made = others.get())
      return made;
    // An error names the kernel that was asked for, so each gets its own.
    return std::make_shared<CompiledProgram>(compile());
  }
  ProgramPointer made;
  try {
    made = std::make_shared<CompiledProgram>(compile());
  } catch (...) {
    {
      std::lock_guard guard(programs.mutex);
      programs.slots.erase(digest);
    }
    promise.set_value(nullptr);
    throw;
  }
  promise.set_value(made);
  std::lock_guard guard(programs.mutex);
  programs.finished.emplace_back(digest, made->cubin.size());
  programs.bytes += made->cubin.size();
  while (programs.bytes > kKeptBytes) {
    programs.bytes -= programs.finished.front().second;
    programs.slots.erase(programs.finished.front().first);
    programs.finished.pop_front();
  }
  return made;
}

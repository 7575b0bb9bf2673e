// Workers.cpp - threads that take the next piece of work until there is none.
// SPDX-License-Identifier: Apache-2.0
#include "hyperjit/core/Workers.h"

#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

using namespace hyperjit;

void hyperjit::runAll(size_t count, const std::function<void(size_t)> &work, const Workers &workers) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr first;
  auto take = [&] {
    for (size_t i = next++; i < count; i = next++)
      try {
        work(i);
      } catch (...) {
        std::lock_guard guard(mutex);
        if (!first)
          first = std::current_exception();
      }
  };
  std::vector<std::thread> helpers;
  while (helpers.size() + 1 < count && workers.enter())
    try {
      helpers.emplace_back([&] {
        take();
        workers.leave();
      });
    } catch (const std::system_error &) { // a limit of processes or of memory
      workers.leave();
      break;
    }
  take();
  for (std::thread &helper : helpers)
    helper.join();
  if (first)
    std::rethrow_exception(first);
}

// Workers.h - independent pieces of work, on this thread and on helpers.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_WORKERS_H
#define HYPERJIT_CORE_WORKERS_H

#include "hyperjit/core/Export.h"

#include <cstddef>
#include <functional>

namespace hyperjit {

/// How many threads share a piece of work is asked as they are started: `enter` says whether there may be one more
/// beside the caller's, `leave` is called when that one has nothing left to do.
struct Workers {
  std::function<bool()> enter = [] { return false; };
  std::function<void()> leave = [] {};

  /// So many threads with the caller's.
  static Workers upTo(int threads) {
    return {[threads]() mutable { return --threads > 0; }, [] {}};
  }
};

/// work(0) ... work(count - 1), each once and in this order as threads are free for them. Returns when all are done;
/// throws what the first that failed threw, after the others. Where the system has no more threads, those that there
/// are do the work.
HYPERJIT_EXPORT void runAll(size_t count, const std::function<void(size_t)> &work, const Workers &workers);

} // namespace hyperjit

#endif // HYPERJIT_CORE_WORKERS_H

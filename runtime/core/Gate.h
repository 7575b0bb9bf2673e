// Gate.h - how many threads may do something at a time.
// SPDX-License-Identifier: Apache-2.0
#ifndef HYPERJIT_CORE_GATE_H
#define HYPERJIT_CORE_GATE_H

#include <condition_variable>
#include <mutex>

namespace hyperjit {

/// At most so many threads inside; those above wait without a lock.
class Gate {
public:
  explicit Gate(int places) : places(places) {}
  void enter() {
    std::unique_lock lock(mutex);
    freed.wait(lock, [&] { return places > 0; });
    --places;
  }
  /// Whether there was a free place; does not wait.
  bool tryEnter() {
    std::lock_guard guard(mutex);
    return places > 0 && places-- > 0;
  }
  void leave() {
    {
      std::lock_guard guard(mutex);
      ++places;
    }
    freed.notify_one();
  }

private:
  std::mutex mutex;
  std::condition_variable freed;
  int places;
};

struct Passage {
  explicit Passage(Gate &gate) : gate(gate) { gate.enter(); }
  ~Passage() { gate.leave(); }
  Gate &gate;
};

} // namespace hyperjit

#endif // HYPERJIT_CORE_GATE_H

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

namespace memcore {

// Says whether the caller wants to stop (Ctrl-C). Called on the calling thread only, without any
// lock of ours held.
using StopCheck = bool (*)();

// Thrown on the calling thread when its StopCheck said stop.
struct Stopped {};

// A call's view of "should I stop": cheap to ask often. Workers see what the calling thread found.
class Interrupt {
 public:
  explicit Interrupt(StopCheck check) : check_(check) {}

  // Ask every few thousand rows. Throws Stopped.
  void poll();

  // For a thread that waits while others work, and poll.
  void watch() {
    if (check_ != nullptr && check_()) stopped_.store(true, std::memory_order_relaxed);
  }
  bool is_stopped() const { return stopped_.load(std::memory_order_relaxed); }

 private:
  bool asks();

  StopCheck check_;
  std::thread::id caller_ = std::this_thread::get_id();
  std::atomic<bool> stopped_{false};
  int64_t next_check_ns_ = 0;
};

int n_threads();

// 1 … 1024; 0 means as many as the process may use.
void set_n_threads(int n);

// Run task(0) … task(n_tasks - 1) on the pool and the calling thread, in any order; the first
// exception is thrown here once all have ended. Every task runs in the default float environment. A
// task must not call parallel_for.
void parallel_for(int64_t n_tasks, const std::function<void(int64_t)>& task);

}  // namespace memcore

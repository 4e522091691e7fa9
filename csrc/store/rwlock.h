#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "forkable.h"

namespace memcore {

// Many readers or one writer. Waiting writers go before new readers, and readers who waited for a
// write before the next write, so that neither starves. Wait for it without the GIL, and never ask
// for the GIL while holding it as a writer: fork(2) waits until no writer is active. In the child
// every lock is free. Use with std::shared_lock and std::unique_lock.
class RwLock final : private Forkable {
 public:
  RwLock() { enlist(); }
  ~RwLock() override { leave(); }

  void lock_shared();
  void unlock_shared();
  void lock();
  void unlock();

 private:
  void before_fork() override;
  void after_fork_in_parent() override { unlock_shared(); }
  void after_fork_in_child() override;

  std::mutex mutex_;
  std::condition_variable readers_may_go_;
  std::condition_variable writer_may_go_;
  int64_t n_readers_ = 0;
  int64_t n_readers_waiting_ = 0;
  int64_t n_readers_due_ = 0;  // may go before any writer
  int64_t n_writers_waiting_ = 0;
  bool writing_ = false;
};

}  // namespace memcore

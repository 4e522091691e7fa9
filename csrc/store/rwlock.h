#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace memcore {

// Many readers or one writer; a waiting writer goes before new readers. Wait for it without the GIL, and never ask for
// the GIL while holding it as a writer: fork(2) waits until no writer is active. In the child every lock is free.
// Use with std::shared_lock and std::unique_lock.
class RwLock {
 public:
  RwLock();
  ~RwLock();
  RwLock(const RwLock&) = delete;
  RwLock& operator=(const RwLock&) = delete;

  void lock_shared();
  void unlock_shared();
  void lock();
  void unlock();

 private:
  friend struct ForkGuard;

  // As lock_shared, but goes before waiting writers: they may wait for a reader that waits for the GIL.
  void lock_for_fork();
  void reset();

  std::mutex mutex_;
  std::condition_variable readers_may_go_;
  std::condition_variable writer_may_go_;
  int64_t n_readers_ = 0;
  int64_t n_writers_waiting_ = 0;
  bool writing_ = false;

  // The live locks form a list, for fork's sake.
  RwLock* next_ = nullptr;
  RwLock* previous_ = nullptr;
};

}  // namespace memcore

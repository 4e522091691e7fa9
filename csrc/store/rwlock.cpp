#include "rwlock.h"

#include <new>

namespace memcore {

void RwLock::lock_shared() {
  std::unique_lock<std::mutex> hold(mutex_);
  ++n_readers_waiting_;
  readers_may_go_.wait(
      hold, [this] { return !writing_ && (n_writers_waiting_ == 0 || n_readers_due_ > 0); });
  --n_readers_waiting_;
  if (n_readers_due_ > 0) --n_readers_due_;
  ++n_readers_;
}

void RwLock::unlock_shared() {
  const std::lock_guard<std::mutex> hold(mutex_);
  if (--n_readers_ == 0) writer_may_go_.notify_one();
}

void RwLock::lock() {
  std::unique_lock<std::mutex> hold(mutex_);
  ++n_writers_waiting_;
  writer_may_go_.wait(hold, [this] { return !writing_ && n_readers_ == 0 && n_readers_due_ == 0; });
  --n_writers_waiting_;
  writing_ = true;
}

void RwLock::unlock() {
  const std::lock_guard<std::mutex> hold(mutex_);
  writing_ = false;
  n_readers_due_ = n_readers_waiting_;
  writer_may_go_.notify_one();
  readers_may_go_.notify_all();
}

void RwLock::before_fork() {
  // As a reader that goes before waiting writers: they may wait for a reader that waits for the
  // GIL, which is held here.
  std::unique_lock<std::mutex> hold(mutex_);
  readers_may_go_.wait(hold, [this] { return !writing_; });
  ++n_readers_;
}

void RwLock::after_fork_in_child() {
  // The old state may be in the middle of a wait that no thread of this process will ever end.
  new (&mutex_) std::mutex;
  new (&readers_may_go_) std::condition_variable;
  new (&writer_may_go_) std::condition_variable;
  n_readers_ = 0;
  n_readers_waiting_ = 0;
  n_readers_due_ = 0;
  n_writers_waiting_ = 0;
  writing_ = false;
}

}  // namespace memcore

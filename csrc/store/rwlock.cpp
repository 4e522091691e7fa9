#include "rwlock.h"

#include <pthread.h>

#include <new>

namespace memcore {

// fork(2) copies the locks as they are but none of the threads that hold them. So the forking thread becomes a reader of
// every lock first, and the child starts all of them anew.
struct ForkGuard {
  std::mutex mutex;
  RwLock* first = nullptr;

  ForkGuard() { pthread_atfork(before, in_parent, in_child); }

  static ForkGuard& get() {
    // Never destroyed: a fork may come while the process ends.
    static ForkGuard* guard = new ForkGuard;
    return *guard;
  }

  static void before() {
    get().mutex.lock();
    for (RwLock* lock = get().first; lock; lock = lock->next_) lock->lock_for_fork();
  }
  static void in_parent() {
    for (RwLock* lock = get().first; lock; lock = lock->next_) lock->unlock_shared();
    get().mutex.unlock();
  }
  static void in_child() {
    for (RwLock* lock = get().first; lock; lock = lock->next_) lock->reset();
    new (&get().mutex) std::mutex;
  }
};

RwLock::RwLock() {
  ForkGuard& guard = ForkGuard::get();
  std::lock_guard<std::mutex> hold(guard.mutex);
  next_ = guard.first;
  if (next_) next_->previous_ = this;
  guard.first = this;
}

RwLock::~RwLock() {
  ForkGuard& guard = ForkGuard::get();
  std::lock_guard<std::mutex> hold(guard.mutex);
  (previous_ ? previous_->next_ : guard.first) = next_;
  if (next_) next_->previous_ = previous_;
}

void RwLock::lock_shared() {
  std::unique_lock<std::mutex> hold(mutex_);
  readers_may_go_.wait(hold, [this] { return !writing_ && n_writers_waiting_ == 0; });
  ++n_readers_;
}

void RwLock::lock_for_fork() {
  std::unique_lock<std::mutex> hold(mutex_);
  readers_may_go_.wait(hold, [this] { return !writing_; });
  ++n_readers_;
}

void RwLock::unlock_shared() {
  std::lock_guard<std::mutex> hold(mutex_);
  if (--n_readers_ == 0) writer_may_go_.notify_one();
}

void RwLock::lock() {
  std::unique_lock<std::mutex> hold(mutex_);
  ++n_writers_waiting_;
  writer_may_go_.wait(hold, [this] { return !writing_ && n_readers_ == 0; });
  --n_writers_waiting_;
  writing_ = true;
}

void RwLock::unlock() {
  std::lock_guard<std::mutex> hold(mutex_);
  writing_ = false;
  writer_may_go_.notify_one();
  readers_may_go_.notify_all();
}

void RwLock::reset() {
  // The old state may be in the middle of a wait that no thread of this process will ever end.
  new (&mutex_) std::mutex;
  new (&readers_may_go_) std::condition_variable;
  new (&writer_may_go_) std::condition_variable;
  n_readers_ = 0;
  n_writers_waiting_ = 0;
  writing_ = false;
}

}  // namespace memcore

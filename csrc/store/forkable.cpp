#include "forkable.h"

#include <pthread.h>

#include <mutex>
#include <new>

namespace memcore {

struct ForkList {
  std::mutex mutex;
  Forkable* first = nullptr;

  ForkList() { pthread_atfork(before, in_parent, in_child); }

  static ForkList& get() {
    // Never destroyed: a fork may come while the process ends.
    static ForkList* list = new ForkList;
    return *list;
  }

  static void before() {
    get().mutex.lock();
    for (Forkable* one = get().first; one; one = one->next_) one->before_fork();
  }
  static void in_parent() {
    for (Forkable* one = get().first; one; one = one->next_) one->after_fork_in_parent();
    get().mutex.unlock();
  }
  static void in_child() {
    for (Forkable* one = get().first; one; one = one->next_) one->after_fork_in_child();
    new (&get().mutex) std::mutex;
  }
};

void Forkable::enlist() {
  ForkList& list = ForkList::get();
  const std::lock_guard<std::mutex> hold(list.mutex);
  next_ = list.first;
  if (next_) next_->previous_ = this;
  list.first = this;
}

void Forkable::leave() {
  ForkList& list = ForkList::get();
  const std::lock_guard<std::mutex> hold(list.mutex);
  (previous_ ? previous_->next_ : list.first) = next_;
  if (next_) next_->previous_ = previous_;
}

}  // namespace memcore

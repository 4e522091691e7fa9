#pragma once

namespace memcore {

// Something whose locks must outlive fork(2). The child has the memory of all threads, but only the
// one that forked, so a lock that another thread held would be held for ever. All that are enlisted
// are told before and after a fork.
class Forkable {
 public:
  Forkable(const Forkable&) = delete;
  Forkable& operator=(const Forkable&) = delete;

 protected:
  Forkable() = default;
  virtual ~Forkable() = default;

  // For the last line of a constructor and the first of a destructor: in between, the functions
  // below may be called.
  void enlist();
  void leave();

  virtual void before_fork() {}
  virtual void after_fork_in_parent() {}
  virtual void after_fork_in_child() = 0;

 private:
  friend struct ForkList;
  Forkable* next_ = nullptr;
  Forkable* previous_ = nullptr;
};

}  // namespace memcore

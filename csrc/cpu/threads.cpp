#include "threads.h"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "check.h"
#include "float_env.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace memcore {
namespace {

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int usable_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n == 0 ? 1 : static_cast<int>(n);
}

int clamp_threads(int n) { return n < 1 ? usable_cpus() : n > 1024 ? 1024 : n; }

int initial_threads() {
  const char* wish = std::getenv("MEMCORE_THREADS");
  if (wish == nullptr || *wish == 0) return clamp_threads(0);
  char* end = nullptr;
  const long n = std::strtol(wish, &end, 10);
  MEMCORE_CHECK(*end == 0 && n >= 0 && n <= 1024, kInput, "threads: MEMCORE_THREADS is \"", wish,
                "\", should be 0 (all) to 1024");
  return clamp_threads(static_cast<int>(n));
}

// One batch of tasks. Threads take the next number until none is left.
struct Job {
  Job(const std::function<void(int64_t)>* the_task, int64_t n) : task(the_task), n_tasks(n) {}

  const std::function<void(int64_t)>* task;
  int64_t n_tasks;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::exception_ptr error;

  void work() {
    const FloatEnv env;
    while (!failed.load(std::memory_order_relaxed)) {
      const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= n_tasks) return;
      try {
        (*task)(i);
      } catch (...) {
        const std::lock_guard<std::mutex> guard(mutex);
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  }
};

// Workers are started when first needed. One job runs on them at a time; a caller who finds them
// busy works alone.
class Pool {
 public:
  void run(Job& job, int n_helpers) {
    if (n_helpers > 0 && busy_.try_lock()) {
      const std::lock_guard<std::mutex> guard(busy_, std::adopt_lock);
      run_with_helpers(job, n_helpers);
    } else {
      job.work();
    }
  }

 private:
  void run_with_helpers(Job& job, int n_helpers) {
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      try {
        for (; n_workers_ < n_helpers; ++n_workers_) {
          // Detached: a worker sleeps until the process ends, and a fork's child has none.
          std::thread(&Pool::serve, this, n_workers_).detach();
        }
      } catch (const std::system_error&) {
        // No more threads to be had: the ones there are do the work.
        n_helpers = n_workers_;
      }
      job_ = &job;
      n_wanted_ = n_helpers;
      n_running_ = n_helpers;
      ++round_;
    }
    wake_.notify_all();
    job.work();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return n_running_ == 0; });
    job_ = nullptr;
  }

  void serve(int number) {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (number >= n_wanted_ || job_ == nullptr) continue;
      Job* job = job_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--n_running_ == 0) done_.notify_one();
    }
  }

  std::mutex busy_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  int n_workers_ = 0, n_wanted_ = 0, n_running_ = 0;
  uint64_t round_ = 0;
};

alignas(Pool) unsigned char pool_memory[sizeof(Pool)];
std::atomic<int> thread_count{0};

// A forked child has none of the parent's workers, and its locks may have been held: it starts with
// a new pool.
void new_pool() { new (pool_memory) Pool; }

Pool& pool() {
  static const bool made = [] {
    new_pool();
    pthread_atfork(nullptr, nullptr, new_pool);
    return true;
  }();
  (void)made;
  return *std::launder(reinterpret_cast<Pool*>(pool_memory));
}

}  // namespace

bool Interrupt::asks() {
  // Often enough for 100 ms, seldom enough to cost nothing.
  constexpr int64_t kIntervalNs = 5'000'000;
  const int64_t now = now_ns();
  if (now < next_check_ns_) return false;
  const bool is_first = next_check_ns_ == 0;
  next_check_ns_ = now + kIntervalNs;
  return !is_first;
}

void Interrupt::poll() {
  if (stopped_.load(std::memory_order_relaxed)) throw Stopped{};
  if (check_ != nullptr && std::this_thread::get_id() == caller_ && asks() && check_()) {
    stopped_.store(true, std::memory_order_relaxed);
    throw Stopped{};
  }
}

int n_threads() {
  int n = thread_count.load(std::memory_order_relaxed);
  if (n == 0) {
    n = initial_threads();
    thread_count.store(n, std::memory_order_relaxed);
  }
  return n;
}

void set_n_threads(int n) {
  MEMCORE_CHECK(n >= 0 && n <= 1024, kInput, "set_threads: n is ", n,
                ", should be 0 (all) to 1024");
  thread_count.store(clamp_threads(n), std::memory_order_relaxed);
}

void parallel_for(int64_t n_tasks, const std::function<void(int64_t)>& task) {
  if (n_tasks <= 0) return;
  Job job(&task, n_tasks);
  const int64_t n_helpers = std::min<int64_t>(n_threads(), n_tasks) - 1;
  pool().run(job, static_cast<int>(n_helpers));
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace memcore

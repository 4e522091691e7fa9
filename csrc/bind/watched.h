#pragma once

#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#include "arguments.h"

namespace memcore {

// Runs `work(interrupt)` on a thread of its own, without the GIL, while this one looks for Ctrl-C:
// for work under a writer's lock, whose holder may not ask for the GIL. A Ctrl-C is raised as
// KeyboardInterrupt when the work has ended, whether it came in time to stop it or not.
template <class Work>
void watched(const Work& work) {
  constexpr std::chrono::milliseconds kInterval(5);
  // Where Python ends meanwhile, this thread is ended by unwinding it.
  struct Worker {
    ~Worker() {
      if (thread.joinable()) thread.join();
    }
    std::thread thread;
  };
  interruptible([&](Interrupt& interrupt) {
    std::mutex mutex;
    std::condition_variable ended;
    bool is_done = false;
    std::exception_ptr error;
    Worker worker;
    try {
      worker.thread = std::thread([&] {
        try {
          work(interrupt);
        } catch (...) {
          error = std::current_exception();
        }
        const std::lock_guard<std::mutex> guard(mutex);
        is_done = true;
        ended.notify_one();
      });
    } catch (const std::system_error&) {
      // No thread to be had: the work is done here, and nobody looks.
      Interrupt never(nullptr);
      return work(never);
    }
    std::unique_lock<std::mutex> lock(mutex);
    while (!ended.wait_for(lock, kInterval, [&] { return is_done; })) {
      lock.unlock();
      if (!interrupt.is_stopped()) interrupt.watch();
      lock.lock();
    }
    lock.unlock();
    worker.thread.join();
    if (error) std::rethrow_exception(error);
    if (interrupt.is_stopped()) throw Stopped{};
  });
}

}  // namespace memcore

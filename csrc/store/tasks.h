#pragma once

#include <algorithm>
#include <cstdint>

#include "float_env.h"
#include "threads.h"

namespace memcore {

// Cuts 0 … n into tasks of `grain` and runs task(number, begin, end) on the pool; a single task
// runs here.
template <typename Task>
void for_tasks(int64_t n, int64_t grain, const Task& task) {
  const int64_t n_tasks = (n + grain - 1) / grain;
  const auto run = [&](int64_t i) { task(i, i * grain, std::min(n, (i + 1) * grain)); };
  if (n_tasks == 1) {
    const FloatEnv env;
    return run(0);
  }
  parallel_for(n_tasks, [&run](int64_t i) { run(i); });
}

// The same for tasks that cannot throw and may be repeated: whatever keeps the pool from starting,
// the work is done.
template <typename Task>
void for_tasks_or_alone(int64_t n, int64_t grain, const Task& task) noexcept {
  try {
    for_tasks(n, grain, task);
  } catch (...) {
    const FloatEnv env;
    const int64_t n_tasks = (n + grain - 1) / grain;
    for (int64_t i = 0; i < n_tasks; ++i) task(i, i * grain, std::min(n, (i + 1) * grain));
  }
}

}  // namespace memcore

#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <new>
#include <vector>

#include "forkable.h"

namespace memcore {

// Which lanes of which pages have a shadow that lags behind: a write only says so, and the next
// search that comes to the page brings it up to date, while the block passes through the cache
// anyway. (Written at once, a row costs 12 KB of scattered memory traffic at dim 384, and the same
// block is touched again by each write of a step.)
class StaleLanes final : private Forkable {
 public:
  StaleLanes() { enlist(); }
  ~StaleLanes() override { leave(); }

  // May throw std::bad_alloc.
  void grow(int64_t n_pages) { masks_.resize(n_pages); }

  // For writers: they are alone.
  void mark(int32_t page, int begin_lane, int end_lane) {
    masks_[page] |= (1u << end_lane) - (1u << begin_lane);
  }
  void copy(int32_t from, int32_t to) { masks_[to] = masks_[from]; }

  // May be outdated at once, unless the caller is alone.
  uint16_t lanes(int32_t page) {
    return std::atomic_ref<uint16_t>(masks_[page]).load(std::memory_order_relaxed);
  }

  // For readers, side by side: if lanes are stale, update(mask) makes them good, in one thread
  // only.
  template <typename Update>
  void bring_up_to_date(int32_t page, const Update& update) {
    std::atomic_ref<uint16_t> mask(masks_[page]);
    if (mask.load(std::memory_order_acquire) == 0) [[likely]]
      return;
    const std::lock_guard<std::mutex> hold(mutexes_[page % kMutexes]);
    const uint16_t stale = mask.load(std::memory_order_relaxed);
    if (stale == 0) return;
    update(stale);
    mask.store(0, std::memory_order_release);
  }

  int64_t nbytes() const { return static_cast<int64_t>(masks_.capacity() * sizeof(uint16_t)); }

 private:
  static constexpr int kMutexes = 32;

  void after_fork_in_child() override {
    for (std::mutex& mutex : mutexes_) new (&mutex) std::mutex;
  }

  std::vector<uint16_t> masks_;
  std::array<std::mutex, kMutexes> mutexes_;
};

}  // namespace memcore

#include <algorithm>
#include <cstring>
#include <mutex>
#include <shared_mutex>

#include "check.h"
#include "pages.h"
#include "tasks.h"

namespace memcore {
namespace {

constexpr int64_t kTaskRows = 256;
constexpr int64_t kTaskBanks = 128;

using ReadLock = std::shared_lock<RwLock>;

}  // namespace

std::vector<int64_t> Pages::find_rows(const Batch& batch, const Int64View& ids, bool skip,
                                      const char* op, Interrupt& interrupt) const {
  std::vector<int64_t> rows(batch.order.size());
  for_tasks(batch.n_groups(), kTaskBanks, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      if (group + 1 < end) prefetch_ids(banks_[batch.banks[group + 1]]);
      const Bank& bank = banks_[batch.banks[group]];
      for (int64_t i = batch.begins[group]; i < batch.begins[group + 1]; ++i) {
        if (i % kTaskRows == 0) interrupt.poll();
        rows[batch.order[i]] = find_row(bank, ids[batch.order[i]]);
      }
    }
  });
  if (!skip) check_found(rows.data(), static_cast<int64_t>(rows.size()), ids, op);
  return rows;
}

void Pages::prefetch_ids(const Bank& bank) const {
  if (bank.id_map) return;
  for (int64_t i = 0; i < bank.pages.size(); ++i) {
    const int64_t* ids = slab_.ids(bank.pages[i]);
    __builtin_prefetch(ids);
    __builtin_prefetch(ids + kPageRows / 2);
  }
}

void Pages::contains(const Int64View& handles, const Int64View& ids, int64_t n,
                     Interrupt& interrupt, bool* found) {
  const ReadLock hold(lock_);
  for (int64_t i = 0; i < n; ++i) {
    if (i % kTaskRows == 0) interrupt.poll();
    found[i] = find_row(banks_[find_bank(banks_, handles, i, "contains")], ids[i]) >= 0;
  }
}

void Pages::get(const Int64View& handles, const Int64View& ids, int64_t n, bool skip,
                uint8_t* vectors, const std::vector<int64_t*>& cells, Interrupt& interrupt,
                bool* found) {
  const ReadLock hold(lock_);
  std::vector<int64_t> slots(n);
  for (int64_t i = 0; i < n; ++i) {
    if (i % kTaskRows == 0) interrupt.poll();
    const Bank& bank = banks_[find_bank(banks_, handles, i, "get")];
    const int64_t row = find_row(bank, ids[i]);
    slots[i] = row < 0 ? -1 : slot_of(bank.pages[row / kPageRows], row % kPageRows);
  }
  if (!skip) check_found(slots.data(), n, ids, "get");

  const int64_t row_bytes = slab_.row_bytes();
  for_tasks(n, kTaskRows, [&](int64_t, int64_t begin, int64_t end) {
    interrupt.poll();
    for (int64_t i = begin; i < end; ++i) {
      found[i] = slots[i] >= 0;
      if (vectors != nullptr && found[i])
        std::memcpy(vectors + i * row_bytes, slab_.row(slots[i]), row_bytes);
      if (vectors != nullptr && !found[i]) std::memset(vectors + i * row_bytes, 0, row_bytes);
      for (int column = 0; column < static_cast<int>(cells.size()); ++column) {
        if (cells[column] == nullptr) continue;
        cells[column][i] = found[i] ? slab_.cells(column, page_of(slots[i]))[lane_of(slots[i])]
                                    : null_cell(kinds_[column]);
      }
    }
  });
}

}  // namespace memcore

#include <algorithm>
#include <cstring>
#include <mutex>
#include <shared_mutex>

#include "check.h"
#include "pages.h"
#include "tasks.h"

namespace memcore {
namespace {

constexpr int64_t kTaskRows = 64;

void check_pages(const char* op, const Int64View& pages, const Slab& slab) {
  for (int64_t i = 0; i < pages.size; ++i) {
    MEMCORE_CHECK(pages[i] >= 0 && pages[i] < slab.n_pages(), kInput, op, ": page is ", pages[i],
                  ", should be below ", slab.n_pages());
  }
}

}  // namespace

void Pages::reserve_journal(int64_t n_new_banks, int64_t n_moves) {
  if (journal_) journal_->reserve(slab_.n_pages(), banks_.size() + n_new_banks, n_moves);
}

void Pages::start_journal() {
  const std::unique_lock<RwLock> hold(lock_);
  auto journal = std::make_unique<Journal>();
  journal->reserve(slab_.n_pages(), banks_.size());
  for (int32_t page = 0; page < slab_.n_pages(); ++page) {
    if (slab_.n_references(page) > 0) journal->write(page, 0, kPageRows);
  }
  for (int32_t index = 0; index < banks_.size(); ++index) {
    if (banks_[index].is_alive) journal->change(index, 0);
  }
  journal_ = std::move(journal);
}

Journal::Changes Pages::take_changes() {
  const std::unique_lock<RwLock> hold(lock_);
  MEMCORE_CHECK(journal_ != nullptr, kInput,
                "take_changes: the store keeps no journal, should be told to");
  return journal_->take(slab_, banks_);
}

void Pages::mark_changed(const Int64View& pages) {
  const std::unique_lock<RwLock> hold(lock_);
  MEMCORE_CHECK(journal_ != nullptr, kInput,
                "mark_changed: the store keeps no journal, should be told to");
  check_pages("mark_changed", pages, slab_);
  reserve_journal();
  for (int64_t i = 0; i < pages.size; ++i)
    journal_->write(static_cast<int32_t>(pages[i]), 0, kPageRows);
}

void Pages::find_slots(const Int64View& handles, const Int64View& ids, int64_t n, int64_t* slots) {
  const std::shared_lock<RwLock> hold(lock_);
  for_tasks_or_alone(n, kTaskRows, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) slots[i] = find_slot(handles[i], ids[i]);
  });
}

void Pages::read_slots(const Int64View& slots, uint8_t* rows, int64_t* ids,
                       const std::vector<int64_t*>& cells) {
  const std::shared_lock<RwLock> hold(lock_);
  for (int64_t i = 0; i < slots.size; ++i) {
    MEMCORE_CHECK(slots[i] >= 0 && slots[i] < slab_.n_pages() * kPageRows, kInput,
                  "read_slots: slot is ", slots[i], ", should be below ",
                  slab_.n_pages() * kPageRows);
  }
  const int64_t row_bytes = slab_.row_bytes();
  for_tasks_or_alone(slots.size, kTaskRows, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t page = page_of(slots[i]);
      const int lane = lane_of(slots[i]);
      if (rows != nullptr) std::memcpy(rows + i * row_bytes, slab_.row(slots[i]), row_bytes);
      ids[i] = slab_.ids(page)[lane];
      for (size_t column = 0; column < cells.size(); ++column)
        cells[column][i] = slab_.cells(static_cast<int>(column), page)[lane];
    }
  });
}

std::vector<int64_t> Pages::page_addresses(const Int64View& pages) {
  const std::shared_lock<RwLock> hold(lock_);
  check_pages("page_addresses", pages, slab_);
  const auto number = [](const void* place) { return reinterpret_cast<intptr_t>(place); };
  std::vector<int64_t> places;
  places.reserve(4 * pages.size);
  for (int64_t i = 0; i < pages.size; ++i) {
    const auto page = static_cast<int32_t>(pages[i]);
    const int64_t* cells = slab_.n_columns() > 0 ? slab_.stored_cells(0, page) : slab_.ids(page);
    places.insert(places.end(), {number(slab_.rows(page)), number(slab_.ids(page)), number(cells),
                                 slab_.column_stride(page)});
  }
  return places;
}

std::vector<int64_t> Pages::column_nulls() {
  const std::shared_lock<RwLock> hold(lock_);
  std::vector<int64_t> nulls;
  for (int column = 0; column < slab_.n_columns(); ++column)
    nulls.insert(nulls.end(), {slab_.is_stored(column), slab_.null_of(column)});
  return nulls;
}

std::vector<int64_t> Pages::chunk_memory() {
  const std::shared_lock<RwLock> hold(lock_);
  return slab_.chunk_memory();
}

std::vector<int64_t> Pages::page_tables(const Int64View& handles, int64_t* ends) {
  const std::shared_lock<RwLock> hold(lock_);
  std::vector<int64_t> tables;
  for (int64_t i = 0; i < handles.size; ++i) {
    const PageTable& pages = banks_[find_bank(banks_, handles, i, "page_tables")].pages;
    tables.insert(tables.end(), pages.data(), pages.data() + pages.size());
    ends[i] = static_cast<int64_t>(tables.size());
  }
  return tables;
}

}  // namespace memcore

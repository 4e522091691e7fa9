#include "pages.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "check.h"
#include "stream.h"
#include "tasks.h"

namespace memcore {
namespace {

// What one thread takes at a time.
constexpr int64_t kTaskPages = 16;
constexpr int64_t kTaskRows = 64;

using ReadLock = std::shared_lock<RwLock>;
using WriteLock = std::unique_lock<RwLock>;

}  // namespace

Pages::Pages(int64_t dim, DType dtype, Metric metric, std::vector<ColumnKind> kinds)
    : slab_(dim, dtype, kinds), metric_(metric), kinds_(std::move(kinds)), refs_(kinds_.size()) {
  for (size_t column = 0; column < kinds_.size(); ++column) {
    if (kinds_[column] == ColumnKind::kRef) ref_columns_.push_back(static_cast<int>(column));
  }
}

void Pages::create(int64_t n, int64_t* handles, bool are_lists) {
  const WriteLock hold(lock_);
  banks_.reserve(n);
  reserve_journal(n);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t index = banks_.take();
    banks_[index].is_list = are_lists;
    if (journal_) journal_->change(index, 0);
    handles[i] = banks_.handle(index);
  }
}

void Pages::alive(const Int64View& handles, bool* out) {
  const ReadLock hold(lock_);
  for (int64_t i = 0; i < handles.size; ++i) out[i] = banks_.find(handles[i]) >= 0;
}

void Pages::count(const Int64View& handles, int64_t* out) {
  const ReadLock hold(lock_);
  for (int64_t i = 0; i < handles.size; ++i)
    out[i] = banks_[find_bank(banks_, handles, i, "count")].n_rows;
}

std::vector<int64_t> Pages::ids(int64_t handle) {
  const ReadLock hold(lock_);
  const Bank& bank = banks_[find_bank(banks_, {&handle, 1, 1}, 0, "ids")];
  std::vector<int64_t> ids(bank.n_rows);
  for (int64_t row = 0; row < bank.n_rows; row += kPageRows) {
    std::copy_n(slab_.ids(bank.pages[row / kPageRows]), std::min(kPageRows, bank.n_rows - row),
                ids.data() + row);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

void Pages::drop(const Int64View& handles) {
  const WriteLock hold(lock_);
  const Batch batch = group_by_bank(banks_, handles, handles.size, "drop");
  const int64_t repeated = first_repeated_bank(batch);
  MEMCORE_CHECK(repeated < 0, kInput, "drop: handle ", handles[repeated], " (position ", repeated,
                ") is repeated, should be given once");
  Plan plan(slab_, banks_);
  for (const int32_t bank : batch.banks) plan.cut_pages(bank, 0);
  plan.seal();
  reserve_journal();
  finish(plan);
  for (const int32_t bank : batch.banks) {
    banks_.give_back(bank);
    if (journal_) journal_->change(bank, 0);
  }
}

void Pages::fork(const Int64View& handles, int64_t n, int64_t* forks) {
  const WriteLock hold(lock_);
  std::vector<int32_t> parents(handles.size);
  for (int64_t i = 0; i < handles.size; ++i) parents[i] = find_bank(banks_, handles, i, "fork");

  // Everything that can fail comes before the first fork is seen.
  std::vector<BankContents> copies;
  copies.reserve(handles.size * n);
  for (const int32_t parent : parents) {
    for (int64_t i = 0; i < n; ++i) copies.push_back(banks_[parent].clone());
  }
  banks_.reserve(handles.size * n);
  reserve_journal(handles.size * n);
  for (BankContents& copy : copies) {
    const int32_t fork = banks_.take();
    if (journal_) journal_->change(fork, 0);
    *forks++ = banks_.handle(fork);
    acquire_pages(copy);
    static_cast<BankContents&>(banks_[fork]) = std::move(copy);
  }
}

void Pages::copy_from(const Int64View& handles, const Int64View& sources) {
  const WriteLock hold(lock_);
  const Batch batch = group_by_bank(banks_, handles, handles.size, "rollback");
  const int64_t repeated = first_repeated_bank(batch);
  MEMCORE_CHECK(repeated < 0, kInput, "rollback: handle ", handles[repeated], " (position ",
                repeated, ") is repeated, should be given once");
  std::vector<BankContents> copies;
  copies.reserve(batch.banks.size());
  for (int64_t i = 0; i < handles.size; ++i) {
    copies.push_back(banks_[find_bank(banks_, sources, i, "rollback")].clone());
  }
  Plan plan(slab_, banks_);
  for (const int32_t bank : batch.banks) plan.cut_pages(bank, 0);
  plan.seal();
  reserve_journal();
  // A bank may be the source of another: pages gain references before any loses one.
  for (const BankContents& copy : copies) acquire_pages(copy);
  finish(plan);
  for (size_t i = 0; i < copies.size(); ++i) {
    static_cast<BankContents&>(banks_[batch.banks[i]]) = std::move(copies[i]);
    if (journal_) journal_->change(batch.banks[i], 0);
  }
}

std::vector<int64_t> Pages::dead_refs(int64_t column) {
  const WriteLock hold(lock_);
  MEMCORE_CHECK(column >= 0 && column < slab_.n_columns() && kinds_[column] == ColumnKind::kRef,
                kInput, "dead_refs: column is ", column, ", should be a ref column");
  return refs_[column].take_dead();
}

void Pages::holds(int64_t column, const Int64View& numbers, bool* out) {
  const ReadLock hold(lock_);
  MEMCORE_CHECK(column >= 0 && column < slab_.n_columns() && kinds_[column] == ColumnKind::kRef,
                kInput, "holds: column is ", column, ", should be a ref column");
  for (int64_t i = 0; i < numbers.size; ++i) out[i] = refs_[column].holds(numbers[i]);
}

int64_t Pages::nbytes() {
  const ReadLock hold(lock_);
  int64_t n_bytes = slab_.nbytes() + banks_.nbytes();
  for (const RefCounts& refs : refs_) n_bytes += refs.nbytes();
  return n_bytes;
}

int64_t Pages::n_pages() {
  const ReadLock hold(lock_);
  return slab_.n_pages();
}

int64_t Pages::n_free_pages() {
  const ReadLock hold(lock_);
  return slab_.n_free_pages();
}

std::vector<int64_t> Pages::page_table(int64_t handle) {
  const ReadLock hold(lock_);
  const PageTable& pages = banks_[find_bank(banks_, {&handle, 1, 1}, 0, "page_table")].pages;
  return std::vector<int64_t>(pages.data(), pages.data() + pages.size());
}

std::string Pages::page_content(int64_t page) {
  const ReadLock hold(lock_);
  MEMCORE_CHECK(page >= 0 && page < slab_.n_pages(), kInput, "page_content: page is ", page,
                ", should be below ", slab_.n_pages());
  return slab_.content(static_cast<int32_t>(page));
}

BankView Pages::view(int64_t handle, const char* op, int64_t position) const {
  const int32_t index = banks_.find(handle);
  MEMCORE_CHECK(index >= 0, kNotFound, op, ": handle ", handle, " (position ", position,
                ") names no bank, should be one that is not dropped");
  const Bank& bank = banks_[index];
  return {bank.pages.data(), bank.n_rows, bank.family};
}

int64_t Pages::find_row(int64_t handle, int64_t id) const {
  const int32_t index = banks_.find(handle);
  return index < 0 ? -1 : find_row(banks_[index], id);
}

int64_t Pages::find_slot(int64_t handle, int64_t id) const {
  const int32_t index = banks_.find(handle);
  const int64_t row = index < 0 ? -1 : find_row(banks_[index], id);
  return row < 0 ? -1 : slot_of(banks_[index].pages[row / kPageRows], row % kPageRows);
}

int64_t Pages::find_row(const Bank& bank, int64_t id) const {
  if (id < 0) return -1;
  if (bank.id_map) return bank.id_map->find(id);
  // Where nothing was deleted, row and id are equal.
  if (id < bank.n_rows && slab_.ids(bank.pages[id / kPageRows])[id % kPageRows] == id) return id;
  for (int64_t position = 0; position < bank.pages.size(); ++position) {
    const int64_t* ids = slab_.ids(bank.pages[position]);
    uint32_t equal = 0;
    for (int lane = 0; lane < kPageRows; ++lane) equal |= uint32_t{ids[lane] == id} << lane;
    if (equal != 0) return position * kPageRows + std::countr_zero(equal);
  }
  return -1;
}

void Pages::compact() {
  const WriteLock hold(lock_);
  const int64_t n_used = slab_.n_pages() - slab_.n_free_pages();
  // Each page above n_used that is in use has a free page below it to go to.
  std::vector<int32_t> targets(slab_.n_pages() - n_used, -1);
  std::vector<Plan::Copy> copies;
  copies.reserve(slab_.n_free_pages());
  int32_t target = 0;
  for (int32_t page = static_cast<int32_t>(n_used); page < slab_.n_pages(); ++page) {
    if (slab_.n_references(page) == 0) continue;
    while (slab_.n_references(target) > 0) ++target;
    copies.push_back({page, target, kPageRows, kPageRows});
    targets[page - n_used] = target++;
  }
  reserve_journal();
  for_tasks_or_alone(static_cast<int64_t>(copies.size()), kTaskPages,
                     [&](int64_t, int64_t begin, int64_t end) {
                       for (int64_t i = begin; i < end; ++i) {
                         slab_.copy_vectors(copies[i].from, copies[i].to, kPageRows, kPageRows);
                         slab_.copy_cells(copies[i].from, copies[i].to, kPageRows);
                         slab_.wipe_page_vectors(copies[i].from, kPageRows);
                         slab_.wipe_page_cells(copies[i].from);
                       }
                     });
  for (int32_t index = 0; index < banks_.size(); ++index) {
    PageTable& pages = banks_[index].pages;
    for (int64_t i = 0; i < pages.size(); ++i) {
      if (pages[i] < n_used) continue;
      pages[i] = targets[pages[i] - n_used];
      if (journal_) journal_->change(index, i);
    }
  }
  for (const Plan::Copy& copy : copies) {
    slab_.replace(copy.from, copy.to);
    if (!journal_) continue;
    journal_->copy(copy.from, copy.to, kPageRows, kPageRows);
    journal_->write(copy.from, 0, kPageRows);
  }
  slab_.trim();
}

void Pages::acquire_pages(const BankContents& rows) noexcept {
  for (int64_t i = 0; i < rows.pages.size(); ++i) slab_.acquire(rows.pages[i]);
}

void Pages::run(const Plan& plan) noexcept {
  const auto& copies = plan.copies();
  const auto& moves = plan.moves();
  const auto& wipes = plan.wipes();
  const auto size = [](const auto& items) { return static_cast<int64_t>(items.size()); };

  if (journal_) {
    for (const Plan::Edit& edit : plan.edits()) journal_->change(edit.bank, edit.position);
  }
  for (const Plan::Copy& copy : copies) {
    if (journal_) journal_->copy(copy.from, copy.to, copy.n_lanes, copy.n_used);
    slab_.copy_cells(copy.from, copy.to, copy.n_lanes);
    count_refs(copy.to, 0, copy.n_lanes, 1);
  }
  for_tasks_or_alone(size(copies), kTaskPages, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      slab_.copy_vectors(copies[i].from, copies[i].to, copies[i].n_lanes, copies[i].n_used);
    }
  });

  for (const Plan::Move& move : moves) {
    count_refs(move.to, -1);
    slab_.move_cells(move.from, move.to);
    count_refs(move.to, 1);
    if (journal_) journal_->move(move.from, move.to);
    if (!move.wipes) continue;
    if (journal_) journal_->write(move.from);
    count_refs(move.from, -1);
    slab_.wipe_cells(move.from);
  }
  const int64_t row_bytes = slab_.row_bytes();
  const bool streams = size(moves) * row_bytes >= kStreamedBytes;
  for_tasks_or_alone(size(moves), kTaskRows, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      uint8_t* to = slab_.row(moves[i].to);
      const uint8_t* from = slab_.row(moves[i].from);
      if (streams) {
        stream_copy(to, from, row_bytes, slab_.row(moves[std::min(i + 2, end - 1)].from));
      } else {
        std::memcpy(to, from, row_bytes);
      }
      if (moves[i].wipes) slab_.wipe_vector(moves[i].from);
    }
    if (streams) stream_fence();
  });

  for (const int64_t slot : wipes) {
    if (journal_) journal_->write(slot);
    count_refs(slot, -1);
    slab_.wipe_cells(slot);
  }
  for_tasks_or_alone(size(wipes), kTaskRows, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) slab_.wipe_vector(wipes[i]);
  });
}

void Pages::finish(Plan& plan) noexcept {
  const std::vector<Plan::FreedPage>& freed = plan.commit();
  for (const Plan::FreedPage& page : freed) {
    if (journal_) journal_->write(page.page, 0, page.n_used);
    count_refs(page.page, 0, page.n_used, -1);
    slab_.wipe_page_cells(page.page);
  }
  for_tasks_or_alone(static_cast<int64_t>(freed.size()), kTaskPages,
                     [&](int64_t, int64_t begin, int64_t end) {
                       for (int64_t i = begin; i < end; ++i)
                         slab_.wipe_page_vectors(freed[i].page, freed[i].n_used);
                     });
  for (const Plan::FreedPage& page : freed) slab_.give_back(page.page);
}

void Pages::count_refs(int32_t page, int begin_lane, int end_lane, int sign) noexcept {
  for (const int column : ref_columns_) {
    const int64_t* cells = slab_.cells(column, page);
    for (int lane = begin_lane; lane < end_lane; ++lane) {
      if (sign > 0) {
        refs_[column].acquire(cells[lane]);
      } else {
        refs_[column].release(cells[lane]);
      }
    }
  }
}

}  // namespace memcore

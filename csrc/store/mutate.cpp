#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "check.h"
#include "new_ids.h"
#include "pages.h"
#include "tasks.h"

namespace memcore {
namespace {

constexpr int64_t kMaxRef = int64_t{1} << 31;

using WriteLock = std::unique_lock<RwLock>;

// Loops of a few dozen ns a turn ask this often.
constexpr int64_t kPolledTurns = 4096;

constexpr int64_t n_pages_for(int64_t n_rows) { return (n_rows + kPageRows - 1) / kPageRows; }

void check_vectors(const Slab& slab, const VectorsView* vectors, int64_t n, bool required,
                   const char* op) {
  if (vectors == nullptr) {
    MEMCORE_CHECK(!required || slab.dim() == 0, kShape, op, ": vectors is None, should have dim ",
                  slab.dim());
    return;
  }
  MEMCORE_CHECK(slab.dim() > 0, kShape, op, ": vectors has dim ", vectors->dim, ", should be None");
  MEMCORE_CHECK(vectors->dim == slab.dim(), kShape, op, ": vectors has dim ", vectors->dim,
                ", should be ", slab.dim());
  MEMCORE_CHECK(vectors->n_rows == n, kShape, op, ": vectors has ", vectors->n_rows,
                " rows, should have ", n);
}

std::optional<IncomingVectors> take_vectors(const Slab& slab, const VectorsView* vectors,
                                            const char* op, Interrupt& interrupt) {
  if (vectors == nullptr) return std::nullopt;
  return std::optional<IncomingVectors>(std::in_place, *vectors, slab, op, interrupt);
}

}  // namespace

void Pages::check_cells(const char* op, int64_t n, const CellsView& cells) {
  MEMCORE_CHECK(static_cast<int>(cells.size()) == slab_.n_columns(), kShape, op, ": columns has ",
                cells.size(), " arrays, should have ", slab_.n_columns());
  for (size_t column = 0; column < cells.size(); ++column) {
    if (cells[column].data == nullptr) continue;
    MEMCORE_CHECK(cells[column].size == n, kShape, op, ": columns[", column, "] has ",
                  cells[column].size, " cells, should have ", n);
    if (kinds_[column] != ColumnKind::kRef) continue;
    int64_t largest = -1;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t cell = cells[column][i];
      MEMCORE_CHECK(cell >= -1 && cell < kMaxRef, kInput, op, ": columns[", column,
                    "] has reference ", cell, " (position ", i, "), should be -1 to 2^31 - 1");
      largest = std::max(largest, cell);
    }
    refs_[column].reserve(largest + 1);
  }
}

void Pages::store_columns(const CellsView& cells) noexcept {
  for (int column = 0; column < slab_.n_columns(); ++column) {
    if (cells[column].data == nullptr || slab_.is_stored(column)) continue;
    const int64_t null = null_cell(kinds_[column]);
    for (int64_t i = 0; i < cells[column].size; ++i) {
      if (cells[column][i] == null) continue;
      slab_.store(column);
      break;
    }
  }
}

void Pages::write_cells(int64_t slot, int64_t i, const CellsView& cells, bool is_new) noexcept {
  const int32_t page = page_of(slot);
  const int lane = lane_of(slot);
  for (int column = 0; column < slab_.n_columns(); ++column) {
    const bool given = cells[column].data != nullptr;
    if (!slab_.is_stored(column) || (!given && !is_new)) continue;
    int64_t& cell = slab_.stored_cells(column, page)[lane];
    const int64_t value = given ? cells[column][i] : null_cell(kinds_[column]);
    if (kinds_[column] == ColumnKind::kRef) {
      if (!is_new) refs_[column].release(cell);
      refs_[column].acquire(value);
    }
    cell = value;
  }
}

void Pages::check(const char* op, int64_t n, const VectorsView* vectors, const CellsView& cells,
                  Interrupt& interrupt) {
  const WriteLock hold(lock_);
  check_vectors(slab_, vectors, n, false, op);
  take_vectors(slab_, vectors, op, interrupt);
  check_cells(op, n, cells);
}

void Pages::add(const Int64View& handles, const Int64View* ids, int64_t n,
                const VectorsView* vectors, const CellsView& cells, Interrupt& interrupt,
                int64_t* ids_out) {
  const WriteLock hold(lock_);
  check_vectors(slab_, vectors, n, true, "add");
  const Batch batch = group_by_bank(banks_, handles, n, "add");
  NewIds chosen;
  chosen.next_ids.resize(batch.n_groups());
  if (ids == nullptr) {
    choose_ids(batch, banks_, ids_out, chosen);
  } else {
    check_ids(batch, banks_, *ids, chosen, interrupt);
    for (int64_t i = 0; i < n; ++i) ids_out[i] = (*ids)[i];
  }
  const auto incoming = take_vectors(slab_, vectors, "add", interrupt);
  check_cells("add", n, cells);

  // New rows go behind the last one.
  Plan plan(slab_, banks_);
  std::vector<int64_t> slots(n);
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    const int32_t index = batch.banks[group];
    Bank& bank = banks_[index];
    const int64_t n_new = batch.begins[group + 1] - batch.begins[group];
    const int64_t n_after = bank.n_rows + n_new;
    bank.pages.reserve(n_pages_for(n_after));
    const bool has_map = plan.need_map(index, n_after, n_new);
    if (bank.n_rows % kPageRows != 0) {
      plan.own_page(index, bank.n_rows / kPageRows, static_cast<int>(bank.n_rows % kPageRows));
    }
    for (int64_t row = bank.n_rows; row < n_after; ++row) {
      const int64_t position = batch.order[batch.begins[group] + row - bank.n_rows];
      if (row % kPageRows == 0) plan.append_page(index);
      if (row % kPolledTurns == 0) interrupt.poll();
      slots[position] = slot_of(bank.pages[row / kPageRows], row % kPageRows);
      if (has_map) plan.map_id(index, ids_out[position], row);
    }
  }
  plan.seal();
  reserve_journal();
  // Nobody sees these slots before the banks' counts change.
  if (incoming) {
    plan.expect_rows();
    try {
      incoming->write(slots, batch.order, interrupt);
    } catch (...) {
      wipe_last_pages(batch, slots);
      throw;
    }
  }

  store_columns(cells);
  run(plan);
  for (const int64_t position : batch.order) {
    slab_.mark_stale(slots[position]);
    slab_.ids(page_of(slots[position]))[lane_of(slots[position])] = ids_out[position];
    write_cells(slots[position], position, cells, true);
    if (journal_) journal_->write(slots[position]);
  }
  finish(plan);
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    Bank& bank = banks_[batch.banks[group]];
    bank.n_rows += batch.begins[group + 1] - batch.begins[group];
    bank.next_id = chosen.next_ids[group];
    if (journal_) journal_->change(batch.banks[group]);
    if (ids != nullptr) bank.gaps = std::move(chosen.gaps[group]);
  }
}

// Takes back the vectors of new rows that went to pages with rows of before.
void Pages::wipe_last_pages(const Batch& batch, const std::vector<int64_t>& slots) const noexcept {
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    const int64_t n_free = n_pages_for(banks_[batch.banks[group]].n_rows) * kPageRows -
                           banks_[batch.banks[group]].n_rows;
    const int64_t end = std::min(batch.begins[group + 1], batch.begins[group] + n_free);
    for (int64_t i = batch.begins[group]; i < end; ++i) slab_.wipe_vector(slots[batch.order[i]]);
  }
}

void Pages::update(const Int64View& handles, const Int64View& ids, int64_t n,
                   const VectorsView* vectors, const CellsView& cells, bool skip,
                   Interrupt& interrupt, bool* found) {
  const WriteLock hold(lock_);
  check_vectors(slab_, vectors, n, false, "update");
  const Batch batch = group_by_bank(banks_, handles, n, "update");
  const int64_t repeated = first_repeated(batch, ids, interrupt);
  MEMCORE_CHECK(repeated < 0, kInput, "update: id ", ids[repeated], " (position ", repeated,
                ") is repeated, should be given once for each bank");
  const std::vector<int64_t> rows = find_rows(batch, ids, skip, "update", interrupt);
  const auto incoming = take_vectors(slab_, vectors, "update", interrupt);
  check_cells("update", n, cells);

  Plan plan(slab_, banks_);
  std::vector<int64_t> slots(n);
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    const int32_t index = batch.banks[group];
    const Bank& bank = banks_[index];
    for (int64_t i = batch.begins[group]; i < batch.begins[group + 1]; ++i) {
      const int64_t row = rows[batch.order[i]];
      slots[batch.order[i]] = -1;
      if (i % kPolledTurns == 0) interrupt.poll();
      if (row < 0) continue;
      const int64_t page = row / kPageRows;
      plan.own_page(index, page,
                    static_cast<int>(std::min(kPageRows, bank.n_rows - page * kPageRows)));
      slots[batch.order[i]] = slot_of(bank.pages[page], row % kPageRows);
    }
  }
  plan.seal();
  reserve_journal();

  store_columns(cells);
  run(plan);
  if (incoming) incoming->write(slots, batch.order);
  for (const int64_t position : batch.order) {
    if (slots[position] < 0) continue;
    if (incoming) slab_.mark_stale(slots[position]);
    write_cells(slots[position], position, cells, false);
    if (journal_) journal_->write(slots[position]);
  }
  finish(plan);
  for (int64_t i = 0; i < n; ++i) found[i] = rows[i] >= 0;
}

void Pages::remove(const Int64View& handles, const Int64View& ids, int64_t n, bool skip,
                   Interrupt& interrupt, bool* found) {
  const WriteLock hold(lock_);
  const Batch batch = group_by_bank(banks_, handles, n, "delete");
  const int64_t repeated = first_repeated(batch, ids, interrupt);
  MEMCORE_CHECK(repeated < 0, kInput, "delete: id ", ids[repeated], " (position ", repeated,
                ") is repeated, should be given once for each bank");
  const std::vector<int64_t> rows = find_rows(batch, ids, skip, "delete", interrupt);

  Plan plan(slab_, banks_);
  std::vector<int64_t> n_removed(batch.n_groups());
  std::vector<int64_t> removed;
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    removed.clear();
    if (group % kPolledTurns == 0) interrupt.poll();
    for (int64_t i = batch.begins[group]; i < batch.begins[group + 1]; ++i) {
      if (rows[batch.order[i]] >= 0) removed.push_back(rows[batch.order[i]]);
    }
    std::sort(removed.begin(), removed.end());
    plan_removal(plan, batch.banks[group], removed, interrupt);
    n_removed[group] = static_cast<int64_t>(removed.size());
  }
  plan.seal();
  reserve_journal(0, static_cast<int64_t>(plan.moves().size()));

  run(plan);
  finish(plan);
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    Bank& bank = banks_[batch.banks[group]];
    bank.n_rows -= n_removed[group];
    if (journal_) journal_->change(batch.banks[group]);
    if (bank.n_rows <= kScanRows / 2) bank.id_map.reset();
  }
  for (int64_t i = 0; i < n; ++i) found[i] = rows[i] >= 0;
}

// The last rows that stay move into the holes before them. removed: rows, ascending.
void Pages::plan_removal(Plan& plan, int32_t index, const std::vector<int64_t>& removed,
                         Interrupt& interrupt) const {
  if (removed.empty()) return;
  const Bank& bank = banks_[index];
  const int64_t n_left = bank.n_rows - static_cast<int64_t>(removed.size());
  const bool has_map = plan.need_map(index, n_left, static_cast<int64_t>(removed.size()));
  if (has_map) {
    int64_t n_unmapped = 0;
    for (const int64_t row : removed) {
      if (++n_unmapped % kPolledTurns == 0) interrupt.poll();
      plan.unmap_id(index, slab_.ids(bank.pages[row / kPageRows])[row % kPageRows]);
    }
  }

  // The rows now end in this page. If it is shared, its copy never gets the lanes that go; else
  // they are wiped.
  const int64_t end_page = n_left / kPageRows;
  const int32_t end_before = bank.pages[end_page];
  const int n_lanes = static_cast<int>(n_left % kPageRows);
  const bool wipes = n_lanes != 0 && !plan.own_page(index, end_page, n_lanes);

  auto hole = removed.begin();
  auto gone = std::lower_bound(removed.begin(), removed.end(), n_left);
  for (int64_t row = n_left; row < bank.n_rows; ++row) {
    const int64_t page = row / kPageRows;
    const int lane = static_cast<int>(row % kPageRows);
    const bool is_wiped = wipes && page == end_page;
    if (row % kPolledTurns == 0) interrupt.poll();
    if (gone != removed.end() && *gone == row) {
      if (is_wiped) plan.wipe(slot_of(end_before, lane));
      ++gone;
      continue;
    }
    const int64_t from = slot_of(page == end_page ? end_before : bank.pages[page], lane);
    const int64_t to = *hole++;
    const int64_t to_page = to / kPageRows;
    plan.own_page(index, to_page,
                  static_cast<int>(std::min(kPageRows, n_left - to_page * kPageRows)));
    plan.move(from, slot_of(bank.pages[to_page], to % kPageRows), is_wiped);
    if (has_map) plan.remap_id(index, slab_.ids(page_of(from))[lane], to);
  }
  plan.cut_pages(index, n_pages_for(n_left));
}

}  // namespace memcore

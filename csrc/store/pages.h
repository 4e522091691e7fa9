#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "banks.h"
#include "batch.h"
#include "columns.h"
#include "journal.h"
#include "metric.h"
#include "plan.h"
#include "rwlock.h"
#include "slab.h"
#include "vectors.h"

namespace memcore {

// What a search needs to know of a bank. Valid while the lock is held.
struct BankView {
  const int32_t* pages;  // (ceil(n_rows / 16),)
  int64_t n_rows;
  int64_t family;  // banks of one family may share pages
};

// Cells for each column; data nullptr: this column is not given.
using CellsView = std::vector<Int64View>;

// All rows of all banks, and the operations on them: each is one pass over vectors of handles, all
// or nothing. Every operation takes the lock itself, except those under "with the lock held".
class Pages {
 public:
  // dim 0: rows without vectors.
  Pages(int64_t dim, DType dtype, Metric metric, std::vector<ColumnKind> kinds);

  // Lists take any ids of the caller's that they do not hold, which is not checked.
  void create(int64_t n, int64_t* handles, bool are_lists = false);
  void drop(const Int64View& handles);
  void alive(const Int64View& handles, bool* out);

  // Throws what add or update would for these rows, whatever banks they go to.
  void check(const char* op, int64_t n, const VectorsView* vectors, const CellsView& cells,
             Interrupt& interrupt);

  // Writes may be stopped until they change anything that can be seen, which then goes on to the
  // end. They poll with the lock held: nobody who polls may ask for the GIL.
  // ids: nullptr draws them from each bank's counter. vectors: nullptr where dim is 0.
  void add(const Int64View& handles, const Int64View* ids, int64_t n, const VectorsView* vectors,
           const CellsView& cells, Interrupt& interrupt, int64_t* ids_out);
  void update(const Int64View& handles, const Int64View& ids, int64_t n, const VectorsView* vectors,
              const CellsView& cells, bool skip, Interrupt& interrupt, bool* found);
  void remove(const Int64View& handles, const Int64View& ids, int64_t n, bool skip,
              Interrupt& interrupt, bool* found);
  // vectors (n, dim) in the bank's dtype, or nullptr; cells: one (n,) array per column, or nullptr.
  void get(const Int64View& handles, const Int64View& ids, int64_t n, bool skip, uint8_t* vectors,
           const std::vector<int64_t*>& cells, Interrupt& interrupt, bool* found);
  void contains(const Int64View& handles, const Int64View& ids, int64_t n, Interrupt& interrupt,
                bool* found);
  void count(const Int64View& handles, int64_t* out);
  std::vector<int64_t> ids(int64_t handle);

  // forks (handles.size, n)
  void fork(const Int64View& handles, int64_t n, int64_t* forks);
  // Makes each bank what its source is, counter included.
  void copy_from(const Int64View& handles, const Int64View& sources);

  std::vector<int64_t> dead_refs(int64_t column);
  // Which of these numbers are in rows.
  void holds(int64_t column, const Int64View& numbers, bool* out);
  void compact();

  // For a mirror of the rows on another device: from start_journal on, changes are noted, and all
  // that is there counts as changed.
  void start_journal();
  Journal::Changes take_changes();
  // Notes these pages as written, whatever is in them.
  void mark_changed(const Int64View& pages);
  // The slots of rows by bank and id, -1 where there is none.
  void find_slots(const Int64View& handles, const Int64View& ids, int64_t n, int64_t* slots);
  // What is in these slots: rows (n, dim) as bytes or nullptr, ids (n,) and cells, one (n,) for
  // each column.
  void read_slots(const Int64View& slots, uint8_t* rows, int64_t* ids,
                  const std::vector<int64_t*>& cells);
  // Where pages lie, for who reads them past the store while nobody writes: (n, 4), the addresses
  // of rows, ids and cells, and the bytes from one column's cells to the next. It stays until the
  // next compact.
  std::vector<int64_t> page_addresses(const Int64View& pages);
  // (n_columns, 2): whether cells of the column are kept, and what they are to be taken for if not.
  std::vector<int64_t> column_nulls();
  // (n_chunks, 2): the address and the bytes of all memory that pages are in.
  std::vector<int64_t> chunk_memory();
  // The tables of these banks one after the other; ends (n,) says where each ends.
  std::vector<int64_t> page_tables(const Int64View& handles, int64_t* ends);

  // For tests: the page numbers of a bank, and all bytes of a page.
  std::vector<int64_t> page_table(int64_t handle);
  std::string page_content(int64_t page);
  int64_t nbytes();
  int64_t n_pages();
  int64_t n_free_pages();

  // With the lock held, shared or not.
  const Slab& slab() const { return slab_; }
  const std::vector<ColumnKind>& kinds() const { return kinds_; }
  Metric metric() const { return metric_; }
  RwLock& lock() { return lock_; }
  // The bank of a handle. Throws kNotFound in the name of `op`; position is that of the handle in
  // its argument.
  BankView view(int64_t handle, const char* op, int64_t position) const;
  // The row of an id in the bank of a live handle, or -1.
  int64_t find_row(int64_t handle, int64_t id) const;
  // The same as a slot.
  int64_t find_slot(int64_t handle, int64_t id) const;

 private:
  // Runs the copies, moves and wipes of a sealed plan; then the caller writes, then finish lets go
  // of pages.
  void run(const Plan& plan) noexcept;
  void finish(Plan& plan) noexcept;
  void acquire_pages(const BankContents& rows) noexcept;

  // Makes sure that the journal, if there is one, can take what a sealed plan does.
  void reserve_journal(int64_t n_new_banks = 0, int64_t n_moves = 0);

  // Adds (or takes away, for sign -1) the references of some lanes of a page.
  void count_refs(int32_t page, int begin_lane, int end_lane, int sign) noexcept;
  void count_refs(int64_t slot, int sign) noexcept {
    count_refs(page_of(slot), lane_of(slot), lane_of(slot) + 1, sign);
  }
  void wipe_last_pages(const Batch& batch, const std::vector<int64_t>& slots) const noexcept;
  // Keeps each column of which one of these cells is not null.
  void store_columns(const CellsView& cells) noexcept;
  void write_cells(int64_t slot, int64_t i, const CellsView& cells, bool is_new) noexcept;
  void check_cells(const char* op, int64_t n, const CellsView& cells);

  // rows (n,): the row of each (bank, id), -1 where there is none; that throws unless skip.
  std::vector<int64_t> find_rows(const Batch& batch, const Int64View& ids, bool skip,
                                 const char* op, Interrupt& interrupt) const;
  int64_t find_row(const Bank& bank, int64_t id) const;
  void prefetch_ids(const Bank& bank) const;
  void plan_removal(Plan& plan, int32_t bank, const std::vector<int64_t>& removed,
                    Interrupt& interrupt) const;

  Slab slab_;
  Metric metric_;
  std::vector<ColumnKind> kinds_;
  std::vector<int> ref_columns_;
  Banks banks_;
  std::vector<RefCounts> refs_;  // one per column
  std::unique_ptr<Journal> journal_;
  mutable RwLock lock_;
};

}  // namespace memcore

#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "columns.h"
#include "dtype.h"
#include "kernels.h"
#include "stale_lanes.h"

namespace memcore {

inline constexpr int64_t kPageRows = kBlockRows;

// A slot is one row's place in the slab: page * 16 + lane.
constexpr int64_t slot_of(int32_t page, int64_t lane) { return int64_t{page} * kPageRows + lane; }
constexpr int32_t page_of(int64_t slot) { return static_cast<int32_t>(slot / kPageRows); }
constexpr int lane_of(int64_t slot) { return static_cast<int>(slot % kPageRows); }

// Reference-counted pages of 16 rows. A page holds rows (16, dim), their shadow block, ids (16,)
// and cells (16,) for each column. Pages live in chunks that never move. Lanes without a row are
// wiped: zero row, zero scale, error and norm, id -1. A column takes no memory until a cell of it
// is not null.
class Slab {
 public:
  // dim 0: rows without vectors, so without a shadow.
  Slab(int64_t dim, DType dtype, const std::vector<ColumnKind>& kinds);
  ~Slab();
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  int64_t dim() const { return dim_; }
  DType dtype() const { return dtype_; }
  int n_columns() const { return static_cast<int>(columns_.size()); }
  int64_t row_bytes() const { return row_bytes_; }

  // The parts of a page. Lane r of rows starts at r * row_bytes(); block is laid out as kernels.h
  // says, and is up to date when this returns.
  uint8_t* rows(int32_t page) const {
    const Chunk& c = chunk(page);
    return c.rows + (page - c.first) * rows_stride_;
  }
  const uint8_t* block(int32_t page) const {
    stale_.bring_up_to_date(page, [&](uint16_t lanes) { update_block(page, lanes, nullptr); });
    return raw_block(page);
  }
  // Brings the blocks of several pages up to date: those whose rows lag behind come from memory
  // faster than when they are asked for one by one.
  void refresh(const int32_t* pages, int64_t n) const;
  int64_t* ids(int32_t page) const {
    const Chunk& c = chunk(page);
    return c.ids + (page - c.first) * kPageRows;
  }
  const int64_t* cells(int column, int32_t page) const {
    return is_stored(column) ? stored_cells(column, page) : columns_[column].nulls;
  }
  bool is_stored(int column) const { return columns_[column].is_stored; }
  // Where the cells of a column are, once it is stored.
  int64_t* stored_cells(int column, int32_t page) const {
    const Chunk& c = chunk(page);
    return c.cells + (column * c.n_pages + page - c.first) * kPageRows;
  }
  // What a cell of a column is that is not stored, in a lane with a row.
  int64_t null_of(int column) const { return columns_[column].nulls[0]; }
  // From the cells of one column to those of the next, in bytes, within the chunk of a page.
  int64_t column_stride(int32_t page) const { return chunk(page).n_pages * kPageRows * 8; }
  // Keeps the cells of a column from now on.
  void store(int column) noexcept;
  uint8_t* row(int64_t slot) const { return rows(page_of(slot)) + lane_of(slot) * row_bytes_; }

  int32_t n_references(int32_t page) const { return std::max(n_references_[page], 0); }
  void acquire(int32_t page) { ++n_references_[page]; }
  // Returns true if that was the last reference: then the caller wipes the page and gives it back.
  bool release(int32_t page) { return --n_references_[page] == 0; }

  // A wiped page with one reference. Throws std::bad_alloc if there is no memory.
  int32_t take();
  // Makes sure that the next n takes do not throw.
  void reserve(int64_t n);
  // Puts a page on the free list; one that is not wiped is when it is taken next.
  void give_back(int32_t page, bool is_wiped = true) noexcept;

  // The references of one page go to a free one, whose place on the free list the next trim
  // forgets.
  void replace(int32_t from, int32_t to) {
    n_references_[to] = n_references_[from];
    n_references_[from] = 0;
  }

  // The data plane: vectors, and the shadow where whole pages are copied; different rows in
  // different threads. copy_vectors copies the first n_lanes of n_used lanes to a wiped page.
  // wipe_page_vectors leaves the shadow, of lanes without ids by now, to whom reads it next.
  void copy_vectors(int32_t from, int32_t to, int n_lanes, int n_used) const;
  void wipe_vector(int64_t slot) const { std::memset(row(slot), 0, row_bytes_); }
  void wipe_page_vectors(int32_t page, int n_used) const;

  // The rest: ids, cells, and that a lane's shadow lags behind. In one thread.
  void copy_cells(int32_t from, int32_t to, int n_lanes) const;
  void move_cells(int64_t from, int64_t to) const;
  void wipe_cells(int64_t slot) const;
  void wipe_page_cells(int32_t page) const;
  void mark_stale(int64_t slot) const {
    stale_.mark(page_of(slot), lane_of(slot), lane_of(slot) + 1);
  }

  // Gives the memory above the highest page in use back to the system. Free pages stay usable.
  void trim();

  // All bytes of a page: rows, block, ids, cells.
  std::string content(int32_t page) const;

  // (n_chunks, 2): where the memory of each chunk begins, and its bytes. It stays until the next
  // trim.
  std::vector<int64_t> chunk_memory() const;

  int64_t n_pages() const { return n_pages_; }
  int64_t n_free_pages() const { return static_cast<int64_t>(free_.size()); }
  int64_t nbytes() const;

 private:
  struct Column {
    int64_t nulls[kPageRows];
    bool is_stored = false;
  };
  struct Chunk {
    int64_t first;
    int64_t n_pages;
    uint8_t* rows;
    uint8_t* blocks;
    int64_t* ids;
    int64_t* cells;
    uint8_t* memory;
    int64_t n_bytes;
  };

  // The first chunk has 2^first_shift pages, each further one as many as all before it, up to
  // 2^last_shift.
  int64_t chunk_index(int64_t page) const {
    return page >> last_shift_ == 0 ? std::bit_width(static_cast<uint64_t>(page) >> first_shift_)
                                    : last_shift_ - first_shift_ + (page >> last_shift_);
  }
  const Chunk& chunk(int32_t page) const { return chunks_[chunk_index(page)]; }
  void add_chunk();
  void use_huge_cells(const Chunk& chunk, int column) const noexcept;
  uint8_t* raw_block(int32_t page) const {
    const Chunk& c = chunk(page);
    return c.blocks + (page - c.first) * block_stride_;
  }
  void update_block(int32_t page, uint16_t lanes, const void* const* later) const;

  static constexpr int32_t kUnwiped = -1;

  int64_t dim_;
  DType dtype_;
  std::vector<Column> columns_;
  int64_t row_bytes_;
  int64_t rows_stride_;
  int64_t block_stride_;
  int64_t page_bytes_;  // with all columns
  int first_shift_;
  int last_shift_;
  std::vector<Chunk> chunks_;
  std::vector<int32_t> n_references_;  // kUnwiped: free, and yet to be wiped
  std::vector<int32_t> free_;
  mutable StaleLanes stale_;
  int64_t n_pages_ = 0;   // pages ever taken since the last trim, free ones included
  int64_t capacity_ = 0;  // pages in all chunks
};

}  // namespace memcore

#include "slab.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>

#include "check.h"
#include "float_env.h"

namespace memcore {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;
// A bank of a hundred rows should not cost megabytes of address space, a slab of gigabytes not
// thousands of chunks.
constexpr int64_t kFirstChunkBytes = int64_t{256} << 10;
constexpr int64_t kLastChunkBytes = int64_t{32} << 20;
constexpr uint8_t kZeroCode = 128;

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

int64_t product(int64_t a, int64_t b) {
  int64_t result;
  if (__builtin_mul_overflow(a, b, &result)) throw std::bad_alloc();
  return result;
}

// Asks for huge pages, in memory of whole pages of the system.
void use_huge_pages(void* memory, int64_t n_bytes) {
  if (n_bytes >= kHugePage) madvise(memory, n_bytes, MADV_HUGEPAGE);
}

// Zeroed memory from the system, at a place for huge pages where it is large enough for them.
uint8_t* map_memory(int64_t n_bytes) {
  const int64_t slack = n_bytes >= kHugePage ? kHugePage : 0;
  void* mapped = mmap(nullptr, n_bytes + slack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  uint8_t* memory = static_cast<uint8_t*>(mapped);
  if (slack == 0) return memory;
  const int64_t head =
      round_up(reinterpret_cast<intptr_t>(memory), kHugePage) - reinterpret_cast<intptr_t>(memory);
  if (head > 0) munmap(memory, head);
  if (slack > head) munmap(memory + head + n_bytes, slack - head);
  return memory + head;
}

}  // namespace

Slab::Slab(int64_t dim, DType dtype, const std::vector<ColumnKind>& kinds)
    : dim_(dim), dtype_(dtype), columns_(kinds.size()) {
  for (size_t i = 0; i < kinds.size(); ++i)
    std::fill_n(columns_[i].nulls, kPageRows, null_cell(kinds[i]));
  row_bytes_ = dim * item_bytes(dtype);
  rows_stride_ = round_up(product(row_bytes_, kPageRows), kLine);
  block_stride_ = dim == 0 ? 0 : block_bytes(dim);
  page_bytes_ = rows_stride_ + block_stride_ + (1 + n_columns()) * kPageRows * 8;
  first_shift_ =
      std::bit_width(static_cast<uint64_t>(std::max<int64_t>(1, kFirstChunkBytes / page_bytes_))) -
      1;
  last_shift_ =
      std::bit_width(static_cast<uint64_t>(std::max<int64_t>(1, kLastChunkBytes / page_bytes_))) -
      1;
}

Slab::~Slab() {
  for (const Chunk& chunk : chunks_) munmap(chunk.memory, chunk.n_bytes);
}

void Slab::add_chunk() {
  Chunk chunk;
  chunk.first = capacity_;
  chunk.n_pages =
      std::clamp<int64_t>(capacity_, int64_t{1} << first_shift_, int64_t{1} << last_shift_);
  if (capacity_ + chunk.n_pages > std::numeric_limits<int32_t>::max()) throw std::bad_alloc();

  // Each part begins on a page of the system, so that trim can cut each.
  const int64_t unit = sysconf(_SC_PAGESIZE);
  const int64_t rows_bytes = round_up(product(chunk.n_pages, rows_stride_), unit);
  const int64_t blocks_bytes = round_up(product(chunk.n_pages, block_stride_), unit);
  const int64_t ids_bytes = round_up(chunk.n_pages * kPageRows * 8, unit);
  const int64_t cells_bytes = round_up(product(chunk.n_pages * kPageRows * 8, n_columns()), unit);
  chunk.n_bytes = rows_bytes + blocks_bytes + ids_bytes + cells_bytes;

  const int64_t capacity = capacity_ + chunk.n_pages;
  chunks_.reserve(chunks_.size() + 1);
  if (static_cast<int64_t>(n_references_.size()) < capacity) {
    n_references_.resize(capacity);
    stale_.grow(capacity);
  }
  free_.reserve(capacity);
  chunk.memory = map_memory(chunk.n_bytes);
  use_huge_pages(chunk.memory, chunk.n_bytes - cells_bytes);
  chunk.rows = chunk.memory;
  chunk.blocks = chunk.rows + rows_bytes;
  chunk.ids = reinterpret_cast<int64_t*>(chunk.blocks + blocks_bytes);
  chunk.cells = reinterpret_cast<int64_t*>(chunk.blocks + blocks_bytes + ids_bytes);
  for (int column = 0; column < n_columns(); ++column) {
    if (is_stored(column)) use_huge_cells(chunk, column);
  }
  chunks_.push_back(chunk);
  capacity_ = capacity;
}

// The memory was there from the start, but nobody has touched it.
void Slab::store(int column) noexcept {
  if (is_stored(column)) return;
  columns_[column].is_stored = true;
  for (const Chunk& chunk : chunks_) use_huge_cells(chunk, column);
  for (int32_t page = 0; page < n_pages_; ++page) {
    for (int lane = 0; lane < kPageRows; ++lane) {
      if (ids(page)[lane] >= 0) stored_cells(column, page)[lane] = columns_[column].nulls[lane];
    }
  }
}

void Slab::use_huge_cells(const Chunk& chunk, int column) const noexcept {
  const int64_t n_cells = chunk.n_pages * kPageRows;
  use_huge_pages(chunk.cells + column * n_cells, n_cells * 8);
}

void Slab::reserve(int64_t n) {
  while (n_free_pages() + capacity_ - n_pages_ < n) add_chunk();
}

int32_t Slab::take() {
  int32_t page;
  if (!free_.empty()) {
    page = free_.back();
    free_.pop_back();
    if (n_references_[page] == kUnwiped) wipe_page_vectors(page, kPageRows);
  } else {
    if (n_pages_ == capacity_) add_chunk();
    page = static_cast<int32_t>(n_pages_++);
    std::fill_n(ids(page), kPageRows, -1);
    if (dim_ > 0) std::memset(raw_block(page), kZeroCode, block_codes_bytes(dim_));
  }
  n_references_[page] = 1;
  return page;
}

void Slab::give_back(int32_t page, bool is_wiped) noexcept {
  n_references_[page] = is_wiped ? 0 : kUnwiped;
  free_.push_back(page);
}

void Slab::copy_vectors(int32_t from, int32_t to, int n_lanes, int n_used) const {
  if (dim_ == 0) return;
  std::memcpy(rows(to), rows(from), n_lanes * row_bytes_);
  std::memcpy(raw_block(to), raw_block(from), block_stride_);
  stale_.copy(from, to);
  stale_.mark(to, n_lanes, n_used);
}

void Slab::wipe_page_vectors(int32_t page, int n_used) const {
  if (dim_ == 0) return;
  std::memset(rows(page), 0, n_used * row_bytes_);
  stale_.mark(page, 0, n_used);
}

void Slab::refresh(const int32_t* pages, int64_t n) const {
  const auto next_stale = [&](int64_t i) {
    while (i < n && stale_.lanes(pages[i]) == 0) ++i;
    return i;
  };
  const void* later[kPageRows];
  for (int64_t i = next_stale(0), next; i < n; i = next) {
    next = next_stale(i + 1);
    int n_later = 0;
    for (uint32_t left = next < n ? stale_.lanes(pages[next]) : 0; left != 0; left &= left - 1)
      later[n_later++] = row(slot_of(pages[next], std::countr_zero(left)));
    std::fill(later + n_later, later + kPageRows, rows(pages[i]));
    stale_.bring_up_to_date(pages[i],
                            [&](uint16_t lanes) { update_block(pages[i], lanes, later); });
  }
}

void Slab::update_block(int32_t page, uint16_t lanes, const void* const* later) const {
  const FloatEnv env;
  uint8_t* block = raw_block(page);
  const int64_t codes_end = block_codes_bytes(dim_);
  const void* stored[kPageRows] = {};
  uint32_t empty = 0;
  for (uint32_t left = lanes; left != 0; left &= left - 1) {
    const int lane = std::countr_zero(left);
    if (ids(page)[lane] >= 0) {
      stored[lane] = rows(page) + lane * row_bytes_;
    } else {
      empty |= 1u << lane;
    }
  }
  // A block is lines of 16 lanes, 4 bytes each: first the codes, then scale, error and norm.
  for (int64_t at = 0; empty != 0 && at < block_stride_; at += kLine) {
    for (uint32_t left = empty; left != 0; left &= left - 1)
      std::memset(block + at + std::countr_zero(left) * 4, at < codes_end ? kZeroCode : 0, 4);
  }
  kernels().shadow_rows(stored, dtype_, dim_, block, later);
}

void Slab::copy_cells(int32_t from, int32_t to, int n_lanes) const {
  std::copy_n(ids(from), n_lanes, ids(to));
  for (int column = 0; column < n_columns(); ++column) {
    if (is_stored(column))
      std::copy_n(stored_cells(column, from), n_lanes, stored_cells(column, to));
  }
}

void Slab::move_cells(int64_t from, int64_t to) const {
  ids(page_of(to))[lane_of(to)] = ids(page_of(from))[lane_of(from)];
  for (int column = 0; column < n_columns(); ++column) {
    if (is_stored(column)) {
      stored_cells(column, page_of(to))[lane_of(to)] =
          stored_cells(column, page_of(from))[lane_of(from)];
    }
  }
  mark_stale(to);
}

void Slab::wipe_cells(int64_t slot) const {
  ids(page_of(slot))[lane_of(slot)] = -1;
  for (int column = 0; column < n_columns(); ++column) {
    if (is_stored(column)) stored_cells(column, page_of(slot))[lane_of(slot)] = 0;
  }
  mark_stale(slot);
}

void Slab::wipe_page_cells(int32_t page) const {
  std::fill_n(ids(page), kPageRows, -1);
  for (int column = 0; column < n_columns(); ++column) {
    if (is_stored(column)) std::fill_n(stored_cells(column, page), kPageRows, 0);
  }
}

void Slab::trim() {
  for (const int32_t page : free_) {
    if (n_references_[page] != kUnwiped) continue;
    wipe_page_vectors(page, kPageRows);
    n_references_[page] = 0;
  }
  // Pages above the highest one in use are free: forget them.
  while (n_pages_ > 0 && n_references_[n_pages_ - 1] <= 0) --n_pages_;
  std::erase_if(free_,
                [this](int32_t page) { return page >= n_pages_ || n_references_[page] > 0; });
  while (!chunks_.empty() && chunks_.back().first >= n_pages_) {
    munmap(chunks_.back().memory, chunks_.back().n_bytes);
    capacity_ = chunks_.back().first;
    chunks_.pop_back();
  }
  if (chunks_.empty()) return;

  const Chunk& last = chunks_.back();
  const int64_t n_kept = n_pages_ - last.first;
  const int64_t n_cut = last.n_pages - n_kept;
  const auto cut = [&](void* part, int64_t stride) {
    const int64_t unit = sysconf(_SC_PAGESIZE);
    const intptr_t begin = round_up(reinterpret_cast<intptr_t>(part) + n_kept * stride, unit);
    const intptr_t end =
        (reinterpret_cast<intptr_t>(part) + (n_kept + n_cut) * stride) / unit * unit;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  };
  cut(last.rows, rows_stride_);
  cut(last.blocks, block_stride_);
  cut(last.ids, kPageRows * 8);
  for (int column = 0; column < n_columns(); ++column) {
    cut(last.cells + column * last.n_pages * kPageRows, kPageRows * 8);
  }
}

std::vector<int64_t> Slab::chunk_memory() const {
  std::vector<int64_t> memory;
  for (const Chunk& chunk : chunks_) {
    memory.push_back(reinterpret_cast<intptr_t>(chunk.memory));
    memory.push_back(chunk.n_bytes);
  }
  return memory;
}

std::string Slab::content(int32_t page) const {
  std::string bytes;
  const auto append = [&](const void* part, int64_t n) {
    bytes.append(static_cast<const char*>(part), n);
  };
  append(rows(page), kPageRows * row_bytes_);
  if (dim_ > 0) append(block(page), block_stride_);
  append(ids(page), kPageRows * 8);
  for (int column = 0; column < n_columns(); ++column) {
    for (int lane = 0; lane < kPageRows; ++lane) {
      const int64_t cell =
          ids(page)[lane] < 0 && !is_stored(column) ? 0 : cells(column, page)[lane];
      append(&cell, sizeof(cell));
    }
  }
  return bytes;
}

int64_t Slab::nbytes() const {
  int64_t page_bytes = page_bytes_;
  for (int column = 0; column < n_columns(); ++column) {
    if (!is_stored(column)) page_bytes -= kPageRows * 8;
  }
  return (n_pages_ - n_free_pages()) * page_bytes + stale_.nbytes() +
         static_cast<int64_t>((n_references_.capacity() + free_.capacity()) * sizeof(int32_t) +
                              chunks_.capacity() * sizeof(Chunk) +
                              columns_.size() * sizeof(Column));
}

}  // namespace memcore

#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "banks.h"
#include "slab.h"

namespace memcore {

// What has changed since somebody last asked, so that a mirror of the store elsewhere can follow:
// lanes that were written or wiped, pages that are copies of others, rows that moved, banks with
// another table or length. What is in a lane is looked at when changes are taken, not when they are
// made.
class Journal {
 public:
  // Copies come first, and read what the mirror held before all of these changes.
  struct Changes {
    std::vector<int64_t> copies;   // (n, 2): from which page to which
    std::vector<int64_t> moves;    // (n, 2): from which slot to which, after copies; none is both
    std::vector<int64_t> slots;    // lanes that hold rows, then lanes that are wiped
    int64_t n_rows = 0;            // how many of slots hold rows
    std::vector<int64_t> banks;    // (n, 4): index, generation (0: dropped), rows, begin of table
    std::vector<int64_t> places;   // where entries go in the pool of tables
    std::vector<int64_t> entries;  // pages
    int64_t pool_size = 0;         // how long the pool must be
  };

  // Makes sure that what follows cannot fail for pages and banks below these numbers. Of moves,
  // more than so many are told as writes.
  void reserve(int64_t n_pages, int64_t n_banks, int64_t n_moves = 0);

  void write(int32_t page, int begin_lane, int end_lane) noexcept;
  void write(int64_t slot) noexcept { write(page_of(slot), lane_of(slot), lane_of(slot) + 1); }
  // The first n_lanes lanes of n_used go to another page; its other lanes are wiped.
  void copy(int32_t from, int32_t to, int n_lanes, int n_used) noexcept;
  // The row of one slot is in another now; what is left behind is told apart.
  void move(int64_t from, int64_t to) noexcept;
  // The bank's length, and its table from a position on.
  void change(int32_t bank, int64_t position = kLengthOnly) noexcept;

  // Gives back what has changed and forgets it; if it throws, it has forgotten nothing.
  Changes take(const Slab& slab, const Banks& banks);

 private:
  static constexpr int64_t kLengthOnly = std::numeric_limits<int64_t>::max();

  struct PageState {
    uint16_t lanes = 0;
    // Lanes that moves read, and that they write.
    uint16_t left = 0;
    uint16_t entered = 0;
    bool is_listed = false;
    bool is_source = false;
    bool is_target = false;
  };
  // Tables lie in one pool, each in a region of a power of two, so that it has room to grow.
  struct BankState {
    int64_t begin = 0;
    int64_t capacity = 0;
    bool is_listed = false;
    int64_t position = kLengthOnly;
  };

  void list(int32_t page) noexcept;
  void place_table(BankState& state, int64_t n_pages);
  void free_table(BankState& state);

  std::vector<PageState> pages_;
  std::vector<int32_t> listed_pages_;
  std::vector<int64_t> copies_;
  std::vector<int64_t> moves_;
  std::vector<BankState> banks_;
  std::vector<int32_t> listed_banks_;
  std::vector<std::vector<int64_t>> free_regions_;  // by the logarithm of their size
  int64_t pool_size_ = 0;
};

}  // namespace memcore

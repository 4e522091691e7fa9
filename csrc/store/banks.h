#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "gaps.h"
#include "idmap.h"
#include "slab.h"

namespace memcore {

// A growable list of page numbers: 16 bytes, with one allocation of just what is needed.
class PageTable {
 public:
  PageTable() = default;
  PageTable(PageTable&& other) noexcept { swap(other); }
  PageTable& operator=(PageTable&& other) noexcept {
    swap(other);
    return *this;
  }
  ~PageTable();

  const int32_t* data() const { return data_; }
  int64_t size() const { return size_; }
  int32_t& operator[](int64_t i) { return data_[i]; }
  int32_t operator[](int64_t i) const { return data_[i]; }

  void reserve(int64_t n);
  void push_back(int32_t page) noexcept { data_[size_++] = page; }  // room was reserved
  void shrink(int64_t n) noexcept { size_ = static_cast<int32_t>(n); }
  PageTable clone() const;
  void swap(PageTable& other) noexcept;
  int64_t nbytes() const { return int64_t{capacity_} * 4; }

 private:
  int32_t* data_ = nullptr;
  int32_t size_ = 0;
  int32_t capacity_ = 0;
};

// Row r of a bank lies in lane r % 16 of page pages[r / 16]; rows are dense, in no particular
// order.
struct BankContents {
  PageTable pages;
  int64_t n_rows = 0;
  // The smallest id past all that the bank ever gave or took; 2^63 once the largest is used.
  uint64_t next_id = 0;
  // Ids below next_id that no row ever had.
  Gaps gaps;
  // A list remembers no ids: a row may leave it and come back. Its owner sees to it that ids
  // differ.
  bool is_list = false;
  // The handle of the bank that this one descends from by forks, or its own: banks of a family
  // share pages.
  int64_t family = 0;
  // Only banks of more than kScanRows rows have a map from id to row.
  std::unique_ptr<IdMap> id_map;

  // The same pages under another table; their references are not counted yet.
  BankContents clone() const;
};

struct Bank : BankContents {
  int32_t generation = 1;
  bool is_alive = false;
  // Scratch of the call in progress; -1 between calls.
  int32_t group = -1;
};

// Up to this many rows, an id is found by looking at all ids of the bank.
inline constexpr int64_t kScanRows = 512;

// The banks behind the handles: handle = generation << 32 | index. A dropped bank's index is used
// again under the next generation, so that its old handle names nothing.
class Banks {
 public:
  // The index of the bank that a handle names, or -1.
  int32_t find(int64_t handle) const {
    const int64_t index = handle & 0xffffffff;
    if (handle < 0 || index >= static_cast<int64_t>(banks_.size())) return -1;
    const Bank& bank = banks_[index];
    return bank.is_alive && bank.generation == handle >> 32 ? static_cast<int32_t>(index) : -1;
  }
  int64_t handle(int32_t index) const { return int64_t{banks_[index].generation} << 32 | index; }

  Bank& operator[](int32_t index) { return banks_[index]; }
  const Bank& operator[](int32_t index) const { return banks_[index]; }

  // Makes sure that the next n takes do not fail.
  void reserve(int64_t n);
  int32_t take() noexcept;                 // an empty bank, its own family
  void give_back(int32_t index) noexcept;  // its pages are released already

  int64_t size() const { return static_cast<int64_t>(banks_.size()); }
  int64_t n_alive() const { return n_alive_; }
  int64_t nbytes() const;

 private:
  std::vector<Bank> banks_;
  std::vector<int32_t> free_;
  int64_t n_alive_ = 0;
};

}  // namespace memcore

#include "banks.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

namespace memcore {

PageTable::~PageTable() { delete[] data_; }

void PageTable::swap(PageTable& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(capacity_, other.capacity_);
}

void PageTable::reserve(int64_t n) {
  if (n <= capacity_) return;
  if (n > std::numeric_limits<int32_t>::max()) throw std::bad_alloc();
  PageTable grown;
  const int64_t capacity = std::min<int64_t>(std::max<int64_t>(n, capacity_ + capacity_ / 2),
                                             std::numeric_limits<int32_t>::max());
  grown.data_ = new int32_t[capacity];
  grown.capacity_ = static_cast<int32_t>(capacity);
  grown.size_ = size_;
  std::copy_n(data_, size_, grown.data_);
  swap(grown);
}

PageTable PageTable::clone() const {
  PageTable copy;
  copy.reserve(size_);
  std::copy_n(data_, size_, copy.data_);
  copy.size_ = size_;
  return copy;
}

BankContents BankContents::clone() const {
  BankContents copy;
  copy.pages = pages.clone();
  copy.n_rows = n_rows;
  copy.next_id = next_id;
  copy.gaps = gaps;
  copy.is_list = is_list;
  copy.family = family;
  if (id_map) copy.id_map = std::make_unique<IdMap>(*id_map);
  return copy;
}

void Banks::reserve(int64_t n) {
  const int64_t n_more = n - static_cast<int64_t>(free_.size());
  if (n_more <= 0) return;
  const int64_t wanted = size() + n_more;
  if (wanted > int64_t{std::numeric_limits<int32_t>::max()}) throw std::bad_alloc();
  if (wanted > static_cast<int64_t>(banks_.capacity()))
    banks_.reserve(std::max(wanted, size() + size() / 2));
  // Every bank may come back at once.
  free_.reserve(banks_.capacity());
}

int32_t Banks::take() noexcept {
  int32_t index;
  if (free_.empty()) {
    index = static_cast<int32_t>(banks_.size());
    banks_.emplace_back();
  } else {
    index = free_.back();
    free_.pop_back();
  }
  banks_[index].is_alive = true;
  banks_[index].family = handle(index);
  ++n_alive_;
  return index;
}

void Banks::give_back(int32_t index) noexcept {
  Bank& bank = banks_[index];
  const int32_t generation = bank.generation;
  bank = Bank();
  --n_alive_;
  // An index whose generations are used up is never used again.
  if (generation == std::numeric_limits<int32_t>::max()) return;
  bank.generation = generation + 1;
  free_.push_back(index);
}

int64_t Banks::nbytes() const {
  int64_t n_bytes =
      static_cast<int64_t>(banks_.capacity() * sizeof(Bank) + free_.capacity() * sizeof(int32_t));
  for (const Bank& bank : banks_) {
    n_bytes += bank.pages.nbytes() + bank.gaps.nbytes();
    if (bank.id_map) n_bytes += bank.id_map->nbytes();
  }
  return n_bytes;
}

}  // namespace memcore

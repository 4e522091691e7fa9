#include "journal.h"

#include <algorithm>
#include <bit>

namespace memcore {
namespace {

constexpr int64_t kSmallestTable = 4;

// Room for so many items, with more each time, so that many small steps cost little.
template <typename Item>
void make_room(std::vector<Item>& items, int64_t n) {
  if (n > static_cast<int64_t>(items.capacity()))
    items.reserve(std::max<size_t>(n, 2 * items.capacity()));
}

}  // namespace

void Journal::reserve(int64_t n_pages, int64_t n_banks, int64_t n_moves) {
  // Every page and every bank is listed once at most, and is the copy of one page at most.
  make_room(listed_pages_, n_pages);
  make_room(copies_, 2 * n_pages);
  make_room(listed_banks_, n_banks);
  make_room(moves_, static_cast<int64_t>(moves_.size()) + 2 * n_moves);
  if (static_cast<int64_t>(pages_.size()) < n_pages) pages_.resize(n_pages);
  if (static_cast<int64_t>(banks_.size()) < n_banks) banks_.resize(n_banks);
}

void Journal::list(int32_t page) noexcept {
  if (pages_[page].is_listed) return;
  pages_[page].is_listed = true;
  listed_pages_.push_back(page);
}

void Journal::write(int32_t page, int begin_lane, int end_lane) noexcept {
  if (begin_lane >= end_lane) return;
  list(page);
  pages_[page].lanes |= static_cast<uint16_t>((1u << end_lane) - (1u << begin_lane));
}

void Journal::copy(int32_t from, int32_t to, int n_lanes, int n_used) noexcept {
  write(to, n_lanes, n_used);
  // Where the mirror's page is not what is copied here, or is read by another copy, the lanes are
  // written one by one.
  const PageState& source = pages_[from];
  const PageState& target = pages_[to];
  if (source.lanes != 0 || source.entered != 0 || source.is_target || target.left != 0 ||
      target.entered != 0 || target.is_source || target.is_target)
    return write(to, 0, n_lanes);
  list(from);
  list(to);
  pages_[from].is_source = true;
  pages_[to].is_target = true;
  copies_.push_back(from);
  copies_.push_back(to);
}

void Journal::move(int64_t from, int64_t to) noexcept {
  PageState& source = pages_[page_of(from)];
  PageState& target = pages_[page_of(to)];
  const auto from_lane = static_cast<uint16_t>(1u << lane_of(from));
  const auto to_lane = static_cast<uint16_t>(1u << lane_of(to));
  // All moves of the mirror happen at once: each must find its row where it was, and be the only
  // one that reads or writes its lanes.
  if (((source.lanes | source.entered) & from_lane) != 0 ||
      ((target.lanes | target.left | target.entered) & to_lane) != 0 ||
      moves_.size() + 2 > moves_.capacity())
    return write(to);
  list(page_of(from));
  list(page_of(to));
  source.left |= from_lane;
  target.entered |= to_lane;
  moves_.push_back(from);
  moves_.push_back(to);
}

void Journal::change(int32_t bank, int64_t position) noexcept {
  BankState& state = banks_[bank];
  state.position = std::min(state.position, position);
  if (state.is_listed) return;
  state.is_listed = true;
  listed_banks_.push_back(bank);
}

Journal::Changes Journal::take(const Slab& slab, const Banks& banks) {
  Changes changes;
  std::vector<int64_t> wiped;
  for (const int32_t page : listed_pages_) {
    // The memory of a page that the slab has forgotten is gone.
    const int64_t* ids = page < slab.n_pages() ? slab.ids(page) : nullptr;
    for (uint32_t left = pages_[page].lanes; left != 0; left &= left - 1) {
      const int lane = std::countr_zero(left);
      (ids != nullptr && ids[lane] >= 0 ? changes.slots : wiped).push_back(slot_of(page, lane));
    }
  }
  changes.n_rows = static_cast<int64_t>(changes.slots.size());
  changes.slots.insert(changes.slots.end(), wiped.begin(), wiped.end());
  for (const int32_t index : listed_banks_) {
    const Bank& bank = banks[index];
    BankState& state = banks_[index];
    if (!bank.is_alive) {
      free_table(state);
      changes.banks.insert(changes.banks.end(), {index, 0, 0, 0});
      continue;
    }
    if (bank.pages.size() > state.capacity) {
      state.position = 0;
      place_table(state, bank.pages.size());
    }
    for (int64_t i = state.position; i < bank.pages.size(); ++i) {
      changes.places.push_back(state.begin + i);
      changes.entries.push_back(bank.pages[i]);
    }
    changes.banks.insert(changes.banks.end(), {index, bank.generation, bank.n_rows, state.begin});
  }
  changes.pool_size = pool_size_;
  changes.copies = copies_;
  for (size_t i = 0; i < moves_.size(); i += 2) {
    // What was written since is sent.
    if ((pages_[page_of(moves_[i + 1])].lanes >> lane_of(moves_[i + 1]) & 1) != 0) continue;
    changes.moves.push_back(moves_[i]);
    changes.moves.push_back(moves_[i + 1]);
  }

  for (const int32_t page : listed_pages_) pages_[page] = PageState();
  for (const int32_t index : listed_banks_) {
    banks_[index].is_listed = false;
    banks_[index].position = kLengthOnly;
  }
  listed_pages_.clear();
  copies_.clear();
  moves_.clear();
  listed_banks_.clear();
  return changes;
}

void Journal::place_table(BankState& state, int64_t n_pages) {
  free_table(state);
  const int64_t size = std::max<int64_t>(kSmallestTable, std::bit_ceil<uint64_t>(n_pages));
  const size_t order = std::bit_width<uint64_t>(size) - 1;
  if (free_regions_.size() <= order) free_regions_.resize(order + 1);
  if (free_regions_[order].empty()) {
    state.begin = pool_size_;
    pool_size_ += size;
  } else {
    state.begin = free_regions_[order].back();
    free_regions_[order].pop_back();
  }
  state.capacity = size;
}

void Journal::free_table(BankState& state) {
  if (state.capacity == 0) return;
  free_regions_[std::bit_width<uint64_t>(state.capacity) - 1].push_back(state.begin);
  state.capacity = 0;
}

}  // namespace memcore

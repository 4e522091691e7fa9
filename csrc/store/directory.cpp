#include "directory.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "check.h"
#include "new_ids.h"

namespace memcore {
namespace {

// Loops of a few dozen ns a turn ask this often.
constexpr int64_t kPolledTurns = 4096;

using ReadLock = std::shared_lock<RwLock>;
using WriteLock = std::unique_lock<RwLock>;

// Calls visit(bank, position) for each row of a batch, bank by bank.
template <class Visit>
void each_row(const Batch& batch, Interrupt& interrupt, const Visit& visit) {
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    for (int64_t i = batch.begins[group]; i < batch.begins[group + 1]; ++i) {
      if (i % kPolledTurns == 0) interrupt.poll();
      visit(batch.banks[group], batch.order[i]);
    }
  }
}

void check_distinct(const Batch& batch, const Int64View& handles, const char* op) {
  const int64_t repeated = first_repeated_bank(batch);
  MEMCORE_CHECK(repeated < 0, kInput, op, ": handle ", handles[repeated], " (position ", repeated,
                ") is repeated, should be given once");
}

void check_distinct(const Batch& batch, const Int64View& ids, const char* op,
                    Interrupt& interrupt) {
  const int64_t repeated = first_repeated(batch, ids, interrupt);
  MEMCORE_CHECK(repeated < 0, kInput, op, ": id ", ids[repeated], " (position ", repeated,
                ") is repeated, should be given once for each bank");
}

void check_places(const char* op, const int64_t* places, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    MEMCORE_CHECK(places[i] >= 0 && places[i] <= std::numeric_limits<int32_t>::max(), kInput, op,
                  ": place ", places[i], " (position ", i, ") should be 0 to 2^31 - 1");
  }
}

}  // namespace

void Directory::reserve(int64_t n) {
  banks_.reserve(n);
  const size_t wanted = static_cast<size_t>(banks_.size() + n);
  if (maps_.size() < wanted) maps_.resize(wanted);
}

void Directory::create(int64_t n, int64_t* handles) {
  const WriteLock hold(lock_);
  reserve(n);
  for (int64_t i = 0; i < n; ++i) handles[i] = banks_.handle(banks_.take());
}

void Directory::drop(const Int64View& handles) {
  const WriteLock hold(lock_);
  const Batch batch = group_by_bank(banks_, handles, handles.size, "drop");
  check_distinct(batch, handles, "drop");
  for (const int32_t bank : batch.banks) {
    banks_.give_back(bank);
    const PlaceMap gone = std::move(maps_[bank]);
  }
}

void Directory::alive(const Int64View& handles, bool* out) {
  const ReadLock hold(lock_);
  for (int64_t i = 0; i < handles.size; ++i) out[i] = banks_.find(handles[i]) >= 0;
}

void Directory::add(const Int64View& handles, const Int64View* ids, int64_t n,
                    const int64_t* places, Interrupt& interrupt, int64_t* ids_out) {
  const WriteLock hold(lock_);
  const Batch batch = group_by_bank(banks_, handles, n, "add");
  NewIds chosen;
  chosen.next_ids.resize(batch.n_groups());
  if (ids == nullptr) {
    choose_ids(batch, banks_, ids_out, chosen);
  } else {
    check_ids(batch, banks_, *ids, chosen, interrupt);
    for (int64_t i = 0; i < n; ++i) ids_out[i] = (*ids)[i];
  }
  check_places("add", places, n);

  int64_t n_inserted = 0;
  try {
    each_row(batch, interrupt, [&](int32_t bank, int64_t position) {
      maps_[bank].insert(ids_out[position], places[position]);
      ++n_inserted;
    });
  } catch (...) {
    Interrupt never(nullptr);
    each_row(batch, never, [&](int32_t bank, int64_t position) {
      if (n_inserted-- > 0) maps_[bank].erase(ids_out[position]);
    });
    throw;
  }
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    Bank& bank = banks_[batch.banks[group]];
    bank.n_rows += batch.begins[group + 1] - batch.begins[group];
    bank.next_id = chosen.next_ids[group];
    if (ids != nullptr) bank.gaps = std::move(chosen.gaps[group]);
  }
}

void Directory::update(const Int64View& handles, const Int64View& ids, int64_t n,
                       const int64_t* places, bool skip, Interrupt& interrupt, bool* found) {
  const WriteLock hold(lock_);
  const Batch batch = group_by_bank(banks_, handles, n, "update");
  check_distinct(batch, ids, "update", interrupt);
  const std::vector<int64_t> before = find(batch, ids, skip, "update", interrupt);
  if (places != nullptr) {
    check_places("update", places, n);
    own(batch, ids, before, interrupt);
    Interrupt never(nullptr);
    each_row(batch, never, [&](int32_t bank, int64_t position) {
      if (before[position] >= 0) maps_[bank].set(ids[position], places[position]);
    });
  }
  for (int64_t i = 0; i < n; ++i) found[i] = before[i] >= 0;
}

void Directory::remove(const Int64View& handles, const Int64View& ids, int64_t n, bool skip,
                       Interrupt& interrupt, bool* found) {
  const WriteLock hold(lock_);
  const Batch batch = group_by_bank(banks_, handles, n, "delete");
  check_distinct(batch, ids, "delete", interrupt);
  const std::vector<int64_t> before = find(batch, ids, skip, "delete", interrupt);
  own(batch, ids, before, interrupt);
  Interrupt never(nullptr);
  each_row(batch, never, [&](int32_t bank, int64_t position) {
    if (before[position] < 0) return;
    maps_[bank].erase(ids[position]);
    --banks_[bank].n_rows;
  });
  for (const int32_t bank : batch.banks) maps_[bank].tidy();
  for (int64_t i = 0; i < n; ++i) found[i] = before[i] >= 0;
}

std::vector<int64_t> Directory::find(const Batch& batch, const Int64View& ids, bool skip,
                                     const char* op, Interrupt& interrupt) const {
  std::vector<int64_t> places(batch.order.size());
  each_row(batch, interrupt, [&](int32_t bank, int64_t position) {
    places[position] = maps_[bank].find(ids[position]);
  });
  if (!skip) check_found(places.data(), static_cast<int64_t>(places.size()), ids, op);
  return places;
}

void Directory::own(const Batch& batch, const Int64View& ids, const std::vector<int64_t>& places,
                    Interrupt& interrupt) {
  each_row(batch, interrupt, [&](int32_t bank, int64_t position) {
    if (places[position] >= 0) maps_[bank].own(ids[position]);
  });
}

void Directory::places(const Int64View& handles, const Int64View& ids, int64_t n, const char* op,
                       Interrupt& interrupt, int64_t* out) {
  const ReadLock hold(lock_);
  for (int64_t i = 0; i < n; ++i) {
    if (i % kPolledTurns == 0) interrupt.poll();
    out[i] = maps_[find_bank(banks_, handles, i, op)].find(ids[i]);
  }
}

void Directory::count(const Int64View& handles, int64_t* out) {
  const ReadLock hold(lock_);
  for (int64_t i = 0; i < handles.size; ++i)
    out[i] = banks_[find_bank(banks_, handles, i, "count")].n_rows;
}

std::vector<int64_t> Directory::ids(int64_t handle) {
  const ReadLock hold(lock_);
  return maps_[find_bank(banks_, {&handle, 1, 1}, 0, "ids")].ids();
}

void Directory::fork(const Int64View& handles, int64_t n, int64_t* forks) {
  const WriteLock hold(lock_);
  std::vector<Copy> copies;
  copies.reserve(handles.size * n);
  for (int64_t i = 0; i < handles.size; ++i) {
    const int32_t parent = find_bank(banks_, handles, i, "fork");
    for (int64_t j = 0; j < n; ++j) copies.push_back(copy_of(parent));
  }
  reserve(handles.size * n);
  for (Copy& copy : copies) {
    const int32_t fork = banks_.take();
    *forks++ = banks_.handle(fork);
    static_cast<BankContents&>(banks_[fork]) = std::move(copy.contents);
    maps_[fork] = std::move(copy.places);
  }
}

void Directory::copy_from(const Int64View& handles, const Int64View& sources) {
  const WriteLock hold(lock_);
  const Batch batch = group_by_bank(banks_, handles, handles.size, "rollback");
  check_distinct(batch, handles, "rollback");
  std::vector<Copy> copies;
  copies.reserve(handles.size);
  for (int64_t i = 0; i < handles.size; ++i)
    copies.push_back(copy_of(find_bank(banks_, sources, i, "rollback")));
  for (size_t i = 0; i < copies.size(); ++i) {
    const int32_t bank = batch.banks[i];
    static_cast<BankContents&>(banks_[bank]) = std::move(copies[i].contents);
    maps_[bank] = std::move(copies[i].places);
  }
}

int64_t Directory::nbytes() {
  const ReadLock hold(lock_);
  int64_t n_bytes = banks_.nbytes() + static_cast<int64_t>(maps_.capacity() * sizeof(PlaceMap));
  for (const PlaceMap& map : maps_) n_bytes += map.nbytes();
  return n_bytes;
}

}  // namespace memcore

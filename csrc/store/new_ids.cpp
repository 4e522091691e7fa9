#include "new_ids.h"

#include <algorithm>
#include <utility>

#include "check.h"

namespace memcore {
namespace {

constexpr uint64_t kEndOfIds = uint64_t{1} << 63;

// The first position at which a batch is wrong, whatever order the groups are looked at.
struct FirstBad {
  int64_t position = -1;
  void offer(int64_t at) {
    if (position < 0 || at < position) position = at;
  }
};

}  // namespace

void choose_ids(const Batch& batch, const Banks& banks, int64_t* ids, NewIds& chosen) {
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    uint64_t next_id = banks[batch.banks[group]].next_id;
    const int64_t begin = batch.begins[group];
    const int64_t end = batch.begins[group + 1];
    MEMCORE_CHECK(next_id + static_cast<uint64_t>(end - begin) <= kEndOfIds, kInput,
                  "add: the bank of position ", batch.order[begin], " has ", kEndOfIds - next_id,
                  " ids left, should have ", end - begin);
    for (int64_t i = begin; i < end; ++i) ids[batch.order[i]] = static_cast<int64_t>(next_id++);
    chosen.next_ids[group] = next_id;
  }
}

void check_ids(const Batch& batch, const Banks& banks, const Int64View& ids, NewIds& chosen,
               Interrupt& interrupt) {
  FirstBad negative;
  FirstBad used;
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    const Bank& bank = banks[batch.banks[group]];
    for (int64_t i = batch.begins[group]; i < batch.begins[group + 1]; ++i) {
      const int64_t id = ids[batch.order[i]];
      if (id < 0) {
        negative.offer(batch.order[i]);
      } else if (!bank.is_list && static_cast<uint64_t>(id) < bank.next_id &&
                 !bank.gaps.contains(id)) {
        used.offer(batch.order[i]);
      }
    }
  }
  MEMCORE_CHECK(negative.position < 0, kInput, "add: id ", ids[negative.position], " (position ",
                negative.position, ") is negative, should be at least 0");
  MEMCORE_CHECK(used.position < 0, kInput, "add: id ", ids[used.position], " (position ",
                used.position, ") was used before, should be one that its bank never had");
  const int64_t repeated = first_repeated(batch, ids, interrupt);
  MEMCORE_CHECK(repeated < 0, kInput, "add: id ", ids[repeated], " (position ", repeated,
                ") is repeated, should be given once for each bank");

  chosen.gaps.resize(batch.n_groups());
  std::vector<int64_t> sorted;
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    const Bank& bank = banks[batch.banks[group]];
    if (bank.is_list) continue;
    sorted.clear();
    for (int64_t i = batch.begins[group]; i < batch.begins[group + 1]; ++i)
      sorted.push_back(ids[batch.order[i]]);
    std::sort(sorted.begin(), sorted.end());
    chosen.gaps[group] =
        bank.gaps.after(sorted, static_cast<int64_t>(std::min(bank.next_id, kEndOfIds - 1)));
    chosen.next_ids[group] = std::max(bank.next_id, static_cast<uint64_t>(sorted.back()) + 1);
  }
}

}  // namespace memcore

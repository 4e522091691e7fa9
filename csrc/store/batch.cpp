#include "batch.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "check.h"

namespace memcore {
namespace {

// Up to this many rows of a bank, all pairs are compared.
constexpr int64_t kComparePairs = 16;

}  // namespace

int32_t find_bank(const Banks& banks, const Int64View& handles, int64_t position, const char* op) {
  const int32_t bank = banks.find(handles[position]);
  MEMCORE_CHECK(bank >= 0, kNotFound, op, ": handle ", handles[position], " (position ", position,
                ") names no bank, should be one that is not dropped");
  return bank;
}

Batch group_by_bank(Banks& banks, const Int64View& handles, int64_t n, const char* op) {
  Batch batch;
  if (n == 0) {
    batch.begins = {0};
    return batch;
  }
  batch.order.resize(n);
  if (handles.stride == 0 || handles.size == 1) {
    batch.banks = {find_bank(banks, handles, 0, op)};
    batch.begins = {0, n};
    std::iota(batch.order.begin(), batch.order.end(), 0);
    return batch;
  }

  // Number the groups. Nothing in the loop throws, so that the scratch in the banks is always put
  // back.
  batch.banks.reserve(n);
  batch.begins.reserve(n + 1);
  std::vector<int32_t> groups(n);
  int64_t bad = -1;
  for (int64_t i = 0; i < n && bad < 0; ++i) {
    const int32_t index = banks.find(handles[i]);
    if (index < 0) {
      bad = i;
      break;
    }
    int32_t& group = banks[index].group;
    if (group < 0) {
      group = static_cast<int32_t>(batch.banks.size());
      batch.banks.push_back(index);
      batch.begins.push_back(0);
    }
    groups[i] = group;
    ++batch.begins[group];
  }
  for (const int32_t index : batch.banks) banks[index].group = -1;
  if (bad >= 0) find_bank(banks, handles, bad, op);

  // Sort the positions by group, stably: counts become begins.
  int64_t begin = 0;
  for (int64_t& count : batch.begins) begin += std::exchange(count, begin);
  for (int64_t i = 0; i < n; ++i) batch.order[batch.begins[groups[i]]++] = i;
  batch.begins.insert(batch.begins.begin(), 0);
  return batch;
}

int64_t first_repeated_bank(const Batch& batch) {
  int64_t first = -1;
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    if (batch.begins[group + 1] - batch.begins[group] < 2) continue;
    const int64_t second = batch.order[batch.begins[group] + 1];
    if (first < 0 || second < first) first = second;
  }
  return first;
}

int64_t first_repeated(const Batch& batch, const Int64View& ids, Interrupt& interrupt) {
  int64_t first = -1;
  const auto offer = [&](int64_t position) {
    if (first < 0 || position < first) first = position;
  };
  std::vector<std::pair<int64_t, int64_t>> sorted;
  for (int64_t group = 0; group < batch.n_groups(); ++group) {
    const int64_t* order = batch.order.data() + batch.begins[group];
    const int64_t n = batch.begins[group + 1] - batch.begins[group];
    if (n <= kComparePairs) {
      for (int64_t i = 1; i < n; ++i) {
        for (int64_t j = 0; j < i; ++j) {
          if (ids[order[i]] == ids[order[j]]) offer(order[i]);
        }
      }
      continue;
    }
    bool ascending = true;
    for (int64_t i = 1; i < n && ascending; ++i) ascending = ids[order[i - 1]] < ids[order[i]];
    if (ascending) continue;
    sorted.clear();
    for (int64_t i = 0; i < n; ++i) sorted.emplace_back(ids[order[i]], order[i]);
    // 2^16 comparisons take a millisecond or two.
    uint16_t n_compared = 0;
    std::sort(sorted.begin(), sorted.end(), [&](const auto& a, const auto& b) {
      if (++n_compared == 0) interrupt.poll();
      return a < b;
    });
    for (int64_t i = 1; i < n; ++i) {
      if (sorted[i - 1].first == sorted[i].first) offer(sorted[i].second);
    }
  }
  return first;
}

void check_found(const int64_t* rows, int64_t n, const Int64View& ids, const char* op) {
  const int64_t* missing = std::find(rows, rows + n, -1);
  if (missing == rows + n) return;
  const int64_t position = missing - rows;
  fail(ErrorKind::kNotFound, op, ": id ", ids[position], " (position ", position,
       ") is not in its bank, should be one of its rows");
}

}  // namespace memcore

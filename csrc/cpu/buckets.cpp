#include "buckets.h"

#include <algorithm>

namespace memcore {
namespace {

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
  value = (value ^ value >> 27) * 0x94d049bb133111eb;
  return value ^ value >> 31;
}

int64_t head_of(const RowLists& lists, int64_t key, uint64_t value) {
  const uint64_t place = mix(value) & static_cast<uint64_t>(lists.n_heads - 1);
  return key * lists.n_heads + static_cast<int64_t>(place);
}

int32_t& next_of(const RowLists& lists, int64_t row, int64_t key) {
  return lists.links[(row * lists.n_keys + key) * 2];
}
int32_t& previous_of(const RowLists& lists, int64_t row, int64_t key) {
  return lists.links[(row * lists.n_keys + key) * 2 + 1];
}
uint64_t key_of(const RowLists& lists, int64_t row, int64_t key) {
  return lists.keys[row * lists.n_keys + key];
}

void unlink(const RowLists& lists, int64_t row, int64_t key) {
  const int32_t next = next_of(lists, row, key), previous = previous_of(lists, row, key);
  if (next >= 0) previous_of(lists, next, key) = previous;
  if (previous >= 0) {
    next_of(lists, previous, key) = next;
  } else {
    lists.heads[head_of(lists, key, key_of(lists, row, key))] = next;
  }
}

void link(const RowLists& lists, int64_t row, int64_t key) {
  int32_t& head = lists.heads[head_of(lists, key, key_of(lists, row, key))];
  next_of(lists, row, key) = head;
  previous_of(lists, row, key) = -1;
  if (head >= 0) previous_of(lists, head, key) = static_cast<int32_t>(row);
  head = static_cast<int32_t>(row);
}

int64_t row_of(const RowLists& lists, int64_t id) {
  const int64_t key = lists.n_keys - 1;
  int64_t row = lists.heads[head_of(lists, key, static_cast<uint64_t>(id))];
  while (row >= 0 && key_of(lists, row, key) != static_cast<uint64_t>(id)) {
    row = next_of(lists, row, key);
  }
  return row;
}

// Queries that a task takes; each has its own counters.
constexpr int64_t kTaskQueries = 64;

// Runs gather(q, shared) for every query, in tasks, and joins what they append.
template <class Gather>
Shared for_queries(int64_t n, Interrupt& interrupt, const Gather& gather) {
  const int64_t n_tasks = (n + kTaskQueries - 1) / kTaskQueries;
  std::vector<Shared> parts(n_tasks);
  parallel_for(n_tasks, [&](int64_t task) {
    auto counters = gather.counters();
    for (int64_t q = task * kTaskQueries; q < std::min(n, (task + 1) * kTaskQueries); ++q) {
      gather(q, counters, parts[task]);
      parts[task].offsets.push_back(static_cast<int64_t>(parts[task].ids.size()));
      interrupt.poll();
    }
  });
  Shared all;
  all.offsets.push_back(0);
  for (const Shared& part : parts) {
    const int64_t before = static_cast<int64_t>(all.ids.size());
    for (const int64_t end : part.offsets) all.offsets.push_back(before + end);
    all.ids.insert(all.ids.end(), part.ids.begin(), part.ids.end());
    all.n_tables.insert(all.n_tables.end(), part.n_tables.begin(), part.n_tables.end());
  }
  return all;
}

struct GatherSlots {
  const Slots& slots;
  const ProbesView& probes;
  int64_t min_hits;

  std::vector<int64_t> counters() const { return {}; }

  void operator()(int64_t q, std::vector<int64_t>& found, Shared& out) const {
    found.clear();
    for (int64_t t = 0; t < probes.n_tables; ++t) {
      const auto begin = static_cast<int64_t>(found.size());
      for (int64_t p = 0; p < probes.n_probes; ++p) {
        const auto bucket =
            static_cast<int64_t>(probes.data[(q * probes.n_tables + t) * probes.n_probes + p]);
        const int64_t* ids = slots.ids + (t * slots.n_buckets + bucket) * slots.n_slots;
        for (int64_t s = 0; s < slots.n_slots; ++s) {
          if (ids[s] >= 0) found.push_back(ids[s]);
        }
      }
      // A table counts once, whatever it holds twice.
      std::sort(found.begin() + begin, found.end());
      found.erase(std::unique(found.begin() + begin, found.end()), found.end());
    }
    std::sort(found.begin(), found.end());
    std::vector<std::pair<int64_t, int64_t>> hits;
    for (size_t i = 0, end; i < found.size(); i = end) {
      for (end = i; end < found.size() && found[end] == found[i]; ++end) {
      }
      const auto n = static_cast<int64_t>(end - i);
      if (n >= min_hits) hits.emplace_back(-n, found[i]);
    }
    std::sort(hits.begin(), hits.end());
    for (const auto& [n, id] : hits) {
      out.ids.push_back(id);
      out.n_tables.push_back(-n);
    }
  }
};

struct GatherRows {
  const std::vector<FilledLists>& banks;
  const int64_t* owners;
  const ProbesView& probes;

  struct Met {
    std::vector<uint8_t> is_met;
    std::vector<int32_t> rows;
  };

  Met counters() const { return {}; }

  void operator()(int64_t q, Met& met, Shared& out) const {
    const RowLists& lists = banks[owners[q]].lists;
    const auto n_rows = static_cast<size_t>(banks[owners[q]].n_rows);
    if (met.is_met.size() < n_rows) met.is_met.resize(n_rows);
    for (int64_t t = 0; t < probes.n_tables; ++t) {
      for (int64_t p = 0; p < probes.n_probes; ++p) {
        const uint64_t code = probes.data[(q * probes.n_tables + t) * probes.n_probes + p];
        for (int32_t row = lists.heads[head_of(lists, t, code)]; row >= 0;
             row = next_of(lists, row, t)) {
          // Another code may have the same hash.
          if (met.is_met[row] || key_of(lists, row, t) != code) continue;
          met.is_met[row] = 1;
          met.rows.push_back(row);
        }
      }
    }
    for (const int32_t row : met.rows) {
      out.ids.push_back(static_cast<int64_t>(key_of(lists, row, lists.n_keys - 1)));
      met.is_met[row] = 0;
    }
    met.rows.clear();
  }
};

}  // namespace

void bucket_add(const Slots& slots, const int64_t* ids, const uint64_t* codes, int64_t n,
                bool is_random, uint64_t seed) {
  parallel_for(slots.n_tables, [&](int64_t t) {
    for (int64_t i = 0; i < n; ++i) {
      const uint64_t bucket = codes[i * slots.n_tables + t];
      const int64_t place = t * slots.n_buckets + static_cast<int64_t>(bucket);
      const int64_t count = slots.counts[place]++;
      int64_t slot = count % slots.n_slots;
      if (is_random && count >= slots.n_slots) {
        const uint64_t draw =
            mix(mix(mix(seed + static_cast<uint64_t>(t)) + bucket) + static_cast<uint64_t>(count));
        slot = static_cast<int64_t>(draw % static_cast<uint64_t>(slots.n_slots));
      }
      slots.ids[place * slots.n_slots + slot] = ids[i];
    }
  });
}

Shared bucket_search(const Slots& slots, const ProbesView& probes, int64_t min_hits,
                     Interrupt& interrupt) {
  return for_queries(probes.n, interrupt, GatherSlots{slots, probes, min_hits});
}

template <class Number>
void sketch_add(Number* sums, int64_t n_buckets, int64_t width, const uint64_t* codes,
                const Number* values, int64_t n, int64_t n_tables) {
  parallel_for(n_tables, [&](int64_t t) {
    for (int64_t i = 0; i < n; ++i) {
      const auto bucket = static_cast<int64_t>(codes[i * n_tables + t]);
      Number* to = sums + (t * n_buckets + bucket) * width;
      for (int64_t j = 0; j < width; ++j) to[j] += values[i * width + j];
    }
  });
}

template void sketch_add(float*, int64_t, int64_t, const uint64_t*, const float*, int64_t, int64_t);
template void sketch_add(double*, int64_t, int64_t, const uint64_t*, const double*, int64_t,
                         int64_t);

void lists_link(const RowLists& lists, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t key = 0; key < lists.n_keys; ++key) link(lists, row, key);
  }
}

int64_t lists_remove(const RowLists& lists, int64_t n_rows, const int64_t* ids, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = row_of(lists, ids[i]);
    if (row < 0) continue;
    --n_rows;
    for (int64_t key = 0; key < lists.n_keys; ++key) unlink(lists, row, key);
    if (row == n_rows) continue;
    for (int64_t key = 0; key < lists.n_keys; ++key) {
      unlink(lists, n_rows, key);
      lists.keys[row * lists.n_keys + key] = key_of(lists, n_rows, key);
      link(lists, row, key);
    }
  }
  return n_rows;
}

Shared lists_find(const std::vector<FilledLists>& banks, const int64_t* owners,
                  const ProbesView& probes, Interrupt& interrupt) {
  return for_queries(probes.n, interrupt, GatherRows{banks, owners, probes});
}

}  // namespace memcore

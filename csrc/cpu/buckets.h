#pragma once

#include <cstdint>
#include <vector>

#include "threads.h"

namespace memcore {

// Ids that share buckets with each query: of query q, ids[offsets[q] … offsets[q + 1] - 1], and the
// number of tables in which each does.
struct Shared {
  std::vector<int64_t> offsets;
  std::vector<int64_t> ids;
  std::vector<int64_t> n_tables;
};

// Codes of queries (n, n_tables, n_probes).
struct ProbesView {
  const uint64_t* data;
  int64_t n;
  int64_t n_tables;
  int64_t n_probes;
};

// ---- buckets with a fixed number of slots: memcore/reference/buckets.py

struct Slots {
  int64_t* ids;     // (n_tables, n_buckets, n_slots), -1 where empty
  int64_t* counts;  // (n_tables, n_buckets): rows ever put there
  int64_t n_tables;
  int64_t n_buckets;
  int64_t n_slots;
};

// Puts row i with ids[i] into bucket codes[i, t] of every table, one row after the other.
void bucket_add(const Slots& slots, const int64_t* ids, const uint64_t* codes, int64_t n,
                bool is_random, uint64_t seed);

// The ids in at least min_hits tables, most tables first, then by id.
Shared bucket_search(const Slots& slots, const ProbesView& probes, int64_t min_hits,
                     Interrupt& interrupt);

// sums (n_tables, n_buckets, width)[t, codes[i, t]] += values (n, width)[i], one row after the
// other.
template <class Number>
void sketch_add(Number* sums, int64_t n_buckets, int64_t width, const uint64_t* codes,
                const Number* values, int64_t n, int64_t n_tables);

// ---- buckets that are lists of rows, of any length

// Rows 0 … n - 1 have a key for each list they are in: the codes of their tables, and last the id.
// Rows with the same hash of a key are chained: heads (n_keys, n_heads) and links (capacity,
// n_keys, 2: next, previous) hold rows, -1 ends.
struct RowLists {
  uint64_t* keys;  // (capacity, n_keys)
  int32_t* links;
  int32_t* heads;
  int64_t n_keys;
  int64_t n_heads;  // a power of two
};

// Chains rows begin … end - 1, whose keys are there already.
void lists_link(const RowLists& lists, int64_t begin, int64_t end);

// Takes out the rows with these ids; the last rows move into their places. Returns how many rows
// are left. An id that is not there changes nothing.
int64_t lists_remove(const RowLists& lists, int64_t n_rows, const int64_t* ids, int64_t n);

struct FilledLists {
  RowLists lists;
  int64_t n_rows;
};

// The ids in the lists of banks[owners[q]] that the probes of query q name, each once; n_tables is
// empty.
Shared lists_find(const std::vector<FilledLists>& banks, const int64_t* owners,
                  const ProbesView& probes, Interrupt& interrupt);

}  // namespace memcore

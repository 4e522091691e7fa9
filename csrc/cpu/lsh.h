#pragma once

#include <cstdint>

#include "search.h"
#include "threads.h"

namespace memcore {

// How a table's planes become a code: one bit each, or the place of the largest of [dots; -dots].
enum class HashKind { kSign, kCrossPolytope };

// Directions (n, dim), contiguous: int8 or float32. packed is what pack_planes made of them, or
// nullptr.
struct PlanesView {
  const uint8_t* data;
  DType dtype;
  int64_t n;
  int64_t dim;
  const uint8_t* packed;
};

// A family of hashes: each table takes the next table_planes() planes.
struct Hashes {
  PlanesView planes;
  HashKind kind;
  int64_t n_bits;

  int64_t table_planes() const {
    return kind == HashKind::kSign ? n_bits : int64_t{1} << (n_bits - 1);
  }
  int64_t n_tables() const { return planes.n / table_planes(); }
};

// Bytes of planes packed for sums by lookup; 0 for a dim that is too large.
int64_t packed_planes_bytes(int64_t n_planes, int64_t dim);

// Packs int8 planes. Returns false, with `packed` undefined, if any component is not +1 or -1.
bool pack_planes(const int8_t* planes, int64_t n_planes, int64_t dim, uint8_t* packed);

// codes (n, n_tables) = those of the vectors: memcore/reference/lsh.py. Throws kInput at the first
// vector that is not finite or whose canonical dot with itself passes 1e36.
void lsh_encode(const KeysView& vectors, const Hashes& hashes, Interrupt& interrupt,
                uint64_t* codes);

// probes (n, n_tables, n_probes) = the likeliest codes of each table, likeliest first.
void lsh_probes(const KeysView& vectors, const Hashes& hashes, int64_t n_probes,
                Interrupt& interrupt, uint64_t* probes);

}  // namespace memcore

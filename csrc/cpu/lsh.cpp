#include "lsh.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "kernels.h"

namespace memcore {
namespace {

// Tables of a block of rows that stay in the first-level cache, beside a group of planes.
constexpr int64_t kBlockTableBytes = 16384;
constexpr int64_t kMaxBlockRows = 64;
constexpr int64_t kBlocksPerTask = 8;
constexpr int64_t kCanonicalRows = 64;

int64_t n_groups(int64_t n_planes) { return (n_planes + kGroupPlanes - 1) / kGroupPlanes; }

// |canonical dot - rounded sum| in units of a row's step, rounded up. A component is rounded by at
// most 0.502 (half a step, and the rounding of the product before it). The canonical sum of terms
// +-x errs by (dim/16 + 5) 2^-24 sum |x|, and sum |x| is at most 32640 steps for each four
// components.
int32_t rounding_bound(int64_t dim) {
  const double n = static_cast<double>(dim);
  return static_cast<int32_t>(std::ceil(n * (0.502 + (n / 16 + 5) * 5e-4))) + 1;
}

// The hashes of a block of rows, one after the other or, with packed planes, all at once.
class Encoder {
 public:
  Encoder(const KeysView& vectors, const Hashes& hashes, int64_t n_rows)
      : vectors_(vectors),
        hashes_(hashes),
        bound_(rounding_bound(vectors.dim)),
        stride_(n_groups(hashes.planes.n) * kGroupPlanes),
        rows_(n_rows) {
    const int64_t item = item_bytes(vectors.dtype);
    is_plain_ = vectors.dtype == DType::kFloat32 &&
                (vectors.column_stride == item || vectors.dim <= 1) &&
                vectors.row_stride % 4 == 0 && reinterpret_cast<uintptr_t>(vectors.data) % 4 == 0;
    if (!is_plain_) widened_.resize(n_rows * vectors.dim);
    item_.resize(item * vectors.dim);
    if (hashes.planes.packed != nullptr) {
      tables_.resize(n_rows * table_bytes(vectors.dim));
      sums_.resize(n_rows * stride_);
    }
    bits_.resize(stride_ / kGroupPlanes + 1);
    dots_.resize(hashes.planes.n);
  }

  // Takes rows begin … end - 1. Returns the first bad one, or -1.
  int64_t load(int64_t begin, int64_t end) {
    n_ = end - begin;
    for (int64_t r = 0; r < n_; ++r) {
      rows_[r] = row(begin + r, r);
      // A row that has tables is good.
      if (!make_tables(r, next(begin + r)) && !is_good(r)) return begin + r;
    }
    return -1;
  }

  void encode(uint64_t* codes) {
    if (hashes_.planes.packed != nullptr) project();
    for (int64_t r = 0; r < n_; ++r) {
      const bool has_sums = has_tables_[r];
      uint64_t* out = codes + r * hashes_.n_tables();
      if (hashes_.kind == HashKind::kSign) {
        has_sums ? bits_of_sums(r) : bits_of_dots(r);
        cut(out);
      } else if (has_sums) {
        places_of_sums(r, out);
      } else {
        places_of_dots(r, out);
      }
    }
  }

  // The canonical dots of row r of the block with all planes.
  const float* dots(int64_t r) {
    const int64_t n_planes = hashes_.planes.n;
    int64_t some[kCanonicalRows];
    for (int64_t begin = 0; begin < n_planes; begin += kCanonicalRows) {
      const int64_t n = std::min(kCanonicalRows, n_planes - begin);
      for (int64_t i = 0; i < n; ++i) some[i] = begin + i;
      canonical(r, some, n, dots_.data() + begin);
    }
    return dots_.data();
  }

  // The codes that dots() gave the signs of.
  void codes_of_dots(uint64_t* out) {
    if (hashes_.kind == HashKind::kSign) {
      bits_of_dots();
      cut(out);
    }
  }

 private:
  const float* row(int64_t i, int64_t r) {
    const uint8_t* from = vectors_.data + i * vectors_.row_stride;
    if (is_plain_) return reinterpret_cast<const float*>(from);
    const int64_t item = item_bytes(vectors_.dtype);
    if (vectors_.column_stride != item) {
      for (int64_t j = 0; j < vectors_.dim; ++j) {
        std::memcpy(item_.data() + j * item, from + j * vectors_.column_stride, item);
      }
      from = item_.data();
    }
    float* out = widened_.data() + r * vectors_.dim;
    kernels().widen(from, vectors_.dtype, vectors_.dim, out);
    return out;
  }

  // The row that takes the place of row i in the block that comes next; any, where there is none.
  const float* next(int64_t i) const {
    const int64_t ahead = i + static_cast<int64_t>(rows_.size());
    return reinterpret_cast<const float*>(
        vectors_.data + (is_plain_ && ahead < vectors_.n_rows ? ahead : i) * vectors_.row_stride);
  }

  bool is_good(int64_t r) const {
    const void* const at = rows_[r];
    float square;
    kernels().square_rows(&at, DType::kFloat32, 1, vectors_.dim, &square);
    // Written so that NaN is bad.
    return square <= 1e36f;
  }

  // `next` is the row at this place of the block that comes next.
  bool make_tables(int64_t r, const float* next) {
    if (hashes_.planes.packed == nullptr) return false;
    uint8_t* tables = tables_.data() + r * table_bytes(vectors_.dim);
    has_tables_[r] = kernels().lsh.make_row_tables(rows_[r], vectors_.dim, next, tables);
    // Sums that nobody reads, of bytes that are there.
    if (!has_tables_[r]) std::memset(tables, 128, table_bytes(vectors_.dim));
    return has_tables_[r];
  }

  void project() {
    const int64_t dim = vectors_.dim;
    for (int64_t g = 0; g < n_groups(hashes_.planes.n); ++g) {
      kernels().lsh.project(tables_.data(), n_, hashes_.planes.packed + g * group_bytes(dim), dim,
                            sums_.data() + g * kGroupPlanes, stride_);
    }
  }

  void canonical(int64_t r, const int64_t* planes, int64_t n, float* dots) const {
    const void* at[kCanonicalRows];
    const int64_t row_bytes = hashes_.planes.dim * item_bytes(hashes_.planes.dtype);
    for (int64_t i = 0; i < n; ++i) at[i] = hashes_.planes.data + planes[i] * row_bytes;
    kernels().dot_rows(rows_[r], at, hashes_.planes.dtype, n, hashes_.planes.dim, dots);
  }

  void bits_of_sums(int64_t r) {
    for (int64_t g = 0; g < n_groups(hashes_.planes.n); ++g) {
      uint64_t positive, doubtful;
      kernels().lsh.signs(sums_.data() + r * stride_ + g * kGroupPlanes, bound_, &positive,
                          &doubtful);
      const int64_t n_left = hashes_.planes.n - g * kGroupPlanes;
      if (n_left < kGroupPlanes) doubtful &= (uint64_t{1} << n_left) - 1;
      if (doubtful != 0) {
        int64_t planes[kGroupPlanes];
        float found[kGroupPlanes];
        int64_t n = 0;
        for (uint64_t left = doubtful; left != 0; left &= left - 1) {
          planes[n++] = g * kGroupPlanes + std::countr_zero(left);
        }
        canonical(r, planes, n, found);
        for (int64_t i = 0; i < n; ++i) {
          if (found[i] >= 0.0f) positive |= uint64_t{1} << (planes[i] % kGroupPlanes);
        }
      }
      bits_[g] = positive;
    }
  }

  void bits_of_dots(int64_t r) {
    dots(r);
    bits_of_dots();
  }

  void bits_of_dots() {
    std::fill(bits_.begin(), bits_.end(), 0);
    for (int64_t p = 0; p < hashes_.planes.n; ++p) {
      bits_[p / kGroupPlanes] |= uint64_t{dots_[p] >= 0.0f} << (p % kGroupPlanes);
    }
  }

  // The bits of all planes, cut into codes of n_bits.
  void cut(uint64_t* out) const {
    const int64_t n_bits = hashes_.n_bits;
    const uint64_t mask = n_bits == 64 ? ~uint64_t{0} : (uint64_t{1} << n_bits) - 1;
    for (int64_t t = 0; t < hashes_.n_tables(); ++t) {
      const int64_t word = t * n_bits / 64, shift = t * n_bits % 64;
      uint64_t code = bits_[word] >> shift;
      // The vector of bits has one word to spare.
      if (shift != 0) code |= bits_[word + 1] << (64 - shift);
      out[t] = code & mask;
    }
  }

  void places_of_dots(int64_t r, uint64_t* out) {
    dots(r);
    const int64_t m = hashes_.table_planes();
    for (int64_t t = 0; t < hashes_.n_tables(); ++t) {
      Place best;
      for (int64_t i = 0; i < m; ++i) best.offer(dots_[t * m + i], i, m);
      out[t] = static_cast<uint64_t>(best.place);
    }
  }

  // Only planes whose rounded sums come within twice the bound of the largest can win.
  void places_of_sums(int64_t r, uint64_t* out) const {
    const int64_t m = hashes_.table_planes();
    for (int64_t t = 0; t < hashes_.n_tables(); ++t) {
      const int32_t* sums = sums_.data() + r * stride_ + t * m;
      int32_t largest = 0;
      for (int64_t i = 0; i < m; ++i) largest = std::max(largest, std::abs(sums[i]));
      const int32_t least = largest - 2 * bound_;
      Place best;
      int64_t n = 0, only = 0;
      for (int64_t i = 0; i < m; ++i) {
        if (std::abs(sums[i]) < least) continue;
        ++n;
        only = i;
      }
      if (n == 1 && largest > bound_) {
        out[t] = static_cast<uint64_t>(sums[only] > 0 ? only : only + m);
        continue;
      }
      for (int64_t i = 0; i < m; ++i) {
        if (std::abs(sums[i]) < least) continue;
        const int64_t plane = t * m + i;
        float dot;
        canonical(r, &plane, 1, &dot);
        best.offer(dot, i, m);
      }
      out[t] = static_cast<uint64_t>(best.place);
    }
  }

  // The place of the largest of [dots; -dots], the smaller where two are equal.
  struct Place {
    float largest = -1.0f;
    int64_t place = 0;
    void offer(float dot, int64_t i, int64_t m) {
      const float size = std::fabs(dot);
      const int64_t at = dot >= 0.0f ? i : i + m;
      if (size > largest || (size == largest && at < place)) {
        largest = size;
        place = at;
      }
    }
  };

  const KeysView& vectors_;
  const Hashes& hashes_;
  const int32_t bound_;
  const int64_t stride_;
  bool is_plain_;
  int64_t n_ = 0;
  std::vector<const float*> rows_;
  std::vector<float> widened_;
  std::vector<uint8_t> item_;
  std::vector<uint8_t> tables_;
  bool has_tables_[kMaxBlockRows] = {};
  std::vector<int32_t> sums_;
  std::vector<uint64_t> bits_;
  std::vector<float> dots_;
};

// A multiple of the rows of a tile.
int64_t block_rows(const KeysView& vectors) {
  return std::clamp<int64_t>(kBlockTableBytes / table_bytes(vectors.dim) / 4 * 4, 4, kMaxBlockRows);
}

// Runs take(encoder, begin, end) for blocks of checked rows.
template <class Take>
void for_blocks(const KeysView& vectors, const Hashes& hashes, Interrupt& interrupt,
                const Take& take) {
  const int64_t n = vectors.n_rows, rows_a_block = block_rows(vectors);
  const int64_t rows_a_task = rows_a_block * kBlocksPerTask;
  const int64_t n_tasks = (n + rows_a_task - 1) / rows_a_task;
  std::vector<int64_t> bad(n_tasks, -1);
  parallel_for(n_tasks, [&](int64_t task) {
    const int64_t task_end = std::min(n, (task + 1) * rows_a_task);
    Encoder encoder(vectors, hashes, rows_a_block);
    for (int64_t begin = task * rows_a_task; begin < task_end; begin += rows_a_block) {
      const int64_t end = std::min(task_end, begin + rows_a_block);
      bad[task] = encoder.load(begin, end);
      if (bad[task] >= 0) return;
      take(encoder, begin, end);
      interrupt.poll();
    }
  });
  for (const int64_t row : bad) {
    MEMCORE_CHECK(row < 0, kInput, "lsh_encode: vectors row ", row,
                  " is not finite or too large, should be finite with a squared norm of at most "
                  "1e36");
  }
}

// The n cheapest sets of ranks, as masks, the empty one first: memcore/reference/lsh.py.
void cheapest_sets(const double* costs, int64_t n_bits, int64_t n, uint64_t* masks) {
  struct Set {
    double cost;
    uint64_t mask;
    bool operator<(const Set& other) const {
      return cost > other.cost || (cost == other.cost && mask > other.mask);
    }
  };
  const auto cost_of = [&](uint64_t mask) {
    double sum = 0.0;
    for (; mask != 0; mask &= mask - 1) sum += costs[std::countr_zero(mask)];
    return sum;
  };
  std::vector<Set> heap = {{costs[0], 1}};
  masks[0] = 0;
  for (int64_t i = 1; i < n; ++i) {
    std::pop_heap(heap.begin(), heap.end());
    const uint64_t mask = heap.back().mask;
    heap.pop_back();
    masks[i] = mask;
    const int last = std::bit_width(mask) - 1;
    if (last + 1 == n_bits) continue;
    for (const uint64_t grown : {mask ^ (uint64_t{3} << last), mask | uint64_t{2} << last}) {
      heap.push_back({cost_of(grown), grown});
      std::push_heap(heap.begin(), heap.end());
    }
  }
}

void sign_probes(const float* dots, uint64_t code, int64_t n_bits, int64_t n_probes,
                 uint64_t* probes) {
  int64_t order[64];
  double costs[64];
  for (int64_t i = 0; i < n_bits; ++i) order[i] = i;
  std::stable_sort(order, order + n_bits,
                   [&](int64_t a, int64_t b) { return std::fabs(dots[a]) < std::fabs(dots[b]); });
  for (int64_t i = 0; i < n_bits; ++i) {
    const double margin = std::fabs(static_cast<double>(dots[order[i]]));
    costs[i] = margin * margin;
  }
  cheapest_sets(costs, n_bits, n_probes, probes);
  for (int64_t p = 0; p < n_probes; ++p) {
    uint64_t flips = 0;
    for (uint64_t left = probes[p]; left != 0; left &= left - 1) {
      flips |= uint64_t{1} << order[std::countr_zero(left)];
    }
    probes[p] = code ^ flips;
  }
}

void place_probes(const float* dots, int64_t m, int64_t n_probes, std::vector<int64_t>& places,
                  uint64_t* probes) {
  places.resize(2 * m);
  for (int64_t i = 0; i < 2 * m; ++i) places[i] = i;
  const auto value = [&](int64_t i) { return i < m ? dots[i] : -dots[i - m]; };
  std::partial_sort(
      places.begin(), places.begin() + n_probes, places.end(),
      [&](int64_t a, int64_t b) { return value(a) > value(b) || (value(a) == value(b) && a < b); });
  for (int64_t p = 0; p < n_probes; ++p) probes[p] = static_cast<uint64_t>(places[p]);
}

}  // namespace

int64_t packed_planes_bytes(int64_t n_planes, int64_t dim) {
  return dim > kMaxLookupDim ? 0 : n_groups(n_planes) * group_bytes(dim);
}

bool pack_planes(const int8_t* planes, int64_t n_planes, int64_t dim, uint8_t* packed) {
  for (int64_t i = 0; i < n_planes * dim; ++i) {
    if (planes[i] != 1 && planes[i] != -1) return false;
  }
  const int64_t n_pairs = quad_pairs(dim);
  for (int64_t p = 0; p < n_groups(n_planes) * kGroupPlanes; ++p) {
    uint8_t* group = packed + p / kGroupPlanes * group_bytes(dim);
    const int64_t lane = p % kGroupPlanes;
    // What is missing, of planes and of components, counts as +1.
    const auto is_negative = [&](int64_t i) {
      return p < n_planes && i < dim && planes[p * dim + i] < 0;
    };
    for (int64_t begin = 0; begin < n_pairs; begin += kChunkPairs) {
      const int64_t end = std::min(n_pairs, begin + kChunkPairs);
      uint8_t* start_at = group + lane * 2;
      group += kStartBytes;
      int32_t sum_of_signs = 0;
      for (int64_t pair = begin; pair < end; ++pair, group += kPairBytes) {
        for (int64_t quad = 0; quad < 2; ++quad) {
          const bool first = is_negative(quad_component(pair, quad, 0));
          int64_t entry = 8 * quad;
          for (int64_t i = 1; i < 4; ++i) {
            entry += int64_t{is_negative(quad_component(pair, quad, i)) != first} << (i - 1);
          }
          group[2 * lane + quad] = static_cast<uint8_t>(entry);
          const int8_t sign = first ? int8_t{-1} : int8_t{1};
          group[2 * kGroupPlanes + 2 * lane + quad] = static_cast<uint8_t>(sign);
          sum_of_signs += sign;
        }
      }
      const int16_t start = static_cast<int16_t>(-128 * sum_of_signs);
      std::memcpy(start_at, &start, sizeof(start));
    }
  }
  return true;
}

void lsh_encode(const KeysView& vectors, const Hashes& hashes, Interrupt& interrupt,
                uint64_t* codes) {
  for_blocks(vectors, hashes, interrupt, [&](Encoder& encoder, int64_t begin, int64_t) {
    encoder.encode(codes + begin * hashes.n_tables());
  });
}

void lsh_probes(const KeysView& vectors, const Hashes& hashes, int64_t n_probes,
                Interrupt& interrupt, uint64_t* probes) {
  const int64_t n_tables = hashes.n_tables(), m = hashes.table_planes();
  // Margins are canonical dots: no tables.
  Hashes dots_only = hashes;
  dots_only.planes.packed = nullptr;
  for_blocks(vectors, dots_only, interrupt, [&](Encoder& encoder, int64_t begin, int64_t end) {
    std::vector<uint64_t> codes(n_tables);
    std::vector<int64_t> places;
    for (int64_t row = begin; row < end; ++row) {
      const float* dots = encoder.dots(row - begin);
      encoder.codes_of_dots(codes.data());
      for (int64_t t = 0; t < n_tables; ++t) {
        uint64_t* out = probes + (row * n_tables + t) * n_probes;
        if (hashes.kind == HashKind::kSign) {
          sign_probes(dots + t * m, codes[t], hashes.n_bits, n_probes, out);
        } else {
          place_probes(dots + t * m, m, n_probes, places, out);
        }
      }
    }
  });
}

}  // namespace memcore

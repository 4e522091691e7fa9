// The inner loops of hashing: sums over planes of +-1 by table lookup.

namespace memcore {
namespace {

// Word i of a row of dim components, zero where it ends.
F32 row_word(const float* row, int64_t dim, int64_t begin) {
  if (begin + 16 <= dim) return load(row + begin);
  return begin < dim ? load_tail<Float32Row>(row + begin, dim - begin) : broadcast(0.0f);
}

bool make_row_tables(const float* row, int64_t dim, const float* next, uint8_t* tables) {
  F32 largest = broadcast(0.0f), total = broadcast(0.0f);
  for (int64_t i = 0; i < dim; i += 64) {
    F32 sum = abs(row_word(row, dim, i));
    for (int w = 1; w < 4; ++w) sum = add(sum, abs(row_word(row, dim, i + 16 * w)));
    for (int w = 0; w < 4; ++w) __builtin_prefetch(next + i + 16 * w);
    largest = max(largest, sum);
    total = add(total, sum);
  }
  const float top = max_lane(largest);
  // Written so that NaN is refused, which the total has where any component is not finite.
  if (!(fold(total) <= kLargestTotal) || top < kSmallest) return false;
  // Rounding adds at most 2 to a quad; what is left of 32639 pays for the roundings of this line.
  const F32 steps = broadcast(32600.0f / top);
  for (int64_t i = 0; i < dim; i += 64) {
    F32 words[4];
    for (int w = 0; w < 4; ++w) words[w] = mul(row_word(row, dim, i + 16 * w), steps);
    make_tables(words, tables + 4 * i);
  }
  return true;
}

// One tile: kRows rows, two registers of planes, the pairs of a chunk, at least one.
template <int kRows>
__attribute__((noinline)) void project_tile(const uint8_t* tables, int64_t row_bytes,
                                            const uint8_t* chunk, int64_t n_pairs, int64_t plane,
                                            int32_t* sums, int64_t stride) {
  const int16_t* start = reinterpret_cast<const int16_t*>(chunk) + plane;
  Sums16 high[kRows][2], low[kRows][2];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    high[r][0] = low[r][0] = load_sums(start);
    high[r][1] = low[r][1] = load_sums(start + kRegisterPlanes);
  }
  const uint8_t* at = chunk + kStartBytes + 2 * plane;
  const uint8_t* const end = at + n_pairs * kPairBytes;
  do {
#pragma GCC unroll 2
    for (int w = 0; w < 2; ++w) {
      const Bytes index = load_bytes(at + 2 * w * kRegisterPlanes);
      const Bytes signs = load_bytes(at + 2 * w * kRegisterPlanes + 2 * kGroupPlanes);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const uint8_t* table = tables + r * row_bytes;
        add_lookups(low[r][w], repeat_table(table), index, signs);
        add_lookups(high[r][w], repeat_table(table + 16), index, signs);
      }
    }
    at += kPairBytes;
    tables += 32;
  } while (at != end);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    store_sums(sums + r * stride, high[r][0], low[r][0]);
    store_sums(sums + r * stride + kRegisterPlanes, high[r][1], low[r][1]);
  }
}

// The sums of one chunk: two registers of planes at a time.
void project_chunk(const uint8_t* tables, int64_t row_bytes, int64_t n_rows, const uint8_t* chunk,
                   int64_t n_pairs, int32_t* sums, int64_t stride) {
  for (int64_t plane = 0; plane < kGroupPlanes; plane += 2 * kRegisterPlanes) {
    int64_t r = 0;
    for (; r + kProjectRows <= n_rows; r += kProjectRows) {
      project_tile<kProjectRows>(tables + r * row_bytes, row_bytes, chunk, n_pairs, plane,
                                 sums + r * stride + plane, stride);
    }
    for (; r < n_rows; ++r) {
      project_tile<1>(tables + r * row_bytes, row_bytes, chunk, n_pairs, plane,
                      sums + r * stride + plane, stride);
    }
  }
}

void project(const uint8_t* tables, int64_t n_rows, const uint8_t* group, int64_t dim,
             int32_t* sums, int64_t stride) {
  const int64_t n_pairs = quad_pairs(dim), row_bytes = table_bytes(dim);
  const int64_t first = n_pairs < kChunkPairs ? n_pairs : kChunkPairs;
  project_chunk(tables, row_bytes, n_rows, group, first, sums, stride);
  for (int64_t begin = first; begin < n_pairs; begin += kChunkPairs) {
    group += kStartBytes + kChunkPairs * kPairBytes;
    const int64_t left = n_pairs - begin < kChunkPairs ? n_pairs - begin : kChunkPairs;
    for (int64_t r = 0; r < n_rows; ++r) {
      int32_t more[kGroupPlanes];
      project_chunk(tables + r * row_bytes + 32 * begin, row_bytes, 1, group, left, more,
                    kGroupPlanes);
      for (int p = 0; p < kGroupPlanes; ++p) sums[r * stride + p] += more[p];
    }
  }
}

void signs(const int32_t* sums, int32_t bound, uint64_t* positive, uint64_t* doubtful) {
  // Rounding to float32 keeps the order, and the bound is exact.
  const F32 above = broadcast(static_cast<float>(bound + 1)),
            below = broadcast(static_cast<float>(-bound - 1));
  uint64_t up = 0, down = 0;
  for (int i = 0; i < kGroupPlanes; i += 16) {
    const F32 sum = to_float(load_int(sums + i));
    up |= uint64_t{not_negative(sub(sum, above))} << i;
    down |= uint64_t{not_negative(sub(below, sum))} << i;
  }
  *positive = up;
  *doubtful = ~(up | down);
}

constexpr LshKernels kLshKernels = {make_row_tables, project, signs};

}  // namespace
}  // namespace memcore

// The int8 copies that the first pass reads: of rows, in blocks, and of queries.

#include "kernels.h"

namespace memcore {
namespace {

// The smallest float32 >= value, for value >= 0.
float round_up(double value) {
  float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) < value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &nearest, 4);
    ++bits;
    __builtin_memcpy(&nearest, &bits, 4);
  }
  return nearest;
}

// Below 2^-60 the products of the bounds could underflow.
constexpr float kSmallest = 0x1p-60f;

// The canonical dot of each row with itself, and its largest component. Where rows lie scattered, a
// line of each of `later` is asked for at every turn: asked for at once, they would come at half
// the speed.
template <class Row, int kRows, bool kFetch>
void survey_rows(const void* const* rows, int64_t dim, const void* const* later, float* squares,
                 float* tops) {
  using Item = typename Row::Item;
  F32 sum[kRows], top[kRows];
  for (int r = 0; r < kRows; ++r) sum[r] = top[r] = broadcast(0.0f);
  int64_t i = 0;
  for (; i + 16 <= dim; i += 16) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F32 x = Row::load16(static_cast<const Item*>(rows[r]) + i);
      if constexpr (kFetch) __builtin_prefetch(static_cast<const Item*>(later[r]) + i);
      sum[r] = add(sum[r], mul(x, x));
      top[r] = max(top[r], abs(x));
    }
  }
  for (int r = 0; r < kRows; ++r) {
    if (i < dim) {
      const F32 x = load_tail<Row>(static_cast<const Item*>(rows[r]) + i, dim - i);
      sum[r] = add(sum[r], mul(x, x));
      top[r] = max(top[r], abs(x));
    }
    squares[r] = fold(sum[r]);
    tops[r] = max_lane(top[r]);
  }
}

// The codes of 16 components, and the squares of what they leave out.
I32 quantize16(const F32& x, float inverse, float step, F32& residual) {
  const I32 codes = to_int(mul(x, broadcast(inverse)));
  const F32 left = sub(x, mul(to_float(codes), broadcast(step)));
  residual = add(residual, mul(left, left));
  return codes;
}

// n_bytes of each of the first groups: where whole words would overwrite what lies beside them.
void store_some(const Codes& first, const Codes& second, int64_t n_groups, uint64_t n_bytes,
                uint8_t* to) {
  uint8_t lines[4 * 64];
  store_codes(first, second, lines);
  for (int64_t g = 0; g < n_groups; ++g) __builtin_memcpy(to + 64 * g, lines + 64 * g, n_bytes);
}

// Writes the codes of one row, or of two side by side, from `to` on. residuals: the sums of squares
// of what they leave out.
template <class Row, int kRows>
void quantize_rows(const void* const* rows, int64_t dim, const float* inverses, const float* steps,
                   uint8_t* to, float* residuals) {
  using Item = typename Row::Item;
  const Item* row[kRows];
  F32 residual[kRows];
  for (int r = 0; r < kRows; ++r) {
    row[r] = static_cast<const Item*>(rows[r]);
    residual[r] = broadcast(0.0f);
  }
  // Rows mostly lie side by side: those that come next are fetched meanwhile.
  const int64_t row_bytes = dim * static_cast<int64_t>(sizeof(Item));
  [[maybe_unused]] const int64_t ahead = 4 * row_bytes > 4096 ? 4 * row_bytes : 4096;
  Codes codes[kRows];
  int64_t i = 0;
  for (; i + 16 <= dim; i += 16) {
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r)
      codes[r] =
          pack_codes(quantize16(Row::load16(row[r] + i), inverses[r], steps[r], residual[r]));
    if constexpr (kRows == 2) {
      __builtin_prefetch(reinterpret_cast<const char*>(row[0] + i) + ahead);
      __builtin_prefetch(reinterpret_cast<const char*>(row[1] + i) + ahead);
      store_codes(codes[0], codes[1], to + 16 * i);
    } else {
      store_some(codes[0], codes[0], 4, 4, to + 16 * i);
    }
  }
  if (i < dim) {
    for (int r = 0; r < kRows; ++r)
      codes[r] = pack_codes(
          quantize16(load_tail<Row>(row[r] + i, dim - i), inverses[r], steps[r], residual[r]));
    store_some(codes[0], codes[kRows - 1], quads(dim - i), 4 * kRows, to + 16 * i);
  }
  for (int r = 0; r < kRows; ++r) residuals[r] = fold(residual[r]);
}

// Runs run(lane, count) over those of four lanes that have a row: pairs where both do.
template <class Run>
void each_pair(const void* const* rows, int first, Run&& run) {
  for (int lane = first; lane < first + 4; lane += 2) {
    if (rows[lane] != nullptr && rows[lane + 1] != nullptr) {
      run(lane, Count<2>{});
    } else if (rows[lane] != nullptr || rows[lane + 1] != nullptr) {
      run(rows[lane] != nullptr ? lane : lane + 1, Count<1>{});
    }
  }
}

template <class Row, bool kFetch>
void shadow_block(const void* const* rows, int64_t dim, uint8_t* block, const void* const* later) {
  float squares[kBlockRows] = {}, tops[kBlockRows] = {}, residuals[kBlockRows] = {};
  float scales[kBlockRows], inverses[kBlockRows];
  // Four rows at a time are still near when they are read again, and enough to hide the divisions.
  for (int first = 0; first < kBlockRows; first += 4) {
    each_pair(rows, first, [&](int lane, auto count) {
      constexpr int kRows = decltype(count)::value;
      survey_rows<Row, kRows, kFetch>(rows + lane, dim, later, squares + lane, tops + lane);
      if constexpr (kFetch) later += kRows;
    });
    for (int lane = first; lane < first + 4; ++lane) {
      scales[lane] = tops[lane] / 127.0f;
      inverses[lane] = 127.0f / tops[lane];
    }
    each_pair(rows, first, [&](int lane, auto count) {
      quantize_rows<Row, decltype(count)::value>(rows + lane, dim, inverses + lane, scales + lane,
                                                 block + 4 * lane, residuals + lane);
    });
  }
  const F32 top = load(tops), square = load(squares), norm = sqrt(square);

  // docs/score.md, "The certificate". The last factor covers the roundings of this sum itself.
  const double n = static_cast<double>(dim);
  const F32 factor = broadcast(round_up(1 + (n / 16 + 8) * 0x1p-24));
  const F32 underflow = broadcast(round_up(__builtin_sqrt(n) * 0x1p-74));
  F32 error = add(mul(sqrt(load(residuals)), factor), mul(norm, broadcast(0x1p-21f)));
  error = mul(add(error, underflow), broadcast(1 + 0x1p-20f));

  // The least float32 above 1e36. NaN counts as beyond it.
  const uint32_t is_large = not_negative(sub(square, broadcast(0x1.812f9ep119f)));
  const uint32_t is_plain = not_negative(sub(top, broadcast(kSmallest))) & ~is_large;
  float* meta = reinterpret_cast<float*>(block + block_codes_bytes(dim));
  float errors[kBlockRows], norms[kBlockRows];
  store(errors, error);
  store(norms, norm);
  for (int lane = 0; lane < kBlockRows; ++lane) {
    if (rows[lane] == nullptr) continue;
    if ((is_plain >> lane & 1) == 0) {
      // Of the rows that the bounds do not reach, only a true zero row keeps a finite error.
      scales[lane] = 0.0f;
      errors[lane] = tops[lane] == 0.0f && squares[lane] == 0.0f ? 0.0f : __builtin_inff();
      if ((is_large >> lane & 1) != 0) norms[lane] = 0.0f;
      for (int64_t quad = 0; quad < quads(dim); ++quad)
        __builtin_memset(block + 64 * quad + 4 * lane, 128, 4);
    }
    meta[lane] = scales[lane];
    meta[kBlockRows + lane] = errors[lane];
    meta[2 * kBlockRows + lane] = norms[lane];
  }
}

void shadow_rows(const void* const* rows, DType dtype, int64_t dim, uint8_t* block,
                 const void* const* later) {
  with_row_type(dtype, [=](auto row) {
    if (later == nullptr) return shadow_block<decltype(row), false>(rows, dim, block, nullptr);
    shadow_block<decltype(row), true>(rows, dim, block, later);
  });
}

// The largest number of steps in a component: what the sums of the first pass can take.
float widest_code(int64_t dim) {
  const int64_t most = (int64_t{1} << 24) / dim;
  return static_cast<float>(most < 32767 ? most : 32767);
}

F32 sum_of_four(const F32& x) {
  const F32 pairs = add(x, swap_pairs(x));
  return add(pairs, swap_fours(pairs));
}

template <class Code>
bool quantize_as(const float* query, int64_t dim, float norm, Code* codes, float* scale,
                 float* error, int32_t* sum) {
  constexpr bool kIsWide = sizeof(Code) == 2;
  const auto word = [=](int64_t i) {
    return i + 16 <= dim ? load(query + i) : load_tail<Float32Row>(query + i, dim - i);
  };
  F32 largest = broadcast(0.0f), reach = broadcast(0.0f);
  for (int64_t i = 0; i < dim; i += 16) {
    const F32 x = word(i);
    largest = max(largest, abs(x));
    // Products of components 0 1 4 5 of eight, and of 2 3 6 7, are added in 16 bits: what has one
    // sign there counts together.
    if constexpr (kAddsPairs && !kIsWide) {
      const F32 zero = broadcast(0.0f);
      reach = max(reach, max(sum_of_four(max(x, zero)), sum_of_four(max(sub(zero, x), zero))));
    }
  }
  if (max_lane(largest) < kSmallest) return false;
  const float limit = kIsWide ? widest_code(dim) : 127.0f;
  // Four codes, each rounded by half a step at most, must stay within 128 together: 255 * 128 fits.
  const float steps =
      max_lane(max(mul(largest, broadcast(1.0f / limit)), mul(reach, broadcast(1.0f / 126.0f))));
  const float inverse = 1.0f / steps;
  *scale = steps;
  F32 residual = broadcast(0.0f), total = broadcast(0.0f);
  for (int64_t i = 0; i < dim; i += 16) {
    const I32 rounded = quantize16(word(i), inverse, *scale, residual);
    store_codes(rounded, codes + i);
    // Exact: the sum stays below 2^24.
    total = add(total, to_float(rounded));
  }
  // As for rows.
  const double n = static_cast<double>(dim);
  *error =
      round_up(__builtin_sqrt(static_cast<double>(fold(residual))) * (1 + (n / 16 + 8) * 0x1p-24) +
               0x1p-21 * static_cast<double>(norm) + __builtin_sqrt(n) * 0x1p-74);
  *sum = static_cast<int32_t>(fold(total));
  return true;
}

bool quantize_query(const float* query, int64_t dim, float norm, bool is_wide, void* codes,
                    float* scale, float* error, int32_t* sum) {
  if (is_wide) {
    return quantize_as(query, dim, norm, static_cast<int16_t*>(codes), scale, error, sum);
  }
  return quantize_as(query, dim, norm, static_cast<int8_t*>(codes), scale, error, sum);
}

}  // namespace
}  // namespace memcore

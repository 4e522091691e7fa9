#include "codebook.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace memcore {

void codebook_sums(const KeysView& rows, const int64_t* codes, int64_t n_codes,
                   Interrupt& interrupt, int64_t* counts, float* sums) {
  // A counting sort, stable: each code has one owner, who adds its rows in their order.
  std::vector<int64_t> ends(n_codes, 0);
  for (int64_t i = 0; i < rows.n_rows; ++i) ++ends[codes[i]];
  std::copy(ends.begin(), ends.end(), counts);
  for (int64_t c = 1; c < n_codes; ++c) ends[c] += ends[c - 1];
  std::vector<const void*> sorted(rows.n_rows);
  for (int64_t i = rows.n_rows - 1; i >= 0; --i) {
    sorted[--ends[codes[i]]] = rows.data + i * rows.row_stride;
  }
  const std::vector<int64_t>& begins = ends;
  const int64_t largest = n_codes == 0 ? 0 : *std::max_element(counts, counts + n_codes);
  const std::vector<float> ones(largest, 1.0f);
  constexpr int64_t kTaskCodes = 16;
  parallel_for((n_codes + kTaskCodes - 1) / kTaskCodes, [&](int64_t task) {
    for (int64_t c = task * kTaskCodes; c < std::min(n_codes, (task + 1) * kTaskCodes); ++c) {
      // The weights are 1, so that each step is the addition of a row.
      kernels().attend.weighted_sum(sorted.data() + begins[c], rows.dtype, ones.data(), counts[c],
                                    rows.dim, sums + c * rows.dim);
    }
    interrupt.poll();
  });
}

void codebook_ema(const float* batch_sums, const float* sums, float decay, float rest,
                  const float* divisors, int64_t n_codes, int64_t dim, float* running,
                  float* codewords) {
  constexpr int64_t kTaskCodes = 64;
  parallel_for((n_codes + kTaskCodes - 1) / kTaskCodes, [&](int64_t task) {
    for (int64_t c = task * kTaskCodes; c < std::min(n_codes, (task + 1) * kTaskCodes); ++c) {
      const float* batch = batch_sums + c * dim;
      const float* before = sums + c * dim;
      float* after = running + c * dim;
      float* mean = codewords + c * dim;
      for (int64_t i = 0; i < dim; ++i) {
        const float sum = decay * before[i] + rest * batch[i];
        after[i] = sum;
        mean[i] = sum / divisors[c];
      }
    }
  });
}

void decode(const int64_t* codes, int64_t n, const CodebookView& book, Interrupt& interrupt,
            float* rows) {
  constexpr int64_t kTaskRows = 512;
  parallel_for((n + kTaskRows - 1) / kTaskRows, [&](int64_t task) {
    for (int64_t i = task * kTaskRows; i < std::min(n, (task + 1) * kTaskRows); ++i) {
      const int64_t* of_row = codes + i * book.n_parts();
      for (int64_t p = 0; p < book.n_parts(); ++p) {
        const float* word = book.part(p) + of_row[p] * book.sub_dim;
        float* to = rows + i * book.dim() + p % book.n_subspaces * book.sub_dim;
        if (p < book.n_subspaces) {
          std::memcpy(to, word, book.sub_dim * sizeof(float));
        } else {
          for (int64_t j = 0; j < book.sub_dim; ++j) to[j] += word[j];
        }
      }
    }
    interrupt.poll();
  });
}

void pack_codes(const int64_t* codes, int64_t n, int64_t n_bits, uint8_t* packed) {
  uint64_t open = 0;
  int64_t n_open = 0;
  for (int64_t i = 0; i < n; ++i) {
    open |= static_cast<uint64_t>(codes[i]) << n_open;
    n_open += n_bits;
    for (; n_open >= 8; n_open -= 8, open >>= 8) *packed++ = static_cast<uint8_t>(open);
  }
  if (n_open > 0) *packed = static_cast<uint8_t>(open);
}

void unpack_codes(const uint8_t* packed, int64_t n, int64_t n_bits, int64_t* codes) {
  const uint64_t mask = (uint64_t{1} << n_bits) - 1;
  uint64_t open = 0;
  int64_t n_open = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (; n_open < n_bits; n_open += 8) open |= static_cast<uint64_t>(*packed++) << n_open;
    codes[i] = static_cast<int64_t>(open & mask);
    open >>= n_bits;
    n_open -= n_bits;
  }
}

}  // namespace memcore

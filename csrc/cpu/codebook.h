#pragma once

#include <cstdint>

#include "search.h"

namespace memcore {

// codewords [n_levels][n_subspaces][n_codes][sub_dim], all finite.
struct CodebookView {
  const float* codewords;
  int64_t n_levels;
  int64_t n_subspaces;
  int64_t n_codes;
  int64_t sub_dim;
  int64_t n_parts() const { return n_levels * n_subspaces; }
  int64_t dim() const { return n_subspaces * sub_dim; }
  const float* part(int64_t p) const { return codewords + p * n_codes * sub_dim; }
};

// Codes of rows as they are searched: [n][n_parts], items of 1, 2 or 4 bytes, all below n_codes.
struct CodesView {
  const void* data;
  int64_t item_bytes;
  int64_t n_rows;
};

// counts[c] = how many rows have code c, sums[c] = their sum, in the order of the rows. Codes are
// from 0 to n_codes - 1.
void codebook_sums(const KeysView& rows, const int64_t* codes, int64_t n_codes,
                   Interrupt& interrupt, int64_t* counts, float* sums);

// running = decay * sums + (1 - decay) * batch_sums, codewords = running / divisors; (n_codes,
// dim).
void codebook_ema(const float* batch_sums, const float* sums, float decay, float rest,
                  const float* divisors, int64_t n_codes, int64_t dim, float* running,
                  float* codewords);

// rows [n][dim]: the codewords of the subspaces side by side, levels added. codes [n][n_parts].
void decode(const int64_t* codes, int64_t n, const CodebookView& book, Interrupt& interrupt,
            float* rows);

// A stream of n_bits a code, lowest bit first.
void pack_codes(const int64_t* codes, int64_t n, int64_t n_bits, uint8_t* packed);
void unpack_codes(const uint8_t* packed, int64_t n, int64_t n_bits, int64_t* codes);

// The k best rows by the sum of the canonical scores of their codewords. With squares (n_rows,):
// 2 * dot - square of the row - square of the query.
void search_codes(const Queries& queries, const CodesView& codes, const CodebookView& book,
                  CountsView k, const float* squares, Interrupt& interrupt, int64_t width,
                  float* scores, int64_t* ids);

}  // namespace memcore

#pragma once

#include <cstdint>

#include "batch_rows.h"
#include "threads.h"

namespace memcore {

// Three products over named rows. Each is the derivative of the other two, so that they are all
// that top-k attention and its gradients need. ids are (n_batches, n_queries, n_ids), -1 names no
// row. Real is float, for rows of any DType, or double, where all rows are double.
struct NamedRows {
  int64_t n_batches = 0;
  int64_t n_queries = 0;
  int64_t n_ids = 0;
  const int64_t* ids = nullptr;
};

// scores[b][q][j] = dot(queries[b][q], keys[b][id]), canonical for float; 0 where there is no row.
template <class Real>
void dots(const NamedRows& named, const BatchRows& queries, const BatchRows& keys,
          Interrupt& interrupt, Real* scores);

// out[b][q] = sum over j of weights[b][q][j] * values[b][id], in the order of j, each step rounded.
template <class Real>
void aggregate(const NamedRows& named, const Real* weights, const BatchRows& values,
               Interrupt& interrupt, Real* out);

// sums[b][id] = sum over the pairs (q, j) that name id of weights[b][q][j] * rows[b][q], in the
// order of the pairs. sums (n_batches, n_sums, dim) are zero before; only named rows are written.
template <class Real>
void scatter(const NamedRows& named, const Real* weights, const BatchRows& rows, int64_t n_sums,
             Interrupt& interrupt, Real* sums);

}  // namespace memcore

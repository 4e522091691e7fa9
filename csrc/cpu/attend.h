#pragma once

#include <cstdint>
#include <vector>

#include "batch_rows.h"
#include "threads.h"

namespace memcore {

// Softmax over all keys, a tile at a time: nothing of n_queries x n_keys is ever held.
// The logit of a query and a key is beta * dot(query, key) + bias of the key; a key counts unless
// it is masked, excluded, or its logit is NaN.
struct AttendTask {
  int64_t n_batches = 0;
  BatchRows queries;
  BatchRows keys;
  BatchRows values;                  // data nullptr: the log-sum-exp alone
  const double* beta = nullptr;      // (n_batches,)
  BatchItems bias;                   // Real (n_batches, n_keys); data nullptr: none
  BatchItems mask;                   // bool (n_batches, n_queries, n_keys); data nullptr: none
  const int64_t* exclude = nullptr;  // (n_batches, n_queries): one key, -1 = none; or nullptr
};

// out (n_batches, n_queries, value_dim) and lse (n_batches, n_queries); zeros and -inf over
// nothing. Real is float, for rows of any DType, or double, where all rows are double.
template <class Real>
void attend(const AttendTask& task, Interrupt& interrupt, Real* out, Real* lse);

// What the gradients need beside the task: lse as attend gave it, the gradient of out (read only if
// there are values), and shift (n_batches, n_queries) = dot(out, its gradient) - gradient of lse.
template <class Real>
struct AttendGradients {
  const Real* lse;
  BatchRows out;
  const Real* shift;
  // All zero where a key or a query gets nothing. Any may be nullptr.
  Real* queries;
  Real* keys;
  Real* values;
  Real* bias;    // (n_batches, n_keys)
  double* beta;  // (n_batches,)
};

template <class Real>
void attend_backward(const AttendTask& task, const AttendGradients<Real>& gradients,
                     Interrupt& interrupt);

}  // namespace memcore

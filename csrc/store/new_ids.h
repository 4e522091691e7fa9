#pragma once

#include <cstdint>
#include <vector>

#include "batch.h"

namespace memcore {

// The ids of new rows: the caller's or the next ones. Groups get the gaps that their bank has
// afterwards.
struct NewIds {
  std::vector<Gaps> gaps;          // (n_groups,); empty if the ids are the next ones
  std::vector<uint64_t> next_ids;  // (n_groups,)
};

// Draws the ids (n,) of new rows from each bank's counter.
void choose_ids(const Batch& batch, const Banks& banks, int64_t* ids, NewIds& chosen);

// Throws where a bank may not take the ids that the caller gives.
void check_ids(const Batch& batch, const Banks& banks, const Int64View& ids, NewIds& chosen,
               Interrupt& interrupt);

}  // namespace memcore

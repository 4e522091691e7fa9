#pragma once

#include <cstdint>

#include "search.h"

namespace memcore {

// The nearest codeword of each row: codes (n_rows,), equal distances to the smaller code, and the
// canonical l2 scores (n_rows,). What `search` finds with k = 1, by a first pass that keeps no more
// of a row than its best estimate and what comes near it. A code is -1 where no codeword is finite.
void assign(const KeysView& rows, const KeysView& codewords, Interrupt& interrupt, int64_t* codes,
            float* scores);

}  // namespace memcore

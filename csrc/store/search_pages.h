#pragma once

#include <cstdint>
#include <vector>

#include "bank_rows.h"
#include "search.h"
#include "where.h"

namespace memcore {

struct PageSearchOptions {
  CountsView k;
  ScoreRange range;
  // The condition of query q is programs[where_index[q]]; -1, or no index, means all rows.
  const std::vector<Where>* programs = nullptr;
  const int64_t* where_index = nullptr;
  // (n_queries, n_candidates) ids that a query may find, -1 pads; nullptr: all.
  const int64_t* candidates = nullptr;
  int64_t n_candidates = 0;
  WeightColumns weights;
  FirstPass first_pass = FirstPass::kAuto;
};

// The k best rows of each query's bank. handles: one per query, or a single one for all. Takes the
// lock, shared.
void search_pages(Pages& pages, const Int64View& handles, Queries& queries,
                  const PageSearchOptions& options, Interrupt& interrupt, int64_t width,
                  float* scores, int64_t* ids);

// scores (n_queries, n_ids) = the canonical scores of named rows, -inf where the id is -1.
void score_pages(Pages& pages, const Int64View& handles, const Queries& queries, const int64_t* ids,
                 int64_t n_ids, Interrupt& interrupt, float* scores);

}  // namespace memcore

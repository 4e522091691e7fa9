#pragma once

#include <cstdint>

#include "search_pages.h"

namespace memcore {

// Which lists each query visits: lists (n_lists,) are handles of banks, and row q of probes
// (n_queries, n_probes) names places in it, the likeliest first; -1 pads.
struct ProbesView {
  Int64View lists;
  const int64_t* probes;
  int64_t n_probes;
};

// The k best rows of all lists that a query visits. With options.candidates, probes name the list
// of each candidate instead, and only those rows are looked at. Takes the lock, shared.
void search_lists(Pages& pages, const ProbesView& visits, Queries& queries,
                  const PageSearchOptions& options, Interrupt& interrupt, int64_t width,
                  float* scores, int64_t* ids);

// Where lists are chosen by their centroids: rows of one bank, whose ids are the places of lists.
struct Route {
  Pages& centroids;
  int64_t bank;
  // The lists that a query visits: so many of the likeliest at most, whose centroid's score falls
  // short of the best one's by no more than this (in dot products, times the query's norm).
  int64_t n_probes;
  float gap;
};

// probes (n_queries, route.n_probes) = the places that each query visits, likeliest first; -1 pads.
void choose_lists(const Route& route, Queries& queries, Interrupt& interrupt, int64_t* probes);

}  // namespace memcore

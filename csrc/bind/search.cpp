#include "search.h"

#include <optional>

#include "arguments.h"
#include "float_env.h"
#include "module.h"
#include "plain.h"

namespace py = pybind11;

namespace memcore {
namespace {

using Maybe = std::optional<py::array>;

KeysView keys_view(const char* op, const char* name, const py::array& array) {
  MEMCORE_CHECK(array.ndim() == 2, kShape, op, ": ", name, " has ", array.ndim(),
                " axes, should have 2");
  return {static_cast<const uint8_t*>(array.data()),
          vector_dtype(op, name, array),
          array.shape(0),
          array.shape(1),
          array.strides(0),
          array.strides(1)};
}

MaskView mask_view(const char* op, const Maybe& mask, int64_t n_queries, int64_t n_keys) {
  if (!mask) return {};
  const bool is_shared = mask->ndim() == 1;
  MEMCORE_CHECK(mask->itemsize() == 1 &&
                    (is_shared || (mask->ndim() == 2 && mask->shape(0) == n_queries)) &&
                    mask->shape(mask->ndim() - 1) == n_keys,
                kShape, op, ": mask does not fit, should be bool (n_keys,) or (n_queries, n_keys)");
  return {static_cast<const uint8_t*>(mask->data()), is_shared ? 0 : mask->strides(0),
          mask->strides(mask->ndim() - 1)};
}

const float* weights(const char* op, const char* name, const Maybe& array, int64_t n_keys) {
  return array ? plain<float>(op, name, *array, n_keys) : nullptr;
}

struct Segments {
  Segments() = default;
  Segments(const Maybe& offsets, const Maybe& segments, int64_t n_queries, int64_t n_keys) {
    if (!offsets) return;
    MEMCORE_CHECK(segments && offsets->ndim() == 1 && offsets->size() > 0, kShape,
                  "search_ragged: offsets comes without segments, should come with them");
    const int64_t n_segments = offsets->size() - 1;
    at = plain<int64_t>("search_ragged", "offsets", *offsets, n_segments + 1);
    of_query = plain<int64_t>("search_ragged", "segments", *segments, n_queries);
    MEMCORE_CHECK(at[0] >= 0 && at[n_segments] <= n_keys, kInput,
                  "search_ragged: offsets leaves the keys, should be within 0 to ", n_keys);
    for (int64_t s = 0; s < n_segments; ++s) {
      MEMCORE_CHECK(at[s] <= at[s + 1], kInput, "search_ragged: offsets falls at ", s,
                    ", should not fall");
    }
    for (int64_t q = 0; q < n_queries; ++q) {
      MEMCORE_CHECK(of_query[q] >= 0 && of_query[q] < n_segments, kInput,
                    "search_ragged: segments[", q, "] is ", of_query[q], ", should be 0 to ",
                    n_segments - 1);
    }
  }
  const int64_t* at = nullptr;
  const int64_t* of_query = nullptr;
};

void run_search(const char* op, const KeysView& queries, const KeysView& keys,
                const Segments& parts, const SearchOptions& options, Metric metric, int64_t width,
                float* scores, int64_t* ids) {
  interruptible([&](Interrupt& interrupt) {
    const FloatEnv env;
    Queries prepared(op, queries.data, queries.dtype, queries.n_rows, queries.dim,
                     queries.row_stride, queries.column_stride, metric);
    search(prepared, keys, parts.at, parts.of_query, options, interrupt, width, scores, ids);
  });
}

void bind_search(const py::array& queries, const py::array& keys, const Maybe& offsets,
                 const Maybe& segments, const py::object& k, const std::string& metric,
                 const Maybe& mask, const Maybe& candidates, const Maybe& scale, const Maybe& bias,
                 float min_score, float max_score, std::optional<bool> first_pass,
                 py::array& scores, py::array& ids) {
  const char* op = offsets ? "search_ragged" : "search";
  const KeysView asked = keys_view(op, "queries", queries);
  const KeysView rows = keys_view(op, "keys", keys);
  MEMCORE_CHECK(asked.dim == rows.dim, kShape, op, ": keys has dim ", rows.dim, ", should be ",
                asked.dim);
  MEMCORE_CHECK(scores.ndim() == 2, kShape, op, ": scores has ", scores.ndim(),
                " axes, should have 2");
  const int64_t n_queries = asked.n_rows, width = scores.shape(1);
  float* scores_out = plain_output<float>(op, "scores", scores, n_queries * width);
  int64_t* ids_out = plain_output<int64_t>(op, "ids", ids, n_queries * width);
  const CountsArgument counts(op, k, n_queries, width);
  const Segments parts(offsets, segments, n_queries, rows.n_rows);

  SearchOptions options;
  options.k = counts.view();
  options.range = {min_score, max_score};
  options.mask = mask_view(op, mask, n_queries, rows.n_rows);
  if (candidates) {
    MEMCORE_CHECK(candidates->ndim() == 2, kShape, op, ": candidates has ", candidates->ndim(),
                  " axes, should have 2");
    options.n_candidates = candidates->shape(1);
    options.candidates =
        plain<int64_t>(op, "candidates", *candidates, n_queries * options.n_candidates);
  }
  options.scale = weights(op, "scale", scale, rows.n_rows);
  options.bias = weights(op, "bias", bias, rows.n_rows);
  options.first_pass = !first_pass   ? FirstPass::kAuto
                       : *first_pass ? FirstPass::kOn
                                     : FirstPass::kOff;
  const Metric kind = parse_metric(metric);

  run_search(op, asked, rows, parts, options, kind, width, scores_out, ids_out);
}

// The same for a plain call, or None: see plain.h.
py::object bind_search_plain(py::handle queries, py::handle keys, py::handle k, py::handle metric) {
  const auto asked = plain_vectors(queries), rows = plain_vectors(keys);
  if (!asked || !rows || asked->dim != rows->dim || asked->dim == 0) return py::none();
  if (py::detail::array_proxy(keys.ptr())->nd != 2) return py::none();
  const auto width = plain_k(k, asked->n_rows);
  const auto kind = plain_metric(metric);
  if (!width || !kind) return py::none();
  const PlainHits out(asked->n_rows, *width);
  SearchOptions options;
  options.k = {&*width, 0};
  run_search("search", *asked, *rows, {}, options, *kind, *width, out.scores, out.ids);
  return out.hits;
}

void bind_topk(const py::array& scores, const py::object& k, py::array& best, py::array& ids) {
  MEMCORE_CHECK(scores.ndim() == 2 && scores.itemsize() == 4, kShape,
                "topk: scores should be float32 with 2 axes");
  MEMCORE_CHECK(best.ndim() == 2, kShape, "topk: best has ", best.ndim(), " axes, should have 2");
  const int64_t n_queries = scores.shape(0), width = best.shape(1);
  float* best_out = plain_output<float>("topk", "best", best, n_queries * width);
  int64_t* ids_out = plain_output<int64_t>("topk", "ids", ids, n_queries * width);
  const CountsArgument counts("topk", k, n_queries, width);
  interruptible([&](Interrupt& interrupt) {
    topk(static_cast<const uint8_t*>(scores.data()), n_queries, scores.shape(1), scores.strides(0),
         scores.strides(1), counts.view(), interrupt, width, best_out, ids_out);
  });
}

}  // namespace

void register_search(py::module_& m) {
  m.def("search", &bind_search, py::arg("queries"), py::arg("keys"), py::arg("offsets"),
        py::arg("segments"), py::arg("k"), py::arg("metric"), py::arg("mask"),
        py::arg("candidates"), py::arg("scale"), py::arg("bias"), py::arg("min_score"),
        py::arg("max_score"), py::arg("first_pass"), py::arg("scores"), py::arg("ids"),
        "The k best keys of each query, written to scores and ids (n_queries, width).");
  m.def("search_plain", &bind_search_plain, py::arg("queries"), py::arg("keys"), py::arg("k"),
        py::arg("metric"), "Hits for float32 arrays and an int k; None for all other arguments.");
  m.def("topk", &bind_topk, py::arg("scores"), py::arg("k"), py::arg("best"), py::arg("ids"),
        "The k largest of each row, written to best and ids (n_queries, width).");
}

}  // namespace memcore

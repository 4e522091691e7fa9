#include "search_pages.h"

#include <optional>

#include "arguments.h"
#include "float_env.h"
#include "module.h"
#include "pages_binding.h"
#include "plain.h"
#include "search_lists.h"

namespace py = pybind11;

namespace memcore {
namespace {

using Maybe = std::optional<py::array>;

Int64View handles_view(const char* op, const py::array& handles, int64_t n_queries) {
  MEMCORE_CHECK(handles.size() == 1 || handles.size() == n_queries, kShape, op, ": handles has ",
                handles.size(), " entries, should have 1 or ", n_queries);
  const int64_t* data = plain<int64_t>(op, "handles", handles, handles.size());
  return {data, handles.size(), handles.size() == 1 ? 0 : 1};
}

KeysView queries_view(const char* op, const py::array& queries, const Pages& pages) {
  MEMCORE_CHECK(queries.ndim() == 2, kShape, op, ": queries has ", queries.ndim(),
                " axes, should have 2");
  const int64_t dim = pages.slab().dim();
  MEMCORE_CHECK(dim > 0, kShape, op, ": this store has rows without vectors, should have a dim");
  MEMCORE_CHECK(queries.shape(1) == dim, kShape, op, ": queries has dim ", queries.shape(1),
                ", should be ", dim);
  return {static_cast<const uint8_t*>(queries.data()),
          vector_dtype(op, "queries", queries),
          queries.shape(0),
          dim,
          queries.strides(0),
          queries.strides(1)};
}

Queries prepare(const char* op, const KeysView& queries, Metric metric) {
  const FloatEnv env;
  return Queries(op, queries.data, queries.dtype, queries.n_rows, queries.dim, queries.row_stride,
                 queries.column_stride, metric);
}

std::vector<Where> conditions(const py::object& programs, const Pages& pages) {
  std::vector<Where> out;
  if (programs.is_none()) return out;
  for (const py::handle& item : programs) {
    const auto pair = item.cast<std::pair<py::array, py::array>>();
    const int64_t n_ops = pair.first.size() / 4;
    out.emplace_back(plain<int64_t>("search", "where", pair.first, n_ops * 4), n_ops,
                     plain<int64_t>("search", "where", pair.second, pair.second.size()),
                     pair.second.size(), pages.kinds());
  }
  return out;
}

int weight_column(const char* name, const std::optional<int>& column, const Pages& pages) {
  if (!column) return -1;
  const auto& kinds = pages.kinds();
  MEMCORE_CHECK(*column >= 0 && *column < static_cast<int>(kinds.size()) &&
                    kinds[*column] != ColumnKind::kRef,
                kInput, "search: ", name, " is column ", *column,
                ", should be a column of numbers");
  return *column;
}

void run_search(Pages& pages, const Int64View& handles, const KeysView& queries,
                const PageSearchOptions& options, int64_t width, float* scores, int64_t* ids) {
  interruptible([&](Interrupt& interrupt) {
    Queries prepared = prepare("search", queries, pages.metric());
    search_pages(pages, handles, prepared, options, interrupt, width, scores, ids);
  });
}

// What the searches of banks and of lists share: everything but where they look.
class SearchArguments {
 public:
  SearchArguments(const Pages& pages, const py::array& queries_array, const py::object& k,
                  const py::object& where, const Maybe& where_index, const Maybe& candidates,
                  const std::optional<int>& scale, const std::optional<int>& bias, float min_score,
                  float max_score, std::optional<bool> first_pass, py::array& scores,
                  py::array& ids)
      : queries(queries_view("search", queries_array, pages)),
        width(last_axis(scores)),
        counts_("search", k, queries.n_rows, width),
        programs_(conditions(where, pages)) {
    const int64_t n_queries = queries.n_rows;
    scores_out = plain_output<float>("search", "scores", scores, n_queries * width);
    ids_out = plain_output<int64_t>("search", "ids", ids, n_queries * width);
    options.k = counts_.view();
    options.range = {min_score, max_score};
    if (where_index) {
      options.programs = &programs_;
      options.where_index = plain<int64_t>("search", "where_index", *where_index, n_queries);
      for (int64_t q = 0; q < n_queries; ++q) {
        MEMCORE_CHECK(options.where_index[q] < static_cast<int64_t>(programs_.size()), kInput,
                      "search: where_index[", q, "] is ", options.where_index[q],
                      ", should be below ", programs_.size());
      }
    }
    if (candidates) {
      MEMCORE_CHECK(candidates->ndim() == 2, kShape, "search: candidates has ", candidates->ndim(),
                    " axes, should have 2");
      options.n_candidates = candidates->shape(1);
      options.candidates =
          plain<int64_t>("search", "candidates", *candidates, n_queries * options.n_candidates);
    }
    options.weights = {weight_column("scale", scale, pages), weight_column("bias", bias, pages)};
    options.first_pass = !first_pass   ? FirstPass::kAuto
                         : *first_pass ? FirstPass::kOn
                                       : FirstPass::kOff;
  }

  const KeysView queries;
  const int64_t width;
  float* scores_out;
  int64_t* ids_out;
  PageSearchOptions options;

 private:
  static int64_t last_axis(const py::array& scores) {
    MEMCORE_CHECK(scores.ndim() == 2, kShape, "search: scores has ", scores.ndim(),
                  " axes, should have 2");
    return scores.shape(1);
  }

  const CountsArgument counts_;
  const std::vector<Where> programs_;
};

void bind_search(Pages& pages, const py::array& handles, const py::array& queries,
                 const py::object& k, const py::object& where, const Maybe& where_index,
                 const Maybe& candidates, const std::optional<int>& scale,
                 const std::optional<int>& bias, float min_score, float max_score,
                 std::optional<bool> first_pass, py::array& scores, py::array& ids) {
  const SearchArguments given(pages, queries, k, where, where_index, candidates, scale, bias,
                              min_score, max_score, first_pass, scores, ids);
  const Int64View banks = handles_view("search", handles, given.queries.n_rows);
  run_search(pages, banks, given.queries, given.options, given.width, given.scores_out,
             given.ids_out);
}

// The same for a plain call, or None: see plain.h.
py::object bind_search_plain(Pages& pages, py::handle handles, py::handle queries, py::handle k) {
  const auto asked = plain_vectors(queries);
  if (!asked || asked->dim == 0 || asked->dim != pages.slab().dim()) return py::none();
  if (!is_plain<int64_t>(handles)) return py::none();
  const auto* banks = py::detail::array_proxy(handles.ptr());
  if (banks->nd != 1 || reinterpret_cast<uintptr_t>(banks->data) % alignof(int64_t) != 0)
    return py::none();
  const int64_t n_banks = banks->dimensions[0];
  const bool is_one = n_banks == 1;
  const bool is_each = n_banks == asked->n_rows && banks->strides[0] == sizeof(int64_t);
  const auto width = plain_k(k, asked->n_rows);
  if (!width || !(is_one || is_each)) return py::none();
  const PlainHits out(asked->n_rows, *width);
  PageSearchOptions options;
  options.k = {&*width, 0};
  const auto* named = reinterpret_cast<const int64_t*>(banks->data);
  run_search(pages, {named, n_banks, !is_one}, *asked, options, *width, out.scores, out.ids);
  return out.hits;
}

void bind_search_lists(Pages& pages, const py::array& lists, const py::array& probes,
                       const py::array& queries, const py::object& k, const py::object& where,
                       const Maybe& where_index, const Maybe& candidates,
                       const std::optional<int>& scale, const std::optional<int>& bias,
                       float min_score, float max_score, std::optional<bool> first_pass,
                       py::array& scores, py::array& ids) {
  const SearchArguments given(pages, queries, k, where, where_index, candidates, scale, bias,
                              min_score, max_score, first_pass, scores, ids);
  const int64_t n_queries = given.queries.n_rows;
  MEMCORE_CHECK(probes.ndim() == 2, kShape, "search: probes has ", probes.ndim(),
                " axes, should have 2");
  ProbesView view;
  view.lists = {plain<int64_t>("search", "lists", lists, lists.size()), lists.size(), 1};
  view.n_probes = probes.shape(1);
  view.probes = plain<int64_t>("search", "probes", probes, n_queries * view.n_probes);
  MEMCORE_CHECK(!candidates || given.options.n_candidates == view.n_probes, kShape,
                "search: candidates has ", given.options.n_candidates, " columns, should have ",
                view.n_probes, " as probes has");
  for (int64_t i = 0; i < n_queries * view.n_probes; ++i) {
    MEMCORE_CHECK(view.probes[i] < lists.size(), kInput, "search: probes has ", view.probes[i],
                  ", should be below ", lists.size());
  }
  interruptible([&](Interrupt& interrupt) {
    Queries prepared = prepare("search", given.queries, pages.metric());
    search_lists(pages, view, prepared, given.options, interrupt, given.width, given.scores_out,
                 given.ids_out);
  });
}

// A plain call at a bank whose rows lie in lists, or None.
py::object bind_search_routed(Pages& pages, const py::array& lists, Pages& centroids, int64_t bank,
                              int64_t n_probes, float gap, py::handle queries, py::handle k) {
  const auto asked = plain_vectors(queries);
  if (!asked || asked->dim != pages.slab().dim()) return py::none();
  const auto width = plain_k(k, asked->n_rows);
  if (!width) return py::none();
  const Int64View places{plain<int64_t>("search", "lists", lists, lists.size()), lists.size(), 1};
  const PlainHits out(asked->n_rows, *width);
  PageSearchOptions options;
  options.k = {&*width, 0};
  interruptible([&](Interrupt& interrupt) {
    Queries prepared = prepare("search", *asked, pages.metric());
    std::vector<int64_t> probes(asked->n_rows * n_probes);
    choose_lists({centroids, bank, n_probes, gap}, prepared, interrupt, probes.data());
    for (const int64_t probe : probes) {
      MEMCORE_CHECK(probe < places.size, kInput, "search: a centroid has place ", probe,
                    ", should be below ", places.size);
    }
    search_lists(pages, {places, probes.data(), n_probes}, prepared, options, interrupt, *width,
                 out.scores, out.ids);
  });
  return out.hits;
}

void bind_score(Pages& pages, const py::array& handles, const py::array& queries,
                const py::array& ids, py::array& scores) {
  const KeysView asked = queries_view("score", queries, pages);
  MEMCORE_CHECK(ids.ndim() == 2, kShape, "score: ids has ", ids.ndim(), " axes, should have 2");
  const int64_t n_queries = asked.n_rows, n_ids = ids.shape(1);
  const int64_t* named = plain<int64_t>("score", "ids", ids, n_queries * n_ids);
  float* out = plain_output<float>("score", "scores", scores, n_queries * n_ids);
  const Int64View banks = handles_view("score", handles, n_queries);
  interruptible([&](Interrupt& interrupt) {
    const Queries prepared = prepare("score", asked, pages.metric());
    score_pages(pages, banks, prepared, named, n_ids, interrupt, out);
  });
}

}  // namespace

void bind_pages_search(py::class_<Pages>& cls) {
  cls.def("search", &bind_search, py::arg("handles"), py::arg("queries"), py::arg("k"),
          py::arg("where"), py::arg("where_index"), py::arg("candidates"), py::arg("scale"),
          py::arg("bias"), py::arg("min_score"), py::arg("max_score"), py::arg("first_pass"),
          py::arg("scores"), py::arg("ids"),
          "The k best rows of each query's bank, written to scores and ids (n_queries, width).");
  cls.def("search_plain", &bind_search_plain, py::arg("handles"), py::arg("queries"), py::arg("k"),
          "Hits for float32 queries and an int k; None for all other arguments.");
  cls.def(
      "search_lists", &bind_search_lists, py::arg("lists"), py::arg("probes"), py::arg("queries"),
      py::arg("k"), py::arg("where"), py::arg("where_index"), py::arg("candidates"),
      py::arg("scale"), py::arg("bias"), py::arg("min_score"), py::arg("max_score"),
      py::arg("first_pass"), py::arg("scores"), py::arg("ids"),
      "The k best rows of the lists (handles of banks) that each query's row of probes names by "
      "place, likeliest first; with candidates, of those rows, whose lists probes names.");
  cls.def("search_routed", &bind_search_routed, py::arg("lists"), py::arg("centroids"),
          py::arg("bank"), py::arg("n_probes"), py::arg("gap"), py::arg("queries"), py::arg("k"),
          "Hits in the lists of the likeliest centroids, at most n_probes of them, for float32 "
          "queries and an int k; None for all other arguments.");
  cls.def("score", &bind_score, py::arg("handles"), py::arg("queries"), py::arg("ids"),
          py::arg("scores"),
          "The canonical scores of named rows, written to scores; -inf where an id is -1.");
}

}  // namespace memcore

#include "attend.h"

#include "attend_tiles.h"

namespace memcore {
namespace {

constexpr int64_t kFewestPartKeys = 4096;
constexpr int64_t kMostTasks = 16;
constexpr int64_t kMostShared = 32;

// Running softmax of some queries over the keys seen so far: out / sum is the read.
template <class Real>
struct Running {
  std::vector<Real> largest;
  std::vector<double> sum;
  std::vector<Real> out;

  void reset(int64_t n_rows, int64_t n_columns) {
    largest.assign(n_rows, -std::numeric_limits<Real>::infinity());
    sum.assign(n_rows, 0.0);
    out.assign(n_rows * n_columns, Real{0});
  }

  // Makes `next` the largest of row r; what is there shrinks accordingly.
  void raise(int64_t r, Real next, int64_t n_columns) {
    if (!(next > largest[r])) return;
    const double factor = std::exp(static_cast<double>(largest[r]) - static_cast<double>(next));
    largest[r] = next;
    sum[r] *= factor;
    for (int64_t c = r * n_columns; c < (r + 1) * n_columns; ++c)
      out[c] *= static_cast<Real>(factor);
  }

  void merge(const Running& other, int64_t n_columns) {
    for (int64_t r = 0; r < static_cast<int64_t>(sum.size()); ++r) {
      if (other.sum[r] == 0) continue;
      raise(r, other.largest[r], n_columns);
      const double factor =
          std::exp(static_cast<double>(other.largest[r]) - static_cast<double>(largest[r]));
      sum[r] += factor * other.sum[r];
      for (int64_t c = r * n_columns; c < (r + 1) * n_columns; ++c)
        out[c] += static_cast<Real>(factor) * other.out[c];
    }
  }
};

// Queries first … first + n - 1 of a batch over keys begin … end - 1. Each tile of keys is put into
// panels once for all of them.
template <class Real>
void stream(const AttendTask& task, int64_t batch, int64_t first, int64_t n, int64_t begin,
            int64_t end, Interrupt& interrupt, Running<Real>& running) {
  const bool has_values = task.values.data != nullptr;
  const int64_t n_columns = has_values ? round16(task.values.dim) : 0;
  LeftRows<Real> queries;
  queries.read(task.queries, batch, first, n);
  Panels<Real> keys, values;
  std::vector<Real> tile, bias;
  running.reset(n, n_columns);
  for (int64_t at = begin; at < end; at += kTileColumns) {
    const int64_t n_keys = std::min(kTileColumns, end - at);
    keys.read_transposed(task.keys, batch, at, n_keys);
    if (has_values) values.read(task.values, batch, at, n_keys);
    const Real* key_bias = read_bias(task, batch, at, n_keys, bias);
    const int64_t width = keys.n_columns();
    for (int64_t top = 0; top < n; top += kTileRows) {
      const int64_t n_rows = std::min(kTileRows, n - top);
      tile.resize(n_rows * width);
      keys.multiply(queries.data() + top * queries.dim(), queries.dim(), n_rows, tile.data(),
                    false);
      for (int64_t r = 0; r < n_rows; ++r) {
        Real* row = tile.data() + r * width;
        leave_out(task, batch, first + top + r, at, n_keys, row, 1);
        std::fill(row + n_keys, row + width, std::numeric_limits<Real>::quiet_NaN());
        running.raise(top + r, logits(row, width, task.beta[batch], key_bias), n_columns);
        const Real largest = running.largest[top + r];
        if (largest == -std::numeric_limits<Real>::infinity()) {
          std::fill(row, row + width, Real{0});
        } else {
          running.sum[top + r] += static_cast<double>(exponentials(row, width, largest));
        }
      }
      if (has_values) {
        values.add_weighted(tile.data(), width, n_rows, running.out.data() + top * n_columns);
      }
      interrupt.poll();
    }
  }
}

}  // namespace

template <class Real>
void attend(const AttendTask& task, Interrupt& interrupt, Real* out, Real* lse) {
  const int64_t n_queries = task.queries.n_rows, n_keys = task.keys.n_rows;
  const int64_t dim = task.values.data == nullptr ? 0 : task.values.dim;
  const int64_t n_columns = round16(dim);
  if (task.n_batches * n_queries == 0) return;
  // Several tiles of queries share the panels of keys, if that leaves every thread enough to do.
  const int64_t n_small = (n_queries + kTileRows - 1) / kTileRows;
  const int64_t n_shared =
      std::clamp<int64_t>(task.n_batches * n_small / (2 * n_threads()), 1, kMostShared);
  const int64_t tile_rows = std::min(n_queries, n_shared * kTileRows);
  const int64_t n_tiles = (n_queries + tile_rows - 1) / tile_rows;
  // Few queries share the keys out. The shapes alone decide, so that threads change no bit.
  const int64_t n_parts = std::clamp<int64_t>(kMostTasks / (task.n_batches * n_small), 1,
                                              std::max<int64_t>(1, n_keys / kFewestPartKeys));
  const int64_t part_keys =
      ((n_keys + n_parts - 1) / n_parts + kTileColumns - 1) / kTileColumns * kTileColumns;
  std::vector<Running<Real>> parts(n_parts == 1 ? 0 : task.n_batches * n_tiles * n_parts);
  const auto write = [&](int64_t batch, int64_t first, const Running<Real>& all) {
    for (int64_t r = 0; r < static_cast<int64_t>(all.sum.size()); ++r) {
      const int64_t q = batch * n_queries + first + r;
      const bool is_empty = all.largest[r] == -std::numeric_limits<Real>::infinity();
      lse[q] = is_empty
                   ? all.largest[r]
                   : static_cast<Real>(static_cast<double>(all.largest[r]) + std::log(all.sum[r]));
      for (int64_t c = 0; c < dim; ++c) {
        out[q * dim + c] =
            is_empty ? Real{0} : static_cast<Real>(all.out[r * n_columns + c] / all.sum[r]);
      }
    }
  };
  parallel_for(task.n_batches * n_tiles * n_parts, [&](int64_t i) {
    const int64_t part = i % n_parts, tile = i / n_parts % n_tiles, batch = i / n_parts / n_tiles;
    const int64_t first = tile * tile_rows;
    Running<Real> alone;
    Running<Real>& running = n_parts == 1 ? alone : parts[i];
    stream(task, batch, first, std::min(tile_rows, n_queries - first),
           std::min(n_keys, part * part_keys), std::min(n_keys, (part + 1) * part_keys), interrupt,
           running);
    if (n_parts == 1) write(batch, first, running);
  });
  if (n_parts == 1) return;
  for (int64_t i = 0; i < task.n_batches * n_tiles; ++i) {
    Running<Real>& all = parts[i * n_parts];
    for (int64_t part = 1; part < n_parts; ++part) all.merge(parts[i * n_parts + part], n_columns);
    write(i / n_tiles, i % n_tiles * tile_rows, all);
  }
}

template void attend(const AttendTask&, Interrupt&, float*, float*);
template void attend(const AttendTask&, Interrupt&, double*, double*);

}  // namespace memcore

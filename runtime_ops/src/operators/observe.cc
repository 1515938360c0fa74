// Observe: the histogram and the moments of a tensor, a row per channel, for calibration. It
// is in no compiled model. What it counts is specified by SignedHistogram of
// compiler/running/signed_histogram.py, how it adds by kernels/histogram.h.
//
//   inputs    X float32
//   outputs   counts, rests int64 [rows, bins]; tops int32 [rows];
//             moments float64 [rows, 5]: sum, sum of squares, least, largest, values not finite
//   axis      of the channels; -1: the whole tensor is one row
//   rows      the number of channels; X without elements may have another
//   leading, octaves   the bins: 2 * (octaves << leading) + 1
//   top       the exponent of the largest magnitude, as in tops, if it is known of a whole tensor:
//             what is larger counts as 0, and there are no rests and no moments; 0: it is found
//   runs      outputs are of so many runs of the session, and come with the last of them; with
//             the others they have no rows. The node adds up meanwhile: copying thousands of
//             histograms out of each run takes longer than counting.
#include <atomic>
#include <cstring>

#include "../kernels/histogram.h"
#include "node.h"

namespace snn {
namespace {

constexpr int64_t kMostRows = int64_t{1} << 24;
constexpr int64_t kMostRuns = int64_t{1} << 31;
constexpr size_t kMoments = 5;
constexpr size_t kMostTasks = 16;              // each has counters of its own
constexpr size_t kTaskSize = size_t{1} << 17;  // elements that are worth them
constexpr size_t kShortStretch = 16;           // elements: a cache line of float32
constexpr size_t kGroup = 16;                  // channels counted at once where stretches are shorter

size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }
size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

struct Job {
  const float* x;
  int32_t top;
  size_t rows, inner;  // X is [outer, rows, inner]
  size_t length;       // values of a row
  Bins bins;
  int64_t* counts;
  int64_t* rests;
  int32_t* tops;
  double* moments;

  size_t tasks;
  size_t group;       // rows counted at once
  uint64_t* words;    // of each task: counters for a group of rows
  float* buffers;     // of each task: a block of each row of the group
  Moments* blocks;    // of a tensor of one row
  size_t first_block, task_blocks;  // of one round over such a tensor

  size_t block_count() const { return divide_up(length, kHistogramBlock); }
  size_t block_size(size_t block) const { return smaller(kHistogramBlock, length - block * kHistogramBlock); }
  uint64_t* words_of(size_t task) const { return words + task * group * bins.words(); }

  void clear() const {
    std::memset(counts, 0, rows * bins.count() * sizeof(int64_t));
    std::memset(rests, 0, rows * bins.count() * sizeof(int64_t));
    for (size_t row = 0; row < rows; ++row) {
      tops[row] = bins.octaves;
      double* const all = moments + row * kMoments;
      all[0] = all[1] = all[4] = 0;
      all[2] = HUGE_VAL;
      all[3] = -HUGE_VAL;
    }
  }

  // What is known of a row before its values are counted.
  void announce(size_t row, const Moments& m) const {
    int64_t* const row_counts = counts + row * bins.count();
    const int32_t top = find_top(bins, m);
    if (top > tops[row]) {
      raise(row_counts, top - tops[row], true);
      raise(rests + row * bins.count(), top - tops[row], false);
      tops[row] = top;
    }
    row_counts[bins.side()] -= m.not_finite;
    double* const all = moments + row * kMoments;
    all[0] += m.sum;
    all[1] += m.squares;
    all[2] = (m.low < all[2] ? m.low : all[2]) + 0.0;  // a zero is +0
    all[3] = (m.high > all[3] ? m.high : all[3]) + 0.0;
    all[4] += static_cast<double>(m.not_finite);
  }

  // Moves what was counted to a row of bins.
  void empty(uint64_t* counters, size_t row) const {
    constexpr uint64_t kRest = (uint64_t{1} << kCountBit) - 1;
    const size_t size = bins.count();
    int64_t* const row_counts = counts + row * size;
    int64_t* const row_rests = rests + row * size;
    for (size_t i = 0; i < size; ++i) {
      for (uint64_t* counter = counters + i; counter < counters + bins.words(); counter += size) {
        row_counts[i] += static_cast<int64_t>(*counter >> kCountBit);
        row_rests[i] += static_cast<int64_t>(*counter & kRest);
        *counter = 0;
      }
    }
    row_rests[bins.side()] = 0;
  }

  // Moves a row of bins towards 0, for octaves above those it has.
  void raise(int64_t* row, int32_t octaves_above, bool keep_dropped) const {
    const size_t side = bins.side();
    const size_t shift = smaller(static_cast<size_t>(octaves_above) << bins.leading, side);
    int64_t dropped = 0;
    for (size_t i = side - shift; i <= side + shift; ++i) dropped += row[i];
    std::memmove(row + shift, row, (side - shift) * sizeof *row);
    std::memmove(row + side + 1, row + side + 1 + shift, (side - shift) * sizeof *row);
    std::memset(row, 0, shift * sizeof *row);
    std::memset(row + 2 * side + 1 - shift, 0, shift * sizeof *row);
    row[side] = keep_dropped ? dropped : 0;
  }

  ort::Status* run(const ort::Api& api, const ort::KernelContext* context, ort::LoopBody body) {
    if (tasks > 1 && api.KernelContext_ParallelFor != nullptr) {
      SNN_TSAN(release, &x);
      ort::Status* status = api.KernelContext_ParallelFor(context, body, tasks, 0, this);
      SNN_TSAN(acquire, &counts);
      return status;
    }
    for (size_t task = 0; task < tasks; ++task) body(this, task);
    return nullptr;
  }
};

// One row: the blocks are dealt out twice, since a bin depends on the largest value of all.
void ORT_CALL find_blocks(void* user, size_t task) {
  const Job& job = *static_cast<Job*>(user);
  SNN_TSAN(acquire, &job.x);
  const size_t blocks = job.block_count();
  const size_t each = divide_up(blocks, job.tasks);
  for (size_t b = task * each; b < smaller((task + 1) * each, blocks); ++b) {
    job.blocks[b] = find_moments(job.x + b * kHistogramBlock, job.block_size(b));
  }
  SNN_TSAN(release, &job.counts);
}

void ORT_CALL count_blocks(void* user, size_t task) {
  const Job& job = *static_cast<Job*>(user);
  SNN_TSAN(acquire, &job.x);
  const size_t begin = job.first_block + task * job.task_blocks;
  for (size_t b = begin; b < smaller(begin + job.task_blocks, job.block_count()); ++b) {
    count_values(job.bins, job.tops[0], job.x + b * kHistogramBlock, job.block_size(b), job.words_of(task));
  }
  SNN_TSAN(release, &job.counts);
}

ort::Status* observe_whole(Job& job, const ort::Api& api, const ort::KernelContext* context) {
  const size_t blocks = job.block_count();
  if (job.top != 0) {
    job.tops[0] = job.top;
  } else {
    if (ort::Status* status = job.run(api, context, find_blocks)) return status;
    Moments all;
    for (size_t b = 0; b < blocks; ++b) all.append(job.blocks[b]);
    job.announce(0, all);
  }
  job.task_blocks = smaller(divide_up(blocks, job.tasks), kMostBlocks);
  for (job.first_block = 0; job.first_block < blocks; job.first_block += job.tasks * job.task_blocks) {
    if (ort::Status* status = job.run(api, context, count_blocks)) return status;
    for (size_t task = 0; task < job.tasks; ++task) {
      job.empty(job.words_of(task), 0);
    }
  }
  return nullptr;
}

// Block `block` of `width` rows from `first` on: where it lies, one every kHistogramBlock, or
// copied there.
const float* load(const Job& job, size_t first, size_t width, size_t block, float* buffer) {
  const size_t begin = block * kHistogramBlock, count = job.block_size(block), inner = job.inner;
  size_t place = begin % inner;
  const float* from = job.x + (begin / inner * job.rows + first) * inner;
  if (width == 1 && place + count <= inner) return from + place;
  for (size_t done = 0; done < count;) {
    const size_t stretch = smaller(inner - place, count - done);
    for (size_t row = 0; row < width; ++row) {
      const float* const source = from + row * inner + place;
      float* const target = buffer + row * kHistogramBlock + done;
      if (stretch == 1) *target = *source;
      else std::memcpy(target, source, stretch * sizeof(float));
    }
    done += stretch;
    place = 0;
    from += job.rows * inner;
  }
  return buffer;
}

void ORT_CALL observe_rows(void* user, size_t task) {
  const Job& job = *static_cast<Job*>(user);
  SNN_TSAN(acquire, &job.x);
  uint64_t* const words = job.words_of(task);
  float* const buffer = job.buffers + task * job.group * kHistogramBlock;
  const size_t blocks = job.block_count();
  for (size_t first = task * job.group; first < job.rows; first += job.tasks * job.group) {
    const size_t width = smaller(job.group, job.rows - first);
    const float* x = nullptr;
    Moments found[kGroup];
    for (size_t b = 0; b < blocks; ++b) {
      x = load(job, first, width, b, buffer);
      for (size_t r = 0; r < width; ++r) found[r].append(find_moments(x + r * kHistogramBlock, job.block_size(b)));
    }
    for (size_t r = 0; r < width; ++r) job.announce(first + r, found[r]);
    for (size_t b = 0; b < blocks; ++b) {
      if (blocks > 1) x = load(job, first, width, b, buffer);
      for (size_t r = 0; r < width; ++r) {
        const size_t row = first + r;
        uint64_t* const counters = words + r * job.bins.words();
        count_values(job.bins, job.tops[row], x + r * kHistogramBlock, job.block_size(b), counters);
        if (b + 1 < blocks && (b + 1) % kMostBlocks != 0) continue;
        job.empty(counters, row);
      }
    }
  }
  SNN_TSAN(release, &job.counts);
}

struct State {
  Node node;
  int64_t axis = -1, rows = 1, leading = 0, octaves = 0, top = 0, runs = 1;
  // Between runs; one of them at a time.
  mutable void* kept = nullptr;
  mutable int64_t done = 0;
  mutable std::atomic_flag is_running = ATOMIC_FLAG_INIT;

  State(const Operator& op, const ort::KernelInfo* info) : node(op, info) {}

  ort::Status* prepare(const ort::KernelInfo* info) {
    const struct {
      const char* name;
      int64_t& value;
      int64_t least, most;
    } attributes[] = {{"axis", axis, -1, static_cast<int64_t>(kMaxRank) - 1},
                      {"rows", rows, 1, kMostRows},
                      {"leading", leading, 0, 10},
                      {"octaves", octaves, 1, 127},
                      {"top", top, 0, 254},
                      {"runs", runs, 1, kMostRuns}};
    for (const auto& a : attributes) {
      if (ort::Status* status = node.read_int_in(info, a.name, a.value, a.least, a.most)) return status;
    }
    return nullptr;
  }

  // Sees X as [outer, rows, inner].
  ort::Status* lay_out(const Tensor& x, Job& job) const {
    const int64_t rank = static_cast<int64_t>(x.shape.rank);
    if (axis >= rank) {
      return node.refuse("axis = %lld does not exist in X of rank %lld", static_cast<long long>(axis),
                         static_cast<long long>(rank));
    }
    const int64_t found = axis < 0 ? 1 : x.shape.dims[axis];
    if (found != rows) {
      return node.refuse("rows = %lld but axis = %lld of X has %lld", static_cast<long long>(rows),
                         static_cast<long long>(axis), static_cast<long long>(found));
    }
    job.inner = 1;
    for (int64_t i = axis + 1; i < rank; ++i) job.inner *= static_cast<size_t>(x.shape.dims[i]);
    return nullptr;
  }

  ort::Status* compute(ort::KernelContext* context) const {
    Tensor x;
    if (ort::Status* status = node.read_input(context, 0, "X", x)) return status;
    Job job{};
    if (x.count != 0) {
      if (ort::Status* status = lay_out(x, job)) return status;
    }
    job.x = static_cast<const float*>(x.data);
    job.top = static_cast<int32_t>(top);
    job.bins = {static_cast<int>(leading), static_cast<int>(octaves), top == 0 || rows != 1};
    job.rows = static_cast<size_t>(rows);
    job.length = x.count / job.rows;

    if (runs == 1) return observe(context, x, job);
    if (is_running.test_and_set(std::memory_order_acquire)) {
      return node.refuse("two runs at a time");
    }
    ort::Status* status = observe(context, x, job);
    is_running.clear(std::memory_order_release);
    return status;
  }

  ort::Status* observe(ort::KernelContext* context, const Tensor& x, Job& job) const {
    const bool is_last = done + 1 == runs;
    const size_t columns[] = {job.bins.count(), job.bins.count(), 0, kMoments};
    void* tables[4] = {};
    for (size_t i = 0; i < 4; ++i) {
      Shape shape;
      shape.rank = columns[i] == 0 ? 1 : 2;
      shape.dims[0] = is_last ? rows : 0;
      shape.dims[1] = static_cast<int64_t>(columns[i]);
      if (ort::Status* status = node.make_output(context, i, shape, tables[i])) return status;
    }
    const size_t table = job.rows * job.bins.count() * sizeof(int64_t);
    const size_t sizes[] = {table, table, job.rows * sizeof(int32_t), job.rows * kMoments * sizeof(double)};
    void* const outputs[] = {tables[0], tables[1], tables[2], tables[3]};
    if (runs != 1) {
      if (kept == nullptr) kept = std::malloc(sizes[0] + sizes[1] + sizes[2] + sizes[3]);
      if (kept == nullptr) return out_of_memory();
      char* place = static_cast<char*>(kept);
      constexpr size_t kWidestFirst[] = {0, 1, 3, 2};
      for (const size_t i : kWidestFirst) {
        tables[i] = place;
        place += sizes[i];
      }
    }
    job.counts = static_cast<int64_t*>(tables[0]);
    job.rests = static_cast<int64_t*>(tables[1]);
    job.tops = static_cast<int32_t*>(tables[2]);
    job.moments = static_cast<double*>(tables[3]);
    if (done == 0) job.clear();
    if (x.count != 0) {
      if (ort::Status* status = count(context, x, job)) return status;
    }
    if (runs == 1) return nullptr;
    done = is_last ? 0 : done + 1;
    for (size_t i = 0; i < 4 && is_last; ++i) std::memcpy(outputs[i], tables[i], sizes[i]);
    return nullptr;
  }

  ort::Status* count(ort::KernelContext* context, const Tensor& x, Job& job) const {
    const bool whole = rows == 1;
    job.group = whole || job.inner >= kShortStretch ? 1 : smaller(kGroup, job.rows);
    job.tasks = smaller(divide_up(x.count, kTaskSize), kMostTasks);
    if (!whole) job.tasks = smaller(job.tasks, divide_up(job.rows, job.group));
    const size_t words = job.tasks * job.group * job.bins.words() * sizeof(uint64_t);
    const size_t rest = whole ? job.block_count() * sizeof(Moments) : job.tasks * job.group * kHistogramBlock * sizeof(float);
    char* const memory = static_cast<char*>(std::calloc(words + rest, 1));
    if (memory == nullptr) return out_of_memory();
    job.words = reinterpret_cast<uint64_t*>(memory);
    job.blocks = reinterpret_cast<Moments*>(memory + words);
    job.buffers = reinterpret_cast<float*>(memory + words);
    const ort::Api& api = node.api();
    ort::Status* status = whole ? observe_whole(job, api, context) : job.run(api, context, observe_rows);
    std::free(memory);
    return status;
  }

  ort::Status* out_of_memory() const {
    return node.api().CreateStatus(ort::kFail, "snn-compile operators: out of memory");
  }
};

const char* ORT_CALL name(const ort::CustomOp*) { return "Observe"; }
size_t ORT_CALL inputs(const ort::CustomOp*) { return 1; }
size_t ORT_CALL outputs(const ort::CustomOp*) { return 4; }
ort::ElementType ORT_CALL output_type(const ort::CustomOp*, size_t index) {
  constexpr ort::ElementType kTypes[] = {ort::kInt64, ort::kInt64, ort::kInt32, ort::kDouble};
  return kTypes[index];
}

}  // namespace

void describe_observe(Operator& op) {
  describe(op, name, inputs);
  use_state<State>(op);
  op.KernelDestroy = [](void* kernel) {
    std::free(static_cast<State*>(kernel)->kept);
    std::free(kernel);
  };
  op.GetOutputTypeCount = outputs;
  op.GetOutputType = output_type;
  op.InferOutputShapeFn = nullptr;  // nothing follows it in a graph
  op.GetMayInplace = nullptr;
  op.ReleaseMayInplace = nullptr;
}

}  // namespace snn

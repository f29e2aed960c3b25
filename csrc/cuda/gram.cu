// gram on CUDA; csrc/contract/gram.h says what it computes.
#include "batch.cuh"

namespace fastgmtl::cuda {
namespace {

// Rows of a tile: registers hold the products of 8 rows with 8; fewer for few tasks, which leave little to compute.
constexpr int kFew = 4, kMany = 8;

struct Products {
  Batch batch;
  int rows_a, rows_b, tiles_a, tiles_b;
  double* partial;  // [pieces, rows_a, rows_b]
};

// Mapping. A block takes one tile of R x R products (blockIdx.x / pieces) of one piece (blockIdx.x modulo it is
// the tile, so that the tiles of a piece run together and find its rows in L2). A thread adds the products of every
// kBlock-th group of V elements in registers, in float32 (float64 for float64); then the block adds its threads in
// float64, in a fixed order. `square`: b is a, only tiles on and above the diagonal are there.
// Bytes: every row of a tile once, R^2 doubles.
template <class S, int V, int R, bool Diagonal>
__device__ __forceinline__ void products(const Products& job, int piece, int tile_i, int tile_j) {
  using A = acc_t<S>;
  __shared__ double shared_memory[kBlock / 32 * R * R];
  const Shared<double> sums(shared_memory);
  const Batch& batch = job.batch;
  const int part = batch.part_of(piece);
  const void* const* rows = batch.row + part * batch.per_part;
  const int first_i = tile_i * R, first_j = tile_j * R, b_at = batch.per_part > job.rows_a ? job.rows_a : 0;
  const S *a[R], *b[R];
#pragma unroll
  for (int i = 0; i < R; ++i) {
    a[i] = first_i + i < job.rows_a ? static_cast<const S*>(rows[first_i + i]) : nullptr;
    b[i] = first_j + i < job.rows_b ? static_cast<const S*>(rows[b_at + first_j + i]) : nullptr;
  }
  A sum[R][R];
#pragma unroll
  for (int i = 0; i < R; ++i)
#pragma unroll
    for (int j = 0; j < R; ++j) sum[i][j] = A{0};

  const int64_t begin = static_cast<int64_t>(piece - batch.first_piece[part]) * batch.piece;
  const int64_t rest = batch.numel[part] - begin, end = begin + (rest < batch.piece ? rest : batch.piece);
  const auto add = [&](int64_t c, auto lanes) {
    constexpr int N = decltype(lanes)::value;
    Pack<S, N> left[R], right[R];
#pragma unroll
    for (int i = 0; i < R; ++i) {
      left[i] = right[i] = Pack<S, N>{};
      if (a[i]) left[i] = load<N>(a[i] + c);
      if constexpr (!Diagonal)
        if (b[i]) right[i] = load<N>(b[i] + c);
    }
#pragma unroll
    for (int v = 0; v < N; ++v)
#pragma unroll
      for (int i = 0; i < R; ++i)
#pragma unroll
        for (int j = Diagonal ? i : 0; j < R; ++j)
          sum[i][j] += widen(left[i].item[v]) * widen((Diagonal ? left[j] : right[j]).item[v]);
  };
  const int64_t whole = begin + (end - begin) / V * V;
  for (int64_t c = begin + static_cast<int64_t>(threadIdx.x) * V; c < whole; c += kBlock * V) add(c, Lanes<V>{});
  if constexpr (V > 1)
    for (int64_t c = whole + threadIdx.x; c < end; c += kBlock) add(c, Lanes<1>{});

  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
  for (int k = 0; k < R * R; k += 4) {
    double four[4];
#pragma unroll
    for (int u = 0; u < 4; ++u) four[u] = static_cast<double>(sum[(k + u) / R][(k + u) % R]);
    const double total = reduce4(four, lane, 5);
    if ((lane & 7) == 0) sums.set(warp * R * R + k + reduced4(lane, 5), total);
  }
  __syncthreads();
  for (int k = threadIdx.x; k < R * R; k += kBlock) {
    const int i = first_i + k / R, j = first_j + k % R;
    double total = 0;
    for (int w = 0; w < kBlock / 32; ++w) total += sums.get(w * R * R + k);
    if (i < job.rows_a && j < job.rows_b && (!Diagonal || i <= j))
      store_one(total, job.partial + (static_cast<int64_t>(piece) * job.rows_a + i) * job.rows_b + j);
  }
}

template <class S, int V, int R, bool Square>
__global__ void __launch_bounds__(kBlock) gram_products_kernel(const __grid_constant__ Products job) {
  int tile = static_cast<int>(blockIdx.y), tile_i = 0;
  const int piece = static_cast<int>(blockIdx.x);
  if constexpr (!Square) {
    products<S, V, R, false>(job, piece, tile / job.tiles_b, tile % job.tiles_b);
  } else {
    while (tile >= job.tiles_a - tile_i) tile -= job.tiles_a - tile_i, ++tile_i;
    if (tile == 0)
      products<S, V, R, true>(job, piece, tile_i, tile_i);
    else
      products<S, V, R, false>(job, piece, tile_i, tile_i + tile);
  }
}

struct Sum {
  int run[Batch::kParts + 1];  // first pieces of consecutive parts of one group
  int group[Batch::kParts];
  int runs, rows_a, rows_b;
  bool square, fresh;
  const double* partial;
  double* out;
};

// Mapping. A warp takes one entry of the matrix of the group of run blockIdx.y, if no run before has that group. Lane l
// adds pieces l, l + 32, ... of all runs of the group, then the lanes are added; to what is there unless `fresh`.
// Bytes: 8 for every piece and entry.
__global__ void __launch_bounds__(kBlock) gram_sum_kernel(const __grid_constant__ Sum job) {
  const int64_t size = static_cast<int64_t>(job.rows_a) * job.rows_b;
  const int64_t entry = static_cast<int64_t>(blockIdx.x) * (kBlock / 32) + (threadIdx.x >> 5);
  const int lane = threadIdx.x & 31, first = static_cast<int>(blockIdx.y), group = job.group[first];
  if (entry >= size) return;
  for (int r = 0; r < first; ++r)
    if (job.group[r] == group) return;
  const int i = static_cast<int>(entry / job.rows_b), j = static_cast<int>(entry % job.rows_b);
  if (job.square && i > j) return;
  double sum = 0;
  for (int r = first; r < job.runs; ++r) {
    if (job.group[r] != group) continue;
    for (int64_t piece = job.run[r] + lane; piece < job.run[r + 1]; piece += 32)
      sum += load(job.partial + piece * size + entry);
  }
  for (int step = 16; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane) return;
  double* const out = job.out + group * size;
  if (!job.fresh) sum += load(out + entry);
  store_one(sum, out + entry);
  if (job.square && i != j) store_one(sum, out + static_cast<int64_t>(j) * job.rows_b + i);
}

struct Clear {
  double* out;
  int64_t size;
};

__global__ void __launch_bounds__(kBlock) clear_kernel(Clear job) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i < job.size) store_one(0.0, job.out + i);
}

}  // namespace

void gram(const GramArgs& args, int device) {
  const DeviceGuard guard(device);
  const auto stream = static_cast<cudaStream_t>(args.stream);
  const int64_t size = args.rows_a * args.rows_b;
  int64_t total = 0;
  for (const Part& part : args.parts) total += part.numel;
  // Enough pieces for a GPU, of sizes that depend on the number of elements alone.
  constexpr int64_t kSmallest = 2048, kLargest = 16384;
  const int64_t wanted = ceil_div(ceil_div(total, 1024), kSmallest) * kSmallest;
  const int64_t piece = wanted < kSmallest ? kSmallest : wanted > kLargest ? kLargest : wanted;
  // One group in one launch has its sum written, any other added to zeros.
  int batches = 0;
  for_batches(args, args.b, piece, [&](const Batch&, DType, bool) { ++batches; });
  const bool fresh = batches == 1 && args.groups == 1;
  if (!fresh)
    launch("gram_clear", clear_kernel, ceil_div(args.groups * size, kBlock), 1, args.stream,
           Clear{args.out, args.groups * size});
  for_batches(args, args.b, piece, [&](const Batch& batch, DType dtype, bool aligned) {
    const int64_t pieces = batch.first_piece[batch.parts];
    const Workspace work(pieces * size * static_cast<int64_t>(sizeof(double)), device, stream);
    Products job{};
    job.batch = batch;
    job.rows_a = static_cast<int>(args.rows_a), job.rows_b = static_cast<int>(args.rows_b);
    job.partial = work.at<double>(0);
    const bool square = args.square(), few = args.rows_a <= kFew && args.rows_b <= kFew;
    const int side = few ? kFew : kMany;
    job.tiles_a = static_cast<int>(ceil_div(args.rows_a, side));
    job.tiles_b = static_cast<int>(ceil_div(args.rows_b, side));
    const int64_t tiles = square ? job.tiles_a * (job.tiles_a + 1) / 2 : job.tiles_a * job.tiles_b;
    of_dtype(dtype, [&](auto scalar) {
      using S = typename decltype(scalar)::type;
      constexpr int V = 8 / sizeof(S);
      const auto of = [&](auto rows, auto is_square) {
        constexpr int R = decltype(rows)::value;
        constexpr bool Square = decltype(is_square)::value != 0;
        launch("gram_products", aligned ? gram_products_kernel<S, V, R, Square> : gram_products_kernel<S, 1, R, Square>,
               pieces, tiles, args.stream, job);
      };
      if (square)
        few ? of(Lanes<kFew>{}, Lanes<1>{}) : of(Lanes<kMany>{}, Lanes<1>{});
      else
        few ? of(Lanes<kFew>{}, Lanes<0>{}) : of(Lanes<kMany>{}, Lanes<0>{});
    });
    Sum sum{};
    for (int part = 0; part < batch.parts; ++part)
      if (part == 0 || batch.group[part] != sum.group[sum.runs - 1])
        sum.run[sum.runs] = batch.first_piece[part], sum.group[sum.runs++] = batch.group[part];
    sum.run[sum.runs] = static_cast<int>(pieces);
    sum.rows_a = job.rows_a, sum.rows_b = job.rows_b, sum.square = square, sum.fresh = fresh;
    sum.partial = job.partial, sum.out = args.out;
    launch("gram_sum", gram_sum_kernel, ceil_div(size, kBlock / 32), sum.runs, args.stream, sum);
  });
}

}  // namespace fastgmtl::cuda

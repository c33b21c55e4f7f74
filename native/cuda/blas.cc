/* Finds and opens cuBLASLt, and keeps the fastest algorithm of every product seen. Declared in blas.h; used by linear.cu.
   Invariant: an algorithm is chosen once per problem and process, so equal calls give equal bits. */
#include "blas.h"
#include <dlfcn.h>
#include <glob.h>
#include <library_types.h>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

namespace pd {
namespace {

// ---- what cublasLt.h declares

using Handle = void *;
using MatmulDesc = void *;
using Layout = void *;
using Preference = void *;
struct Algorithm { uint64_t data[8]; };
struct Heuristic {
  Algorithm algorithm;
  size_t workspace_bytes;
  int status;
  float waves_count;
  int reserved[4];
};
constexpr int kCompute32F = 68;         /* CUBLAS_COMPUTE_32F */
constexpr int kTransposed = 1;          /* CUBLAS_OP_T */
constexpr int kDescTransA = 3;          /* CUBLASLT_MATMUL_DESC_TRANSA */
constexpr int kDescScaleA = 17;         /* CUBLASLT_MATMUL_DESC_A_SCALE_POINTER */
constexpr int kDescScaleB = 18;         /* CUBLASLT_MATMUL_DESC_B_SCALE_POINTER */
constexpr int kDescFastSum = 25;        /* CUBLASLT_MATMUL_DESC_FAST_ACCUM */
constexpr int kDescScaleModeA = 31;     /* CUBLASLT_MATMUL_DESC_A_SCALE_MODE */
constexpr int kDescScaleModeB = 32;     /* CUBLASLT_MATMUL_DESC_B_SCALE_MODE */
constexpr int32_t kScalePerRow = 3;     /* CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F */
constexpr int kPreferenceWorkspace = 1; /* CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES */
constexpr int kPreferenceReduction = 3; /* CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK */
constexpr uint32_t kReduceInFloat32 = 2; /* CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE: a split K is never summed in 16 bits */
constexpr int kMajor = 13;              /* tried first; 12 has the same interface */

constexpr size_t kWorkspaceBytes = 32u << 20; /* NVIDIA's advice for Hopper */
constexpr int kCandidateCount = 12;
constexpr int kTrialCount = 3;
constexpr float kOverlapMs = 0.0025f; /* what a rival gains between our kernels, where it overlaps with both neighbours and cuBLASLt's do not */

/* Row counts that share an algorithm: trying costs tens of milliseconds, and prompts have any length. */
int32_t bucket_of(int32_t row_count) {
  const int32_t grain = row_count <= 64 ? 8 : row_count <= 256 ? 32 : row_count <= 2048 ? 256 : 2048;
  return (row_count + grain - 1) / grain * grain;
}

struct Plan {
  MatmulDesc description;
  Layout a, b, d;
  Algorithm algorithm;
};

cudaDataType type_of(int32_t dtype) {
  switch (dtype) {
    case PD_F32: return CUDA_R_32F;
    case PD_BF16: return CUDA_R_16BF;
    case PD_FP8_E4M3: return CUDA_R_8F_E4M3;
    default: return CUDA_R_16F;
  }
}

}  // namespace

struct Blas {
  PdDevice *device;
  void *library;
  Handle handle;
  std::mutex mutex;
  std::map<BlasProblem, Plan> plans;          /* by exact row count */
  std::map<BlasProblem, Algorithm> algorithms; /* by bucket */
  std::map<BlasProblem, bool> is_slower;       /* than its rival, by exact row count */
  std::set<BlasProblem> refused;               /* the library has no algorithm for them: not asked again at every call */
  struct { void *pointer; size_t bytes; } trial[5]; /* x, out, workspace, something to push the L2's content out with, scales of x */
  cudaEvent_t start, end;

  int (*create)(Handle *);
  int (*destroy)(Handle);
  int (*desc_create)(MatmulDesc *, int, int);
  int (*desc_set)(MatmulDesc, int, const void *, size_t);
  int (*layout_create)(Layout *, int, uint64_t, uint64_t, int64_t);
  int (*preference_create)(Preference *);
  int (*preference_set)(Preference, int, const void *, size_t);
  int (*preference_destroy)(Preference);
  int (*heuristic)(Handle, MatmulDesc, Layout, Layout, Layout, Layout, Preference, int, Heuristic *, int *);
  int (*algorithm_check)(Handle, MatmulDesc, Layout, Layout, Layout, Layout, const Algorithm *, Heuristic *);
  int (*matmul)(Handle, MatmulDesc, const void *, const void *, Layout, const void *, Layout, const void *, const void *, Layout, void *,
                Layout, const Algorithm *, void *, size_t, cudaStream_t);
};

namespace {

// ---- opening

std::vector<std::string> candidates() {
  std::vector<std::string> found;
  if (const char *chosen = std::getenv("PD_CUBLASLT")) return {chosen};
  for (int major = kMajor; major >= 12; major--) {
    std::string name = "libcublasLt.so." + std::to_string(major);
    found.push_back(name);
    for (const char *folder : {"/usr/local/cuda/lib64/", "/usr/lib/x86_64-linux-gnu/", "/opt/cuda/lib64/"}) found.push_back(folder + name);
    const std::string suffixes[] = {"/nvidia/cu" + std::to_string(major) + "/lib/" + name, "/nvidia/cublas/lib/" + name};
    for (const char *site : {"/usr/lib/python3*/*-packages", "/usr/local/lib/python3*/*-packages", "/opt/*/lib/python3*/site-packages",
                             "/opt/*/.venv/lib/python3*/site-packages", "/opt/*/*/lib/python3*/site-packages"}) {
      for (const std::string &suffix : suffixes) {
        glob_t matches{};
        if (glob((site + suffix).c_str(), 0, nullptr, &matches) == 0)
          for (size_t i = 0; i < matches.gl_pathc; i++) found.push_back(matches.gl_pathv[i]);
        globfree(&matches);
      }
    }
  }
  return found;
}

template <typename Function>
bool load(void *library, const char *name, Function *function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

bool load_all(Blas *blas) {
  void *from = blas->library;
  return load(from, "cublasLtCreate", &blas->create) && load(from, "cublasLtDestroy", &blas->destroy) &&
         load(from, "cublasLtMatmulDescCreate", &blas->desc_create) && load(from, "cublasLtMatmulDescSetAttribute", &blas->desc_set) &&
         load(from, "cublasLtMatrixLayoutCreate", &blas->layout_create) &&
         load(from, "cublasLtMatmulPreferenceCreate", &blas->preference_create) &&
         load(from, "cublasLtMatmulPreferenceSetAttribute", &blas->preference_set) &&
         load(from, "cublasLtMatmulPreferenceDestroy", &blas->preference_destroy) &&
         load(from, "cublasLtMatmulAlgoGetHeuristic", &blas->heuristic) &&
         load(from, "cublasLtMatmulAlgoCheck", &blas->algorithm_check) && load(from, "cublasLtMatmul", &blas->matmul);
}

// ---- choosing

int run(Blas *blas, const Plan &plan, const BlasOperands &with, void *workspace, cudaStream_t stream) {
  const float one = 1.0f, zero = 0.0f;
  if (with.weight_scales != nullptr) {
    int status = blas->desc_set(plan.description, kDescScaleA, &with.weight_scales, sizeof with.weight_scales);
    if (status == 0) status = blas->desc_set(plan.description, kDescScaleB, &with.x_scales, sizeof with.x_scales);
    if (status != 0) return status;
  }
  return blas->matmul(blas->handle, plan.description, &one, with.weight, plan.a, with.x, plan.b, &zero, with.out, plan.d, with.out, plan.d,
                      &plan.algorithm, workspace, kWorkspaceBytes, stream);
}

bool reserve_trial(Blas *blas, int index, size_t bytes) {
  auto &piece = blas->trial[index];
  if (piece.bytes >= bytes) return true;
  cudaFree(piece.pointer);
  piece = {nullptr, 0};
  if (cudaMalloc(&piece.pointer, bytes) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  piece.bytes = bytes;
  cudaMemsetAsync(piece.pointer, 0x3c, bytes, blas->device->side_stream); /* small positive numbers */
  return true;
}

/* Gives big pieces back: what is left of the GPU's memory belongs to the KV cache. */
void release_trial(Blas *blas) {
  constexpr size_t kKeptBytes = 32u << 20;
  for (auto &piece : blas->trial) {
    if (piece.bytes <= kKeptBytes) continue;
    cudaFree(piece.pointer);
    piece = {nullptr, 0};
  }
}

/* Best of a few runs with a cold L2, in ms; infinity when it does not run. enqueue: () -> status, onto the side stream */
template <typename Enqueue>
float time_of(Blas *blas, const Enqueue &enqueue) {
  cudaStream_t stream = blas->device->side_stream;
  float best = INFINITY;
  for (int trial = 0; trial < kTrialCount; trial++) {
    cudaMemsetAsync(blas->trial[3].pointer, trial, blas->trial[3].bytes, stream);
    cudaEventRecord(blas->start, stream);
    if (enqueue() != 0) return INFINITY;
    cudaEventRecord(blas->end, stream);
    float elapsed = 0.0f;
    if (cudaEventSynchronize(blas->end) != cudaSuccess || cudaEventElapsedTime(&elapsed, blas->start, blas->end) != cudaSuccess) return INFINITY;
    if (trial > 0) best = std::min(best, elapsed); /* the first run loads the kernel */
  }
  return best;
}

/* Memory for a product of the problem's size on the side stream. `with` names the weight. False: there is none. */
bool reserve_product(Blas *blas, const BlasProblem &problem, BlasOperands *with) {
  const size_t rows = static_cast<size_t>(problem.row_count);
  if (!reserve_trial(blas, 0, rows * problem.k * 2) || !reserve_trial(blas, 1, rows * problem.n * dtype_bytes(problem.out_dtype)) ||
      !reserve_trial(blas, 2, kWorkspaceBytes) || !reserve_trial(blas, 3, 2 * blas->device->l2_bytes) || !reserve_trial(blas, 4, rows * sizeof(float))) {
    release_trial(blas);
    return false;
  }
  *with = BlasOperands{blas->trial[1].pointer, blas->trial[0].pointer, with->weight, static_cast<const float *>(blas->trial[4].pointer), with->weight_scales};
  return true;
}

int describe(Blas *blas, const BlasProblem &problem, Plan *plan) {
  const cudaDataType type = type_of(problem.dtype);
  const uint64_t n = problem.n, k = problem.k, rows = problem.row_count;
  int status = blas->desc_create(&plan->description, kCompute32F, CUDA_R_32F);
  if (status == 0) status = blas->desc_set(plan->description, kDescTransA, &kTransposed, sizeof kTransposed);
  if (problem.dtype == PD_FP8_E4M3) {
    const int8_t yes = 1;
    if (status == 0) status = blas->desc_set(plan->description, kDescFastSum, &yes, sizeof yes);
    if (status == 0) status = blas->desc_set(plan->description, kDescScaleModeA, &kScalePerRow, sizeof kScalePerRow);
    if (status == 0) status = blas->desc_set(plan->description, kDescScaleModeB, &kScalePerRow, sizeof kScalePerRow);
  }
  if (status == 0) status = blas->layout_create(&plan->a, type, k, n, static_cast<int64_t>(k)); /* column-major views of row-major data */
  if (status == 0) status = blas->layout_create(&plan->b, type, k, rows, static_cast<int64_t>(k));
  if (status == 0) status = blas->layout_create(&plan->d, type_of(problem.out_dtype), n, rows, static_cast<int64_t>(n));
  if (status == 0) return PD_OK;
  return fail(problem.dtype == PD_FP8_E4M3 ? PD_UNSUPPORTED : PD_INTERNAL, "linear: cuBLASLt refused rows %d, n %d, k %d (status %d)", problem.row_count, problem.n, problem.k, status);
}

/* What looks best to the library, best first. */
int candidates_of(Blas *blas, const BlasProblem &problem, const Plan &plan, Heuristic (&results)[kCandidateCount], int *count) {
  Preference preference = nullptr;
  blas->preference_create(&preference);
  blas->preference_set(preference, kPreferenceWorkspace, &kWorkspaceBytes, sizeof kWorkspaceBytes);
  blas->preference_set(preference, kPreferenceReduction, &kReduceInFloat32, sizeof kReduceInFloat32);
  int status = blas->heuristic(blas->handle, plan.description, plan.a, plan.b, plan.d, plan.d, preference, kCandidateCount, results, count);
  blas->preference_destroy(preference);
  if (status == 0 && *count > 0) return PD_OK;
  return fail(PD_UNSUPPORTED, "linear: cuBLASLt has no algorithm for rows %d, n %d, k %d in %s (status %d)", problem.row_count, problem.n,
              problem.k, dtype_name(problem.dtype), status);
}

/* Some heuristics ask whether the scales are given; none reads them. */
void name_scales(Blas *blas, const Plan &plan, const BlasOperands &with) {
  if (with.weight_scales == nullptr) return;
  blas->desc_set(plan.description, kDescScaleA, &with.weight_scales, sizeof with.weight_scales);
  blas->desc_set(plan.description, kDescScaleB, &with.x_scales, sizeof with.x_scales);
}

/* The fastest of the candidates at the bucket's row count; the first one when there is no memory to try. */
int choose(Blas *blas, const BlasProblem &problem, BlasOperands with, Algorithm *chosen) {
  Plan plan{};
  if (int status = describe(blas, problem, &plan)) return status;
  name_scales(blas, plan, with);
  Heuristic results[kCandidateCount];
  int count = 0;
  if (int status = candidates_of(blas, problem, plan, results, &count)) return status;
  *chosen = results[0].algorithm;
  std::lock_guard<std::mutex> lock(blas->device->side_mutex);
  if (!reserve_product(blas, problem, &with)) return PD_OK;
  float best = INFINITY;
  for (int i = 0; i < count; i++) {
    plan.algorithm = results[i].algorithm;
    const float elapsed = time_of(blas, [&] { return run(blas, plan, with, blas->trial[2].pointer, blas->device->side_stream); });
    if (elapsed < best) {
      best = elapsed;
      *chosen = plan.algorithm;
    }
  }
  release_trial(blas);
  return PD_OK;
}

int make_plan(Blas *blas, const BlasProblem &problem, const BlasOperands &with, Plan *plan) {
  if (int status = describe(blas, problem, plan)) return status;
  name_scales(blas, *plan, with);
  BlasProblem bucket = problem;
  bucket.row_count = bucket_of(problem.row_count);
  auto found = blas->algorithms.find(bucket);
  if (found == blas->algorithms.end()) {
    Algorithm chosen{};
    if (int status = choose(blas, bucket, with, &chosen)) return status;
    found = blas->algorithms.emplace(bucket, chosen).first;
  }
  plan->algorithm = found->second;
  Heuristic checked{}; /* of another row count, so ask whether it holds here */
  if (blas->algorithm_check(blas->handle, plan->description, plan->a, plan->b, plan->d, plan->d, &plan->algorithm, &checked) == 0 &&
      checked.workspace_bytes <= kWorkspaceBytes)
    return PD_OK;
  Heuristic results[kCandidateCount];
  int count = 0;
  if (int status = candidates_of(blas, problem, *plan, results, &count)) return status;
  plan->algorithm = results[0].algorithm;
  return PD_OK;
}

/* The plan of a problem, made on its first use. Held under blas->mutex. */
int plan_of(Blas *blas, const BlasProblem &problem, const BlasOperands &with, const Plan **plan) {
  auto found = blas->plans.find(problem);
  if (found == blas->plans.end()) {
    if (blas->refused.count(problem) != 0)
      return fail(PD_UNSUPPORTED, "linear: cuBLASLt has no algorithm for rows %d, n %d, k %d in %s", problem.row_count, problem.n, problem.k, dtype_name(problem.dtype));
    Plan made{};
    if (int status = make_plan(blas, problem, with, &made)) {
      if (status == PD_UNSUPPORTED) blas->refused.insert(problem);
      return status;
    }
    found = blas->plans.emplace(problem, made).first;
  }
  *plan = &found->second;
  return PD_OK;
}

}  // namespace

int blas_open(PdDevice *device, Blas **blas) {
  Blas *made = new Blas{};
  made->device = device;
  for (const std::string &path : candidates())
    if ((made->library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) != nullptr) break;
  if (made->library == nullptr || !load_all(made)) {
    delete made;
    return fail(PD_NO_DEVICE, "cuda device %d: libcublasLt.so.13 (or .12) was not found: install the CUDA toolkit or the pip package "
                "nvidia-cublas, or set PD_CUBLASLT to the library's path", device->index);
  }
  int status = made->create(&made->handle);
  if (status == 0) status = cudaEventCreate(&made->start) != cudaSuccess || cudaEventCreate(&made->end) != cudaSuccess;
  if (status != 0) {
    delete made;
    return fail(PD_INTERNAL, "cuda device %d: cuBLASLt could not start (status %d)", device->index, status);
  }
  *blas = made;
  return PD_OK;
}

void blas_close(Blas *blas) {
  for (auto &piece : blas->trial) cudaFree(piece.pointer);
  cudaEventDestroy(blas->start);
  cudaEventDestroy(blas->end);
  blas->destroy(blas->handle);
  delete blas;
}

int blas_matmul(PdStream *stream, const BlasProblem &problem, const BlasOperands &operands) {
  Blas *blas = stream->device->blas;
  void *workspace = nullptr;
  if (int status = scratch(stream, Scratch::kBlasWorkspace, kWorkspaceBytes, &workspace)) return status;
  std::lock_guard<std::mutex> lock(blas->mutex);
  const Plan *plan = nullptr;
  if (int status = plan_of(blas, problem, operands, &plan)) return status;
  int status = run(blas, *plan, operands, workspace, stream->cuda);
  if (status != 0)
    return fail(PD_INTERNAL, "linear: cuBLASLt failed for rows %d, n %d, k %d (status %d)", problem.row_count, problem.n, problem.k, status);
  return PD_OK;
}

bool blas_is_slower(PdStream *stream, const BlasProblem &problem, const BlasOperands &operands, const BlasRival &enqueue) {
  Blas *blas = stream->device->blas;
  std::lock_guard<std::mutex> lock(blas->mutex);
  auto found = blas->is_slower.find(problem);
  if (found != blas->is_slower.end()) return found->second;
  const Plan *plan = nullptr;
  bool is_slower = true;
  if (plan_of(blas, problem, operands, &plan) == PD_OK) {
    std::lock_guard<std::mutex> side_lock(blas->device->side_mutex);
    BlasOperands with = operands;
    if (reserve_product(blas, problem, &with)) {
      PdStream side{};
      side.device = blas->device;
      side.cuda = blas->device->side_stream;
      const float theirs = time_of(blas, [&] { return run(blas, *plan, with, blas->trial[2].pointer, side.cuda); });
      const float other = time_of(blas, [&] { return enqueue(&side, with.out, with.x); });
      is_slower = theirs + kOverlapMs > other;
      release_trial(blas);
    }
  }
  blas->is_slower.emplace(problem, is_slower);
  return is_slower;
}

}  // namespace pd

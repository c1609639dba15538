// What every kernel uses, for two compilers: clang, whose PTX is committed and needs no CUDA headers, and NVRTC,
// which knows most of this by itself. Everything is a thin name for one PTX instruction or a formula written out:
// exp, log and their like are polynomials of fused multiply-adds instead of `ex2.approx` and a library, so that
// a GPU and the emulator give the same bits.
#pragma once

#ifdef __clang__
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __forceinline__ inline __attribute__((always_inline))

struct uint3;
struct dim3;
#include <__clang_cuda_builtin_vars.h> // threadIdx, blockIdx, blockDim, gridDim

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
// One instruction each: `nodebug` gives it the line of whoever asked for it.
#define INTRINSIC __device__ __forceinline__ __attribute__((nodebug))

INTRINSIC float2 make_float2(float x, float y) { return {x, y}; }
INTRINSIC float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
INTRINSIC uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
INTRINSIC uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

INTRINSIC float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
// A product and a sum with a rounding each, where fusing them would give other bits than the CPU's.
INTRINSIC float __fmul_rn(float a, float b) { return __nvvm_mul_rn_f(a, b); }
INTRINSIC float __fadd_rn(float a, float b) { return __nvvm_add_rn_f(a, b); }
INTRINSIC float fabsf(float x) { return __builtin_fabsf(x); }
INTRINSIC float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
INTRINSIC float fminf(float a, float b) { return __builtin_fminf(a, b); }
INTRINSIC float sqrtf(float x) { return __builtin_sqrtf(x); }
INTRINSIC int min(int a, int b) { return a < b ? a : b; }
INTRINSIC int max(int a, int b) { return a > b ? a : b; }
INTRINSIC int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
INTRINSIC float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
INTRINSIC unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
INTRINSIC float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }

INTRINSIC int __popc(unsigned x) { return __builtin_popcount(x); }
INTRINSIC unsigned __ballot_sync(unsigned mask, bool predicate) { return __nvvm_vote_ballot_sync(mask, predicate); }
INTRINSIC unsigned atomicAdd(unsigned *at, unsigned value) { return __nvvm_atom_add_gen_i((int *)at, int(value)); }
INTRINSIC float __shfl_down_sync(unsigned mask, float value, unsigned delta) {
    return __nvvm_shfl_sync_down_f32(mask, value, delta, 31);
}
INTRINSIC float __shfl_xor_sync(unsigned mask, float value, unsigned lanes) {
    return __nvvm_shfl_sync_bfly_f32(mask, value, lanes, 31);
}
#else
#define INTRINSIC __device__ __forceinline__
#endif

namespace {

constexpr int WARP = 32;
constexpr unsigned WHOLE_WARP = 0xffffffffu;

// Rounds up to a whole number of `size`.
constexpr __device__ int tiles(int count, int size) { return (count + size - 1) / size; }

INTRINSIC float4 operator+(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// bf16 is the upper half of an f32. Rounds to nearest, ties to even; a NaN stays one.
struct bf16 {
    unsigned short bits;
};
INTRINSIC float to_f32(float x) { return x; }
INTRINSIC float to_f32(bf16 x) { return __uint_as_float(unsigned(x.bits) << 16); }
__device__ __forceinline__ void from_f32(float x, float &out) { out = x; }
__device__ __forceinline__ void from_f32(float x, bf16 &out) {
    const unsigned bits = __float_as_uint(x);
    const unsigned rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    out.bits = (unsigned short)(x == x ? rounded : (bits >> 16) | 0x40u);
}

// Four neighbours in memory, 16 bytes of f32 or 8 of bf16, aligned to that.
INTRINSIC float4 read_four(const float *p) { return *(const float4 *)p; }
INTRINSIC float4 read_four(const bf16 *p) {
    const uint2 v = *(const uint2 *)p;
    return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
                       __uint_as_float(v.y & 0xffff0000u));
}
INTRINSIC void write_four(float *p, float4 v) { *(float4 *)p = v; }
INTRINSIC void write_four(bf16 *p, float4 v) {
    bf16 x, y, z, w;
    from_f32(v.x, x), from_f32(v.y, y), from_f32(v.z, z), from_f32(v.w, w);
    *(uint2 *)p = make_uint2(x.bits | unsigned(y.bits) << 16, z.bits | unsigned(w.bits) << 16);
}

// Four values from a row of `channels`, zeros past its end; `whole` says that rows keep 16-byte alignment.
__device__ __forceinline__ float4 load_four(const float *__restrict__ row, int channel, int channels, bool whole) {
    if (whole) return channel < channels ? *(const float4 *)(row + channel) : make_float4(0, 0, 0, 0);
    float4 v;
    v.x = channel < channels ? row[channel] : 0.0f;
    v.y = channel + 1 < channels ? row[channel + 1] : 0.0f;
    v.z = channel + 2 < channels ? row[channel + 2] : 0.0f;
    v.w = channel + 3 < channels ? row[channel + 3] : 0.0f;
    return v;
}

// e^x, x ≤ 88; 0 below −87.33, where the result would leave the normal numbers. x = n·ln 2 + r, |r| ≤ ln 2 / 2;
// e^r by its Taylor polynomial of degree 7, whose remainder is under 0.35^8/8! = 6e-9.
__device__ __forceinline__ float exp_polynomial(float r) {
    float p = 1.0f / 5040.0f;
    p = fmaf(p, r, 1.0f / 720.0f);
    p = fmaf(p, r, 1.0f / 120.0f);
    p = fmaf(p, r, 1.0f / 24.0f);
    p = fmaf(p, r, 1.0f / 6.0f);
    p = fmaf(p, r, 0.5f);
    return p; // e^r = 1 + r + r²·p
}
// n and r of the above; ln 2 in two parts, so that n times the first is exact.
__device__ __forceinline__ float exp_reduce(float x, float &n) {
    const float magic = 12582912.0f; // 1.5·2^23: adding it rounds to an integer
    n = fmaf(x, 1.44269504f, magic) - magic;
    return fmaf(n, -1.42860677e-6f, fmaf(n, -0.693145752f, x));
}
__device__ __forceinline__ float exp_f32(float x) {
    float n;
    const float r = exp_reduce(x, n);
    const float y = fmaf(r * r, exp_polynomial(r), r) + 1.0f;
    // A product, not a sum of exponents: a NaN comes through.
    return x < -87.33f ? 0.0f : y * __int_as_float((int(n) + 127) << 23);
}
// e^x − 1 for x ≤ 0, with its digits kept near 0.
__device__ __forceinline__ float expm1_f32(float x) {
    float n;
    const float r = exp_reduce(x, n);
    const float y = fmaf(r * r, exp_polynomial(r), r); // e^r − 1
    if (x < -87.33f) return -1.0f;
    const float power = __int_as_float((int(n) + 127) << 23);
    return fmaf(power, y, power - 1.0f);
}
// ln x for normal x > 0; NaN and infinity come through. x = 2^n·m, √½ ≤ m < √2; ln m = 2 artanh(s), s = (m − 1)/(m + 1), |s| < 0.172,
// odd series to s^9: the first term left out is 2 s^11 / 11 < 8e-10.
__device__ __forceinline__ float log_f32(float x) {
    const int bits = __float_as_int(x);
    const int n = (bits - 0x3f3504f3) >> 23;
    const float m = __int_as_float(bits - n * (1 << 23));
    const float s = (m - 1.0f) / (m + 1.0f);
    const float q = s * s;
    float p = 2.0f / 9.0f;
    p = fmaf(p, q, 2.0f / 7.0f);
    p = fmaf(p, q, 2.0f / 5.0f);
    p = fmaf(p, q, 2.0f / 3.0f);
    const float ln_m = fmaf(p * q, s, 2.0f * s);
    return x < __int_as_float(0x7f800000) ? fmaf(float(n), 0.693147182f, ln_m) : x;
}

// Sum over a warp in a fixed tree: the same bits on every run, in every lane.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(WHOLE_WARP, value, lanes);
    return value;
}
// Sum over a block of THREADS in a fixed tree, known to every thread. `scratch` has room for a value a warp.
template <int THREADS> __device__ __forceinline__ float block_sum(float value, float *scratch) {
    value = warp_sum(value);
    __syncthreads(); // the scratch may still be read from the sum before
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
    __syncthreads();
    float sum = scratch[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / WARP; ++warp) sum += scratch[warp];
    return sum;
}

// Shared memory's own 32-bit address of a pointer, as inline PTX wants it.
INTRINSIC unsigned shared_address(const void *pointer) {
#ifdef __clang__
    return unsigned((unsigned long long)((const __attribute__((address_space(3))) void *)pointer));
#else
    return unsigned(__cvta_generic_to_shared(pointer));
#endif
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// Copies 16 bytes from global to shared memory in the background, or writes zeros where `valid` is false.
INTRINSIC void copy_async_16(unsigned target, const void *source, bool valid) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes) : "memory");
}
INTRINSIC void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most PENDING of this thread's groups are under way.
template <int PENDING> INTRINSIC void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8×8 matrices of 16-bit values (8×4 of 32-bit ones): lane l gives the address of row l % 8 of matrix l / 8
// and gets values (l / 4, 2·(l % 4)) and the next of each matrix.
INTRINSIC void load_matrices(unsigned (&out)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}
// The same, each matrix transposed.
INTRINSIC void load_matrices_transposed(unsigned (&out)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// Rounds the bits of an f32 to tf32 (10 mantissa bits), ties away from zero. Unrounded bits would be truncated.
INTRINSIC unsigned round_to_tf32(unsigned bits) {
    unsigned out;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(__uint_as_float(bits)));
    return out;
}

// d += a·b, 16×8×8 in tf32.
INTRINSIC void multiply_add(float, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// d += a·b, 16×8×16 in bf16.
INTRINSIC void multiply_add(bf16, float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif

} // namespace

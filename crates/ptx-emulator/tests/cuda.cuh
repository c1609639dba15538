// What the kernels of these tests need in place of the CUDA headers, which clang can do without:
// attributes, vector types, barriers, warp operations, atomics, asynchronous copies and tensor cores.
// Only what PTX itself has, through clang's builtins or inline PTX; every function is one instruction
// (or the few that the name promises).
#pragma once

#define __host__ __attribute__((host))
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __align__(n) __attribute__((aligned(n)))
// Without debug information of its own, so that an instruction is put down to the line of the kernel that asked for it.
#define INLINE static inline __device__ __attribute__((always_inline, nodebug))

// A bug and its repair in one place: the file is compiled twice, with BUG defined and without.
#ifdef BUG
#define ONLY_REPAIRED(...)
#define ONLY_BUG(...) __VA_ARGS__
#define BUG_OR_REPAIR(bug, repair) bug
#else
#define ONLY_REPAIRED(...) __VA_ARGS__
#define ONLY_BUG(...)
#define BUG_OR_REPAIR(bug, repair) repair
#endif

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    __device__ dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
#include <__clang_cuda_builtin_vars.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef float float2 __attribute__((ext_vector_type(2)));
typedef float float4 __attribute__((ext_vector_type(4)));
typedef u32 uint2 __attribute__((ext_vector_type(2)));
typedef u32 uint4 __attribute__((ext_vector_type(4)));
typedef unsigned long size_t;

// A kernel under its own name.
#define KERNEL extern "C" __global__ void

#define FULL 0xffffffffu

// Barriers (`__syncthreads` is a builtin). `"memory"` keeps the compiler from moving accesses across them.
INLINE void __syncwarp(u32 mask = FULL) { __nvvm_bar_warp_sync(mask); }
INLINE void named_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
INLINE void named_arrive(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
INLINE int __syncthreads_count(int predicate) { return __nvvm_bar0_popc(predicate); }
INLINE int __syncthreads_and(int predicate) { return __nvvm_bar0_and(predicate); }
INLINE int __syncthreads_or(int predicate) { return __nvvm_bar0_or(predicate); }
INLINE void __threadfence() { __nvvm_membar_gl(); }
INLINE void __threadfence_block() { __nvvm_membar_cta(); }

// Shuffles; a width below 32 splits the warp into segments.
INLINE u32 __shfl_sync(u32 mask, u32 v, int lane) { return __nvvm_shfl_sync_idx_i32(mask, v, lane, 31); }
INLINE u32 __shfl_down_sync(u32 mask, u32 v, int by) { return __nvvm_shfl_sync_down_i32(mask, v, by, 31); }
INLINE u32 __shfl_up_sync(u32 mask, u32 v, int by) { return __nvvm_shfl_sync_up_i32(mask, v, by, 0); }
INLINE u32 __shfl_xor_sync(u32 mask, u32 v, int by) { return __nvvm_shfl_sync_bfly_i32(mask, v, by, 31); }
INLINE float __shfl_sync(u32 mask, float v, int lane) { return __nvvm_shfl_sync_idx_f32(mask, v, lane, 31); }
INLINE float __shfl_down_sync(u32 mask, float v, int by) { return __nvvm_shfl_sync_down_f32(mask, v, by, 31); }
INLINE float __shfl_up_sync(u32 mask, float v, int by) { return __nvvm_shfl_sync_up_f32(mask, v, by, 0); }
INLINE float __shfl_xor_sync(u32 mask, float v, int by) { return __nvvm_shfl_sync_bfly_f32(mask, v, by, 31); }

// Votes, match and the one-instruction reductions of sm_80.
INLINE u32 __ballot_sync(u32 mask, bool p) { return __nvvm_vote_ballot_sync(mask, p); }
INLINE bool __all_sync(u32 mask, bool p) { return __nvvm_vote_all_sync(mask, p); }
INLINE bool __any_sync(u32 mask, bool p) { return __nvvm_vote_any_sync(mask, p); }
INLINE u32 __match_any_sync(u32 mask, u32 v) { return __nvvm_match_any_sync_i32(mask, v); }
INLINE u32 __reduce_add_sync(u32 mask, u32 v) {
    u32 sum;
    asm volatile("redux.sync.add.u32 %0, %1, %2;" : "=r"(sum) : "r"(v), "r"(mask));
    return sum;
}
INLINE u32 __activemask() {
    u32 mask;
    asm volatile("activemask.b32 %0;" : "=r"(mask));
    return mask;
}
INLINE int __popc(u32 v) { return __builtin_popcount(v); }
INLINE u32 lanemask_lt() { return __nvvm_read_ptx_sreg_lanemask_lt(); }

// Atomics, relaxed at the scope of the device.
INLINE u32 atomicAdd(u32 *p, u32 v) { return __nvvm_atom_add_gen_i((int *)p, v); }
INLINE float atomicAdd(float *p, float v) { return __nvvm_atom_add_gen_f(p, v); }
INLINE u32 atomicMax(u32 *p, u32 v) { return __nvvm_atom_max_gen_ui(p, v); }
INLINE u32 atomicExch(u32 *p, u32 v) { return __nvvm_atom_xchg_gen_i((int *)p, v); }
INLINE u32 atomicCAS(u32 *p, u32 expected, u32 v) { return __nvvm_atom_cas_gen_i((int *)p, expected, v); }
INLINE u64 atomicAdd(u64 *p, u64 v) { return __nvvm_atom_add_gen_ll((long long *)p, v); }
INLINE u32 load_acquire(const u32 *p) {
    u32 v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
INLINE void store_release(u32 *p, u32 v) { asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }

// Asynchronous copies from global to shared memory.
INLINE u32 shared_address(const void *p) { return (u32)(size_t)(const __attribute__((address_space(3))) void *)p; }
INLINE void copy_async_4(void *to, const void *from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
INLINE void copy_async_16(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
INLINE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
INLINE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
INLINE void copy_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Tensor cores: 16x8x16, f16 or bf16 in, f32 sums.
INLINE void load_matrix_x4(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
INLINE void load_matrix_x2_transposed(u32 (&r)[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
INLINE void mma_bf16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

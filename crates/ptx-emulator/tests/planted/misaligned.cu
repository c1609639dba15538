// Accesses at addresses that are no multiple of their size.
#include "../cuda.cuh"

// Pairs from an odd element.
// launch: grid=1 block=16 args=f32[34]=iota f32[32] u32:1
// expect: misaligned global block=0 warp=0 lane=0
KERNEL global_float2_at_an_odd_float(const float *in, float *out, u32 offset) {
    u32 i = threadIdx.x * 2;
    float2 v = *(const float2 *)(in + i + BUG_OR_REPAIR(offset, offset * 2)); // BUG
    out[i] = v.x;
    out[i + 1] = v.y;
}

// Rows of 6 floats, stored four at a time: every odd row is 8 bytes off.
// launch: grid=1 block=8 args=f32[48] u32:6
// expect: misaligned global block=0 warp=0 lane=1
KERNEL global_float4_with_a_pitch_of_six(float *out, u32 pitch) {
    float *row = out + threadIdx.x * pitch;
    float4 v = {1.0f, 2.0f, 3.0f, 4.0f};
    ONLY_BUG(*(float4 *)row = v;) // BUG
    ONLY_REPAIRED(for (u32 i = 0; i < 4; ++i) row[i] = v[i];)
}

// A word read out of a stream of bytes.
// launch: grid=1 block=8 args=u8[40]=zeros u32[8]
// expect: misaligned global block=0 warp=0 lane=1
KERNEL global_word_among_bytes(const u8 *in, u32 *out) {
    const u8 *p = in + threadIdx.x * 5;
    ONLY_BUG(out[threadIdx.x] = *(const u32 *)p;) // BUG
    ONLY_REPAIRED(out[threadIdx.x] = p[0] | p[1] << 8 | p[2] << 16 | p[3] << 24;)
}

// A 64-bit counter at a 4-byte boundary.
// launch: grid=1 block=32 args=u32[4]=zeros u32:1
// expect: misaligned global block=0 warp=0 lane=0
KERNEL global_atomic_64_at_32(u32 *counters, u32 offset) {
    atomicAdd((u64 *)(counters + BUG_OR_REPAIR(offset, offset * 2)), (u64)threadIdx.x); // BUG
}

// An array of floats read as float4: right only while luck places it at a multiple of 16.
// launch: grid=1 block=32 args=f32[33]=iota f32[32] u32:1
// expect: misaligned shared block=0 warp=0
KERNEL shared_float4_from_a_float_array(const float *in, float *out, u32 one) {
    struct Tile {
        u32 length;
        float data[BUG_OR_REPAIR(32, 35)];
    };
    __shared__ __align__(16) Tile tile;
    u32 t = threadIdx.x;
    float *data = tile.data + BUG_OR_REPAIR(0, 3);
    data[t] = in[t];
    if (t == 0) tile.length = one;
    __syncwarp();
    float4 v = *(float4 *)(data + (t & 7) * 4 * one); // BUG
    out[t] = v.x + v.y + v.z + v.w; // BUG
}

// Shared arrays declared for floats, of odd length: the alignment is the declared one, 4.
// launch: grid=1 block=32 args=f32[32]=iota f32[32]
// expect: misaligned shared block=0 warp=0
KERNEL shared_declared_alignment(const float *in, float *out) {
    __shared__ BUG_OR_REPAIR(, __align__(16)) float tile[32];
    u32 t = threadIdx.x;
    tile[t] = in[t];
    __syncwarp();
    float x, y, z, w;
    // As inline PTX, so that the compiler does not see the access and raise the array's alignment.
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x), "=f"(y), "=f"(z), "=f"(w) : "r"(shared_address(tile + (t & 7) * 4)) : "memory"); // BUG
    out[t] = x + y + z + w;
}

// Dynamic memory: pairs carved behind an odd number of floats.
// launch: grid=1 block=8 shared=128 args=u32:3 f32[8]
// expect: misaligned shared block=0 warp=0 lane=0
// may: uninitialised-read shared
KERNEL shared_float2_behind_three_floats(u32 weights, float *out) {
    extern __shared__ __align__(16) float dynamic[];
    float *pairs = dynamic + BUG_OR_REPAIR(weights, (weights + 1) / 2 * 2);
    u32 t = threadIdx.x;
    float2 v = {(float)t, 1.0f};
    *(float2 *)(pairs + t * 2) = v; // BUG
    __syncwarp();
    out[t] = pairs[t * 2]; // BUG
}

// A copy of 16 bytes to an address that is a multiple of 4.
// launch: grid=1 block=8 args=f32[32]=iota f32[8] u32:1
// expect: misaligned shared block=0 warp=0 lane=0
// may: uninitialised-read shared
KERNEL shared_async_copy_of_sixteen(const float *in, float *out, u32 skew) {
    __shared__ __align__(16) float tile[36];
    u32 t = threadIdx.x;
    copy_async_16(tile + t * 4 + BUG_OR_REPAIR(skew, 0), in + t * 4); // BUG
    copy_async_wait_all();
    out[t] = tile[t * 4 + 1]; // BUG
}

// Rows of 12 bytes for ldmatrix, which wants 16.
// launch: grid=1 block=32 args=u32[128]=iota u32[32] u32:3
// expect: misaligned shared block=0 warp=0
KERNEL shared_matrix_rows_of_twelve_bytes(const u32 *in, u32 *out, u32 pitch) {
    __shared__ __align__(16) u32 tile[128];
    u32 t = threadIdx.x;
    for (u32 i = t; i < 128; i += 32) tile[i] = in[i];
    __syncwarp();
    u32 r[4];
    load_matrix_x4(r, tile + t * BUG_OR_REPAIR(pitch, (pitch + 1))); // BUG
    out[t] = r[0] + r[1] + r[2] + r[3];
}

// A word assembled in an array of bytes of the thread's own.
// launch: grid=1 block=4 args=u8[4]=iota u32[4] u32:1
// expect: misaligned local block=0 warp=0 lane=0
KERNEL local_word_in_a_byte_array(const u8 *in, u32 *out, u32 offset) {
    __align__(4) volatile u8 bytes[8];
    for (u32 i = 0; i < 8; ++i) bytes[i] = in[threadIdx.x] + i;
    out[threadIdx.x] = *(volatile u32 *)(bytes + BUG_OR_REPAIR(offset, offset * 4)); // BUG
}

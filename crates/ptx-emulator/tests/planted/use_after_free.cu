// Memory that was freed before the launch: a pointer that outlived its buffer.
#include "../cuda.cuh"

// Read.
// launch: grid=1 block=32 args=f32[32]=freed f32[32]
// repaired: grid=1 block=32 args=f32[32]=iota f32[32]
// expect: use-after-free global block=0 warp=0 lane=0
KERNEL read_of_a_freed_buffer(const float *in, float *out) {
    out[threadIdx.x] = in[threadIdx.x]; // BUG
}

// Written.
// launch: grid=2 block=32 args=f32[64]=freed
// repaired: grid=2 block=32 args=f32[64]
// expect: use-after-free global warp=0
KERNEL write_to_a_freed_buffer(float *out) {
    out[blockIdx.x * 32 + threadIdx.x] = 1.0f; // BUG
}

// Counted in.
// launch: grid=1 block=32 args=u32[1]=freed
// repaired: grid=1 block=32 args=u32[1]=zeros
// expect: use-after-free global block=0 warp=0
KERNEL atomic_on_a_freed_buffer(u32 *counter) {
    atomicAdd(counter, 1u); // BUG
}

// A pointer in a table in memory, to a buffer that is gone.
// launch: grid=1 block=32 args=u64[1]=address-of-freed f32[32]
// repaired: grid=1 block=32 args=u64[1]=address-of-live f32[32]
// expect: use-after-free global block=0 warp=0
KERNEL freed_buffer_in_a_pointer_table(float *const *table, float *out) {
    float *p = table[0];
    p[threadIdx.x] = 2.0f; // BUG
    out[threadIdx.x] = 1.0f;
}

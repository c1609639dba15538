// Launches that a GPU refuses. The kernels are right; their launches are not.
#include "../cuda.cuh"

// More than 1024 threads a block.
// launch: grid=1 block=1056 args=f32[1056]
// repaired: grid=2 block=528 args=f32[1056]
// expect: launch-limit register
KERNEL too_many_threads(float *out) { out[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f; }

// A block may be 64 deep.
// launch: grid=1 block=1,1,65 args=f32[65]
// repaired: grid=1 block=65 args=f32[65]
// expect: launch-limit register
KERNEL block_too_deep(float *out) { out[threadIdx.x + threadIdx.z] = 1.0f; }

// y and z of a grid end at 65535.
// launch: grid=1,65536 block=1 args=u32[1]=zeros
// repaired: grid=64,64 block=1 args=u32[1]=zeros
// expect: launch-limit register
KERNEL grid_too_high(u32 *out) { atomicAdd(out, 1u); }

// Nothing to run.
// launch: grid=0 block=32 args=f32[32]
// repaired: grid=1 block=32 args=f32[32]
// expect: launch-limit register
KERNEL grid_of_nothing(float *out) { out[threadIdx.x] = 1.0f; }

// No thread in a block.
// launch: grid=1 block=32,0 args=f32[32]
// repaired: grid=1 block=32,1 args=f32[32]
// expect: launch-limit register
KERNEL block_of_nothing(float *out) { out[threadIdx.x] = 1.0f; }

// More dynamic shared memory than any GPU has.
// launch: grid=1 block=32 shared=262144 args=f32[32]
// repaired: grid=1 block=32 shared=128 args=f32[32]
// expect: launch-limit register
KERNEL too_much_dynamic_shared(float *out) {
    extern __shared__ float dynamic[];
    dynamic[threadIdx.x] = 1.0f;
    __syncwarp();
    out[threadIdx.x] = dynamic[threadIdx.x ^ 1];
}

// Static and dynamic shared memory together are too much, each alone is not.
// launch: grid=1 block=32 shared=163840 args=f32[32]
// repaired: grid=1 block=32 shared=1024 args=f32[32]
// expect: launch-limit register
KERNEL too_much_shared_together(float *out) {
    extern __shared__ float dynamic[];
    __shared__ float fixed[4096];
    dynamic[threadIdx.x] = 1.0f;
    fixed[threadIdx.x] = 2.0f;
    __syncwarp();
    out[threadIdx.x] = dynamic[threadIdx.x ^ 1] + fixed[threadIdx.x ^ 1];
}

// The kernel promised the compiler at most 64 threads a block.
// launch: grid=1 block=128 args=f32[128]
// repaired: grid=2 block=64 args=f32[128]
// expect: launch-limit register
extern "C" __global__ void __launch_bounds__(64) more_threads_than_promised(float *out) {
    out[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f;
}

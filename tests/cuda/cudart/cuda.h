/* cuda.h - the few types of the CUDA driver that system_cuda.c names, for tests on machines without
 * CUDA; see cuda_runtime_api.h beside it. */
#ifndef TESTS_CUDA_CUDART_CUDA_H
#define TESTS_CUDA_CUDART_CUDA_H

#define CUDAAPI

typedef int CUresult;
typedef int CUdevice;
typedef struct CUctx_st* CUcontext;

#endif

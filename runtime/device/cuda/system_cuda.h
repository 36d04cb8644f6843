/* system_cuda.h - what the parts of the device that are compiled against CUDA share. */
#ifndef PKVI_DEVICE_CUDA_SYSTEM_CUDA_H
#define PKVI_DEVICE_CUDA_SYSTEM_CUDA_H

#include "device/cuda/system.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The status for a cudaError_t; takes the error off CUDA's own record. */
int pkvi_gpu_status_of(int error);

#ifdef __cplusplus
}
#endif
#endif

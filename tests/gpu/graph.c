/* graph.c - emulator/graph.h over CUDA. Capture is as strict as it can be: what CUDA calls unsafe fails,
 * in whatever thread. */
#include "emulator/graph.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

struct graph {
    cudaGraph_t captured;
    cudaGraphExec_t ready;
};

static void must(cudaError_t error, const char* call) {
    if (error == cudaSuccess) return;
    fprintf(stderr, "%s: %s\n", call, cudaGetErrorString(error));
    exit(2);
}

void graph_capture(struct pkvi_gpu_stream* stream) {
    must(cudaStreamBeginCapture((cudaStream_t)stream, cudaStreamCaptureModeGlobal),
         "cudaStreamBeginCapture");
}

struct graph* graph_end(struct pkvi_gpu_stream* stream) {
    struct graph* graph = malloc(sizeof *graph);
    if (graph == NULL) exit(2);
    must(cudaStreamEndCapture((cudaStream_t)stream, &graph->captured), "cudaStreamEndCapture");
    must(cudaGraphInstantiate(&graph->ready, graph->captured, 0), "cudaGraphInstantiate");
    return graph;
}

void graph_launch(const struct graph* graph, struct pkvi_gpu_stream* stream) {
    must(cudaGraphLaunch(graph->ready, (cudaStream_t)stream), "cudaGraphLaunch");
}

void graph_close(struct graph* graph) {
    must(cudaGraphExecDestroy(graph->ready), "cudaGraphExecDestroy");
    must(cudaGraphDestroy(graph->captured), "cudaGraphDestroy");
    free(graph);
}

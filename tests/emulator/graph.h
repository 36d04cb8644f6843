/* graph.h - CUDA graphs for tests: captured from a stream, launched again and again. Peers: the
 * emulator (system.cpp), and CUDA's own (tests/gpu/graph.c). */
#ifndef TESTS_EMULATOR_GRAPH_H
#define TESTS_EMULATOR_GRAPH_H

#ifdef __cplusplus
extern "C" {
#endif

struct pkvi_gpu_stream;
struct graph;

/* What is put into `stream`, which is not the default one, goes into a graph until graph_end and is not
 * done. */
void graph_capture(struct pkvi_gpu_stream* stream);
struct graph* graph_end(struct pkvi_gpu_stream* stream);

/* Put all of it into `stream`. The graph may be closed when that is done. */
void graph_launch(const struct graph* graph, struct pkvi_gpu_stream* stream);
void graph_close(struct graph* graph);

#ifdef __cplusplus
}
#endif
#endif

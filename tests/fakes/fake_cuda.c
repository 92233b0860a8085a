/* A CUDA driver and runtime without a GPU, for tests: memory is the host's, and a stream is a real queue.
   Nothing put on a stream happens before somebody waits for it, so a forgotten wait shows as old bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef void (*host_function)(void *);
typedef struct { int kind; void *to; const void *from; size_t size; host_function call; void *data; uint64_t *event; } task;
typedef struct { task *tasks; size_t count, room; } list;
typedef struct { list queue; list *capture; } stream;
enum { COPY, CALL, MARK };

static uint64_t now;
static long live[5]; /* device, pinned, streams, events, graphs */
static int init_code, devices = 1, refuse_malloc;
static long launches, copies;

static int number(const char *name, int otherwise) { const char *text = getenv(name); return text ? atoi(text) : otherwise; }
static void put(list *l, task t) {
    if (l->count == l->room) { l->room = l->room ? 2 * l->room : 8; l->tasks = realloc(l->tasks, l->room * sizeof t); }
    l->tasks[l->count++] = t;
}
static void add(stream *s, task t) { put(s->capture ? s->capture : &s->queue, t); }
static void run(list *l) {
    for (size_t i = 0; i < l->count; ++i) {
        task *t = &l->tasks[i];
        now += 1000;
        if (t->kind == COPY) { memcpy(t->to, t->from, t->size); ++copies; }
        else if (t->kind == CALL) t->call(t->data);
        else *t->event = now;
    }
    l->count = 0;
}

/* what tests ask */
long fake_live(int what) { return live[what]; }
long fake_launches(void) { return launches; }
long fake_copies(void) { return copies; }
void fake_refuse_malloc(int yes) { refuse_malloc = yes; }
void fake_enqueue(stream *s, host_function call, void *data) { add(s, (task){ .kind = CALL, .call = call, .data = data }); }
int fake_capturing(stream *s) { return s->capture != NULL; }

/* driver */
int cuInit(unsigned flags) { (void)flags; init_code = number("FAKE_CUINIT", 0); devices = number("FAKE_DEVICES", 1); return init_code; }
int cuDeviceGetCount(int *count) { *count = devices; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index < devices ? 0 : 101; }
int cuDeviceGetName(char *name, int size, int device) {
    (void)device;
    const char *text = getenv("FAKE_GPU");
    strncpy(name, text ? text : "Fake GPU", (size_t)size);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? number("FAKE_SM", 87) / 10 : attribute == 76 ? number("FAKE_SM", 87) % 10 : -1;
    return 0;
}
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }

/* runtime */
int cudaRuntimeGetVersion(int *version) { *version = 12060; return 0; }
int cudaMalloc(void **p, size_t size) { if (refuse_malloc) return 2; *p = malloc(size); memset(*p, 0xAB, size); ++live[0]; return 0; }
int cudaFree(void *p) { free(p); --live[0]; return 0; }
int cudaHostAlloc(void **p, size_t size, unsigned flags) { (void)flags; *p = malloc(size); memset(*p, 0xCD, size); ++live[1]; return 0; }
int cudaFreeHost(void *p) { free(p); --live[1]; return 0; }
int cudaStreamCreateWithFlags(stream **s, unsigned flags) { if (flags != 1) return 1; *s = calloc(1, sizeof **s); ++live[2]; return 0; }
int cudaStreamDestroy(stream *s) { free(s->queue.tasks); free(s); --live[2]; return 0; }
int cudaStreamSynchronize(stream *s) { if (s->capture) return 900; run(&s->queue); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, stream *s) {
    if (kind != 1 && kind != 2) return 21;
    add(s, (task){ .kind = COPY, .to = to, .from = from, .size = size });
    return 0;
}
int cudaEventCreate(uint64_t **e) { *e = calloc(1, sizeof **e); ++live[3]; return 0; }
int cudaEventDestroy(uint64_t *e) { free(e); --live[3]; return 0; }
int cudaEventRecord(uint64_t *e, stream *s) { *e = 0; add(s, (task){ .kind = MARK, .event = e }); return 0; }
int cudaEventElapsedTime(float *ms, uint64_t *a, uint64_t *b) { if (!*a || !*b) return 600; *ms = (float)(*b - *a) / 1e6f; return 0; }
int cudaStreamBeginCapture(stream *s, int mode) { if (mode != 1 || s->capture) return 1; s->capture = calloc(1, sizeof *s->capture); return 0; }
int cudaStreamEndCapture(stream *s, list **graph) { if (!s->capture) return 1; *graph = s->capture; s->capture = NULL; return 0; }
int cudaGraphInstantiateWithFlags(list **made, list *graph, unsigned long long flags) {
    if (flags) return 1;
    *made = calloc(1, sizeof **made);
    for (size_t i = 0; i < graph->count; ++i) put(*made, graph->tasks[i]);
    ++live[4];
    return 0;
}
int cudaGraphLaunch(list *graph, stream *s) { for (size_t i = 0; i < graph->count; ++i) add(s, graph->tasks[i]); ++launches; return 0; }
int cudaGraphDestroy(list *graph) { free(graph->tasks); free(graph); return 0; }
int cudaGraphExecDestroy(list *graph) { free(graph->tasks); free(graph); --live[4]; return 0; }
int cudaGetLastError(void) { return 0; }
const char *cudaGetErrorString(int code) { return code == 2 ? "out of memory" : "some error"; }

// Who watches whether a core stands still: a thread that goes before all others wants it each millisecond. Where it
// had to wait, the machine itself had something else to do, and whoever was to be answered then waited for that. A
// proxy that is busy does not keep it waiting, but for what it has the kernel do in one piece. Used by client.c alone, after conn.h.
#include <pthread.h>
#include <sched.h>

#define EACH 0.001        // seconds; so often it looks
#define LATE 0.0003       // it waited for so long: the core stood still
#define CATCHING_UP 0.001 // what came meanwhile is done by then
enum { STALLS = 4096, WITNESSES = 2 };

typedef struct { double from, to; } stall;
static struct witness { int core; long n; stall seen[STALLS]; pthread_t thread; } witnesses[WITNESSES];
static int nwitnesses;
static _Atomic int has_seen_enough;

static void *watch(void *of) {
  struct witness *w = of;
  cpu_set_t core;
  CPU_ZERO(&core);
  CPU_SET(w->core, &core);
  if (sched_setaffinity(0, sizeof core, &core)) { perror("client: --watch"); exit(1); }
  for (double next = now(), t; !has_seen_enough; next = t > next ? t : next) {
    next += EACH;
    struct timespec at = {(time_t)next, (long)((next - (time_t)next) * 1e9)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
    t = now();
    if (t - next > LATE && w->n < STALLS) w->seen[w->n++] = (stall){next, t};
  }
  return NULL;
}

static void watch_cores(int other) { // and our own; nobody is watched where no thread may go before others
  pthread_attr_t first;
  struct sched_param priority = {.sched_priority = 1};
  pthread_attr_init(&first);
  pthread_attr_setinheritsched(&first, PTHREAD_EXPLICIT_SCHED);
  pthread_attr_setschedpolicy(&first, SCHED_FIFO);
  pthread_attr_setschedparam(&first, &priority);
  int cores[WITNESSES] = {other, sched_getcpu()};
  for (; nwitnesses < WITNESSES; nwitnesses++) {
    struct witness *w = &witnesses[nwitnesses];
    w->core = cores[nwitnesses];
    if (pthread_create(&w->thread, &first, watch, w)) break;
  }
}

static void end_watch(void) {
  has_seen_enough = 1;
  for (int i = 0; i < nwitnesses; i++) pthread_join(witnesses[i].thread, NULL);
}

static int stood_still(double from, double to) { // whether a core did, between these or right before
  for (int i = 0; i < nwitnesses; i++)
    for (long k = 0; k < witnesses[i].n; k++)
      if (from < witnesses[i].seen[k].to + CATCHING_UP && to > witnesses[i].seen[k].from) return 1;
  return 0;
}

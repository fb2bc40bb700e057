// The load: one thread, epoll, HTTP/1.1 and WebSockets, over TLS 1.3 or plain.
//
//   client MODE --port P [--tls 0|1] [--path /x] [--auth KEY] [--conns N] [--secs D] [--rate R]
//               [--count N] [--size BYTES] [--resume 0|1] [--watch CORE]
//
//   http   the same request again and again on kept connections; --size: with a body of so many bytes
//   ws     WebSocket messages of --size bytes, each echoed before the next one is sent
//   hs     a NEW connection for each request, full or resumed handshake
//   idle   open all connections, one request on each (--size 1: a WebSocket instead), and hold them
//   first  ask until there is an answer of 200, once
//   stamp FILE PROGRAM ...   write the monotonic time into FILE and become PROGRAM
//
// With --rate, http and ws are an open loop: R messages a second, whatever becomes of those before;
// latency counts from the moment a message was DUE, so a stall is seen by all who waited for it. With --watch, what
// met a moment in which this core or the client's own did nothing for anybody has no latency; "unseen" are as many.
//
// http and ws (when their connections are open) and hs print "ready" and wait for a line on stdin: who
// measures looks at the proxy's CPU then. idle holds until stdin ends. One line of JSON comes out.
#include "conn.h"
#include "witness.h"

static struct span { double due, end; } *answered; // with --rate
static long nanswered, unseen;
static int watched = -1;

static void begin(conn *c, double due) {
  c->due = due;
  c->sent = 0;
  c->state = SENDING;
  if (step(c) < 0) {
    errors++;
    finish(c, 0);
  }
}

static void more(void) {
  if (started < conns) start(&all[started++]);
}

static void opened(conn *c, int well) { // it has answered once, or failed to
  ready++;
  c->opened = 1;
  if (well && mode != IDLE) idle[nidle++] = c;
  more();
}

static void moved(conn *c) {
  int r = step(c);
  if (!r) return;
  if (r < 0) {
    if (mode != FIRST) errors++;
    finish(c, 0);
    for (int i = 0; i < nidle; i++)
      if (idle[i] == c) idle[i] = idle[--nidle];
    if (mode == HS) start(c);
    else if (mode == FIRST) { usleep(200); start(c); }
    else if (!c->opened) opened(c, 0);
    return;
  }
  if (mode == HS || mode == FIRST) {
    done++;
    finish(c, 1);
    if (mode == HS) start(c);
  } else if (!c->opened) {
    if (mode == IDLE) done++;
    opened(c, 1);
  } else {
    done++;
    if (nanswered < room) answered[nanswered++] = (struct span){c->due, now()};
    if (rate) idle[nidle++] = c;
    else begin(c, 0);
  }
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static void sort_out(void) { // latencies, but for those that tell of the machine alone
  for (long i = 0; i < nanswered; i++)
    if (stood_still(answered[i].due, answered[i].end)) unseen++;
    else latency[nlatency++] = answered[i].end - answered[i].due;
  qsort(latency, nlatency, sizeof *latency, ascending);
}

static double part(double p) { return nlatency ? latency[(long)((nlatency - 1) * p)] * 1e6 : 0; }

static void wait_and_move(double until) {
  struct epoll_event evs[512];
  double w = until - now();
  if (w < 0) w = 0;
  struct timespec ts = {(long)w, (w - (long)w) * 1e9};
  int n = epoll_pwait2(ep, evs, 512, &ts, NULL);
  for (int i = 0; i < n; i++) {
    conn *c = evs[i].data.ptr;
    if (c->state != CLOSED) moved(c);
  }
}

static void prepare(void) {
  char length[64] = "";
  if (mode == HTTP && size) snprintf(length, sizeof length, "Content-Type: application/json\r\nContent-Length: %ld\r\n", size);
  char auth[512] = "";
  if (*key) snprintf(auth, sizeof auth, "Authorization: %s\r\n", key);
  if (upgrade) {
    opening_len = snprintf(opening, sizeof opening, "GET %s HTTP/1.1\r\nHost: localhost:%d\r\n%sConnection: Upgrade\r\nUpgrade: websocket\r\n"
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path, port, auth);
    // A binary frame, masked with zeros: valid, and costs the load and the backend little.
    message[0] = (char)0x82;
    message[1] = (char)(0x80 | (size < 126 ? size : 126));
    message[2] = (char)(size >> 8);
    message[3] = (char)size;
    message_len = size < 126 ? 6 : 8;
    if (size < 126) message[2] = message[3] = 0;
  } else {
    if (mode == HTTP) // without the query and without a body: what opens a connection is small
      opening_len = snprintf(opening, sizeof opening, "GET %.*s HTTP/1.1\r\nHost: localhost:%d\r\n%s\r\n", (int)strcspn(path, "?"), path, port, auth);
    message_len = snprintf(message, sizeof message, "%s %s HTTP/1.1\r\nHost: localhost:%d\r\n%s%s\r\n", *length ? "POST" : "GET", path, port, auth, length);
  }
  memset(payload, 'a', sizeof payload);
  if (!tls) return;
  ctx = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
  SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256"); // one suite and group: all do the same crypto
  SSL_CTX_set1_groups_list(ctx, "X25519");
  SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\x08http/1.1", 9);
  SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  if (mode == IDLE) SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS); // thousands of them, with nothing in
  else SSL_CTX_set_read_ahead(ctx, 1); // one read of a record where there would be two: the load must not be what is slow
  if (!resume_) return;
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(ctx, keep_session);
}

static double told_to_go(void) { // what was before does not count, but for errors
  char go[8];
  printf("ready\n");
  fflush(stdout);
  if (!fgets(go, sizeof go, stdin)) exit(1);
  sent_bytes = read_bytes = refused = 0;
  return began = now();
}

static void run(void) {
  double t0 = now();
  if (mode == HS) t0 = told_to_go();
  while (started < conns && (started < AT_ONCE || mode == HS)) more();
  if (mode == FIRST) {
    while (!done && now() < t0 + secs) wait_and_move(t0 + secs);
    return;
  }
  if (mode == HS) {
    while (count ? done + errors < count : now() < t0 + secs) wait_and_move(count ? now() + 1 : t0 + secs);
    return;
  }
  while (ready < conns && now() < t0 + 60) wait_and_move(now() + 1);
  if (mode == IDLE) return;
  if (watched >= 0) watch_cores(watched);
  t0 = told_to_go();
  if (!rate) {
    while (nidle) begin(idle[--nidle], 0);
    while (now() < t0 + secs) wait_and_move(t0 + secs);
    return;
  }
  long sent = 0, total = (long)(rate * secs);
  while (done + errors < total && now() < t0 + secs + 5) {
    double due = t0 + sent / rate, t = now();
    if (nidle && sent < total && due <= t) {
      if (t - due > late) late = t - due;
      sent++;
      begin(idle[--nidle], due);
    } else
      wait_and_move(nidle && sent < total ? due : t + 0.2);
  }
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_TIMERSLACK, 1);
  if (argc > 3 && !strcmp(argv[1], "stamp")) {
    FILE *f = fopen(argv[2], "w");
    if (!f) { perror(argv[2]); return 1; }
    fprintf(f, "%.6f\n", now());
    fclose(f);
    execvp(argv[3], argv + 3);
    perror(argv[3]);
    return 1;
  }
  static const char *modes[] = {"http", "ws", "hs", "idle", "first"};
  int m = 0;
  while (m < 5 && (argc < 2 || strcmp(argv[1], modes[m]))) m++;
  if (m == 5) { fprintf(stderr, "usage: client http|ws|hs|idle|first --port P ...\n"); return 2; }
  mode = m;
  for (int i = 2; i + 1 < argc; i += 2) {
    const char *k = argv[i] + 2, *v = argv[i + 1];
    if (!strcmp(k, "port")) port = atoi(v);
    else if (!strcmp(k, "tls")) tls = atoi(v);
    else if (!strcmp(k, "path")) path = v;
    else if (!strcmp(k, "auth")) key = v;
    else if (!strcmp(k, "conns")) conns = atoi(v);
    else if (!strcmp(k, "secs")) secs = atof(v);
    else if (!strcmp(k, "rate")) rate = atof(v);
    else if (!strcmp(k, "count")) count = atol(v);
    else if (!strcmp(k, "size")) size = atol(v);
    else if (!strcmp(k, "resume")) resume_ = atoi(v);
    else if (!strcmp(k, "watch")) watched = atoi(v);
    else { fprintf(stderr, "client: what is --%s?\n", k); return 2; }
  }
  if (mode == FIRST) conns = 1;
  upgrade = mode == WS || (mode == IDLE && size);
  prepare();
  ep = epoll_create1(0);
  all = calloc(conns, sizeof *all);
  idle = calloc(conns, sizeof *idle);
  room = rate ? (long)(rate * secs) : 0;
  latency = calloc(room + 1, sizeof *latency);
  answered = calloc(room + 1, sizeof *answered);
  began = now();
  run();
  double end = now();
  end_watch();
  sort_out();
  printf("{\"done\":%ld,\"errors\":%ld,\"refused\":%ld,\"secs\":%.6f,\"at\":%.6f,\"full\":%ld,\"resumed\":%ld,\"sent\":%ld,\"read\":%ld",
         done, errors, refused, end - began, end, full, resumed, sent_bytes, read_bytes);
  if (rate) printf(",\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f,\"late_us\":%.1f,\"unseen\":%ld", part(.5), part(.99), part(.999), part(1), late * 1e6, unseen);
  printf("}\n");
  fflush(stdout);
  if (mode == IDLE) while (read(0, scratch, 8) > 0);
  return 0;
}

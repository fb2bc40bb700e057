// One connection of the load: opened, asked, answered, without ever blocking. Used by client.c alone.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum state { CLOSED, CONNECTING, SHAKING, SENDING, RECEIVING, QUIET };
enum { ADDRESSES = 50, HEAD = 4096, SCRATCH = 256 * 1024, AT_ONCE = 64 };

typedef struct {
  int fd, opened, head_read; // opened: what follows are messages, no longer the upgrade
  enum state state;
  SSL *ssl;
  uint32_t armed;
  size_t sent, have;   // of what is sent; of the head that is read
  long left;           // of the body, or of the echo, that is still to come
  double due;
  char head[HEAD];
} conn;

static enum { HTTP, WS, HS, IDLE, FIRST } mode;
static int port, tls = 1, conns = 32, resume_, upgrade;
static long size, count;
static double secs = 5, rate;
static const char *path = "/", *key = "";

static char opening[2048], message[2048]; // the upgrade; the head of a request or of a frame
static size_t opening_len, message_len;
static char scratch[SCRATCH], payload[SCRATCH];
static SSL_CTX *ctx;
static SSL_SESSION *session;
static int ep, started, ready, nidle;
static unsigned address;
static conn *all, **idle;
static long done, errors, refused, full, resumed, sent_bytes, read_bytes;
static double *latency, late, began;
static long nlatency, room;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static int keep_session(SSL *s, SSL_SESSION *fresh) {
  (void)s;
  if (session) SSL_SESSION_free(session);
  session = fresh;
  return 1;
}

static void arm(conn *c, uint32_t events) {
  if (c->armed == events) return;
  struct epoll_event ev = {.events = events, .data.ptr = c};
  epoll_ctl(ep, c->armed ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &ev);
  c->armed = events;
}

static void start(conn *c) {
  int one = 1;
  memset(c, 0, offsetof(conn, head));
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  c->state = CONNECTING;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(c->fd, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &one, sizeof one);
  // Many addresses, so that there are ports enough and no client looks like a thousand.
  struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000101 + address++ % ADDRESSES)};
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (c->fd < 0 || bind(c->fd, (void *)&from, sizeof from)) { perror("client"); exit(1); }
  connect(c->fd, (void *)&to, sizeof to); // how it went is asked for when epoll says so
  if (tls) {
    c->ssl = SSL_new(ctx);
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_tlsext_host_name(c->ssl, "localhost");
    SSL_set_connect_state(c->ssl);
    if (resume_ && session) SSL_set_session(c->ssl, session);
  }
  arm(c, EPOLLOUT);
}

static void finish(conn *c, int well) {
  if (c->ssl) {
    if (well) SSL_shutdown(c->ssl);
    SSL_free(c->ssl);
  }
  close(c->fd);
  c->state = CLOSED;
}

static int blocked(conn *c, int r) { // the call did nothing, and may be made again
  if (!tls) return r < 0 && errno == EAGAIN;
  int e = SSL_get_error(c->ssl, r);
  return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE;
}

static int put(conn *c) { // 1 all sent, 0 blocked, -1 dead
  int first = opening_len && !c->opened;
  const char *head = first ? opening : message;
  size_t head_len = first ? opening_len : message_len;
  long body = first || mode == IDLE ? 0 : size;
  for (;;) {
    const char *from;
    size_t n, at = c->sent;
    if (at < head_len) { // what fits goes out with its body, in one write
      from = head + at;
      n = head_len - at;
      if (body && body <= SCRATCH - (long)sizeof message) {
        memcpy(scratch, from, n);
        memcpy(scratch + n, payload, body);
        from = scratch;
        n += body;
      }
    } else {
      from = payload;
      n = body - (long)(at - head_len);
      if (!n) return 1;
      if (n > SCRATCH) n = SCRATCH;
    }
    int r = tls ? SSL_write(c->ssl, from, n) : (int)send(c->fd, from, n, MSG_NOSIGNAL);
    if (r <= 0) return blocked(c, r) ? 0 : -1;
    c->sent += r;
    sent_bytes += r;
    if (c->sent == head_len + body) return 1;
  }
}

static int get(conn *c, char *into, size_t n) { // bytes, 0 blocked, -1 dead
  int r = tls ? SSL_read(c->ssl, into, n) : (int)recv(c->fd, into, n, 0);
  if (r > 0) read_bytes += r;
  return r > 0 ? r : blocked(c, r) ? 0 : -1;
}

static int echo(conn *c) { // the frame that comes back, unmasked: 1 whole, 0 more, -1 dead
  while (c->left) {
    int r = get(c, scratch, c->left);
    if (r <= 0) return r;
    if (c->left == size + (size < 126 ? 2 : 4) && (unsigned char)scratch[0] != 0x82) return -1;
    c->left -= r;
  }
  return 1;
}

static int answer(conn *c) { // 1 whole, 0 more, -1 dead
  for (;;) {
    if (c->head_read && c->left <= 0) return 1;
    char *into = c->head_read ? scratch : c->head + c->have;
    int r = get(c, into, c->head_read ? SCRATCH : HEAD - 1 - c->have);
    if (r <= 0) return r;
    if (c->head_read) {
      c->left -= r;
      continue;
    }
    c->have += r;
    c->head[c->have] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) continue;
    int status = atoi(c->head + 9);
    if (status != (upgrade ? 101 : 200)) {
      refused++;
      if (mode == FIRST) return -1;
    }
    *end = 0;
    c->left = 0;
    for (char *l = strstr(c->head, "\r\n"); l; l = strstr(l + 2, "\r\n"))
      if (!strncasecmp(l + 2, "content-length:", 15)) c->left = atol(l + 17);
    c->left -= c->have - (end + 4 - c->head);
    c->head_read = 1;
  }
}

static int step(conn *c) { // until it blocks: 1 an answer is there, 0 blocked, -1 dead
  if (c->state == CONNECTING) {
    int e = 0;
    socklen_t l = sizeof e;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &l);
    if (e) return -1;
    c->state = tls ? SHAKING : SENDING;
  }
  if (c->state == SHAKING) {
    int r = SSL_do_handshake(c->ssl);
    if (r != 1) {
      if (!blocked(c, r)) return -1;
      arm(c, SSL_want_write(c->ssl) ? EPOLLOUT : EPOLLIN);
      return 0;
    }
    if (SSL_session_reused(c->ssl)) resumed++; else full++;
    c->state = SENDING;
  }
  if (c->state == SENDING) {
    int r = put(c);
    if (r <= 0) {
      if (!r) arm(c, EPOLLOUT);
      return r;
    }
    c->state = RECEIVING;
    c->have = c->head_read = 0;
    c->left = size + (size < 126 ? 2 : 4);
    arm(c, EPOLLIN);
    return 0;
  }
  if (c->state == RECEIVING) {
    int r = mode == WS && c->opened ? echo(c) : answer(c);
    if (r == 1) c->state = QUIET;
    return r;
  }
  // Quiet: tickets, pings, or its end.
  int r = get(c, scratch, SCRATCH);
  return r < 0 ? -1 : 0;
}


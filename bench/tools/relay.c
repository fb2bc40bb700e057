// The floor: what a relay must do at least, and nothing else. One thread, epoll.
//
//   relay PORT BACKEND [CERT KEY]
//
// Without CERT: bytes are copied both ways. With CERT: TLS 1.3 is ended here and the
// plaintext copied. No HTTP is parsed; each client connection has its own backend one.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct pair pair;
typedef struct { pair *p; int fd; uint32_t ev; char *buf; int n, off; } side; // buf: bytes read HERE, to be written to the other side
struct pair { side s[2]; SSL *ssl; int dead; pair *next; };
#define BUF 16384
static int ep; static SSL_CTX *ctx; static pair *grave; static char scratch[BUF];

static void arm(side *s, uint32_t e) {
  if (s->ev == e) return;
  struct epoll_event ev = {.events = e, .data.ptr = s};
  epoll_ctl(ep, s->ev ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, s->fd, &ev); s->ev = e;
}
static int rd(side *s, char *b) {
  SSL *ssl = s == &s->p->s[0] ? s->p->ssl : NULL;
  if (!ssl) { int r = recv(s->fd, b, BUF, 0); return r > 0 ? r : r < 0 && errno == EAGAIN ? 0 : -1; }
  int r = SSL_read(ssl, b, BUF); if (r > 0) return r;
  int e = SSL_get_error(ssl, r); return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE ? 0 : -1;
}
static int wr(side *s, const char *b, int n) {
  SSL *ssl = s == &s->p->s[0] ? s->p->ssl : NULL;
  if (!ssl) { int r = send(s->fd, b, n, MSG_NOSIGNAL); return r >= 0 ? r : errno == EAGAIN ? 0 : -1; }
  int r = SSL_write(ssl, b, n); if (r > 0) return r;
  int e = SSL_get_error(ssl, r); return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE ? 0 : -1;
}
static void kill_pair(pair *p) {
  if (p->dead) return;
  p->dead = 1; if (p->ssl) { SSL_shutdown(p->ssl); SSL_free(p->ssl); }
  close(p->s[0].fd); close(p->s[1].fd); free(p->s[0].buf); free(p->s[1].buf);
  p->next = grave; grave = p;
}
static int pump(side *from) { // copy from -> other until something blocks; -1 dead
  side *to = &from->p->s[from == &from->p->s[0]];
  if (from->n) {
    int w = wr(to, from->buf + from->off, from->n);
    if (w < 0) return -1;
    from->off += w; from->n -= w;
    if (from->n) return 0;
    free(from->buf); from->buf = NULL;
    arm(to, EPOLLIN); arm(from, EPOLLIN);
  }
  int ends_tls = from->p->ssl && from == &from->p->s[0];
  for (int i = 0; i < 4 || ends_tls; i++) {
    int r = rd(from, scratch);
    if (r < 0) return -1;
    if (!r) return 0;
    int w = wr(to, scratch, r);
    if (w < 0) return -1;
    if (w < r) { from->buf = malloc(r - w); memcpy(from->buf, scratch + w, r - w); from->n = r - w; from->off = 0; arm(from, EPOLLRDHUP); arm(to, EPOLLIN | EPOLLOUT); return 0; }
    if (r < BUF && !from->p->ssl) return 0;
    if (ends_tls && !SSL_pending(from->p->ssl)) return 0;
    if (from == &from->p->s[1] && r < BUF) return 0;
  }
  return 0;
}
int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc < 3) return 2;
  int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), back = atoi(argv[2]);
  if (argc > 4) {
    ctx = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    if (SSL_CTX_use_certificate_chain_file(ctx, argv[3]) != 1 || SSL_CTX_use_PrivateKey_file(ctx, argv[4], SSL_FILETYPE_PEM) != 1) return 1;
  }
  setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(l, (void *)&a, sizeof a) || listen(l, 4096)) { perror("bind"); return 1; }
  a.sin_port = htons(back);
  ep = epoll_create1(0);
  struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL}, evs[256];
  epoll_ctl(ep, EPOLL_CTL_ADD, l, &ev);
  for (;;) {
    int k = epoll_wait(ep, evs, 256, -1);
    for (int i = 0; i < k; i++) {
      side *s = evs[i].data.ptr; int fd;
      if (!s) {
        while ((fd = accept4(l, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          pair *p = calloc(1, sizeof *p);
          int b = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); setsockopt(b, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          connect(b, (void *)&a, sizeof a);
          p->s[0] = (side){.p = p, .fd = fd}; p->s[1] = (side){.p = p, .fd = b};
          if (ctx) { p->ssl = SSL_new(ctx); SSL_set_fd(p->ssl, fd); SSL_set_accept_state(p->ssl); }
          arm(&p->s[0], EPOLLIN); arm(&p->s[1], EPOLLIN);
        }
        continue;
      }
      pair *p = s->p;
      if (p->dead) continue;
      side *o = &p->s[s == &p->s[0]];
      int bad = 0;
      if (evs[i].events & EPOLLOUT && o->n) bad = pump(o) < 0;
      if (!bad && evs[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) bad = s->n ? (evs[i].events & (EPOLLHUP | EPOLLERR)) != 0 : pump(s) < 0;
      if (bad) kill_pair(p);
    }
    while (grave) { pair *p = grave; grave = p->next; free(p); }
  }
}

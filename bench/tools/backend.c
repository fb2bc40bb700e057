// The backend of all: one thread, epoll, HTTP/1.1 with kept connections, no TLS, as cheap as can be.
//
//   backend PORT
//
// By what the path holds:
//   "/big?N"   a body of N MiB
//   "/echo"    the head of the request as it came here, as text
//   "/ws"      a WebSocket (RFC 6455) that echoes frames of up to 16,000 bytes
//   else       600 bytes of JSON; a body of a request is read and dropped
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define IN 16384
#define CHUNK (256 * 1024)
typedef struct {
  int fd, ws, chunked, owe, wantout, close_after; // owe: answer JSON once the body is in
  size_t n;          // bytes in buf
  long skip;         // request body bytes still to drop
  long big;          // response body bytes still to send
  char *out; size_t outn, outoff; // response head or echo still to send
  char buf[IN + 1];
} conn;

static char json_resp[1024]; static size_t json_len;
static char fill[CHUNK];
static int ep;

static void drop(conn *c) { close(c->fd); free(c->out); free(c); }

static void want(conn *c, int out) {
  if (c->wantout == out) return;
  c->wantout = out;
  struct epoll_event ev = {.events = out ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
  epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev);
}

static int flush_out(conn *c) { // -1 dead, 0 blocked, 1 all sent
  while (c->outoff < c->outn) {
    ssize_t w = send(c->fd, c->out + c->outoff, c->outn - c->outoff, MSG_NOSIGNAL);
    if (w < 0) { if (errno == EAGAIN) { want(c, 1); return 0; } return -1; }
    c->outoff += w;
  }
  c->outn = c->outoff = 0;
  while (c->big > 0) {
    size_t k = c->big > CHUNK ? CHUNK : (size_t)c->big;
    ssize_t w = send(c->fd, fill, k, MSG_NOSIGNAL);
    if (w < 0) { if (errno == EAGAIN) { want(c, 1); return 0; } return -1; }
    c->big -= w;
  }
  want(c, 0);
  return c->close_after ? -1 : 1;
}

static void put(conn *c, const char *p, size_t n) {
  c->out = realloc(c->out, c->outn + n);
  memcpy(c->out + c->outn, p, n);
  c->outn += n;
}

static char *header(char *head, const char *name) { // value start or NULL
  size_t l = strlen(name);
  for (char *p = strstr(head, "\r\n"); p; p = strstr(p + 2, "\r\n"))
    if (!strncasecmp(p + 2, name, l) && p[2 + l] == ':') {
      p += 3 + l;
      while (*p == ' ') p++;
      return p;
    }
  return NULL;
}

static void answer(conn *c) {
  ssize_t w = c->outn ? 0 : send(c->fd, json_resp, json_len, MSG_NOSIGNAL);
  if (w < 0) w = 0;
  if ((size_t)w < json_len) put(c, json_resp + w, json_len - w);
}

static int request(conn *c, char *head, size_t len) {
  char save = head[len]; head[len] = 0;
  char *sp = strchr(head, ' '), *path = sp ? sp + 1 : head;
  size_t pl = strcspn(path, " ");
  char *v = header(head, "content-length");
  c->skip = v ? atol(v) : 0;
  v = header(head, "transfer-encoding");
  c->chunked = v && !strncasecmp(v, "chunked", 7);
  v = header(head, "connection");
  c->close_after = v && !strncasecmp(v, "close", 5);
  char *key = header(head, "sec-websocket-key");
  char pth[512]; if (pl > 511) pl = 511; memcpy(pth, path, pl); pth[pl] = 0;
  char h[512]; int n, r = 0;
  if (key && strstr(pth, "/ws")) {
    char k[128]; size_t kl = strcspn(key, "\r\n "); if (kl > 60) kl = 60;
    memcpy(k, key, kl); strcpy(k + kl, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    unsigned char sha[20]; char b64[40];
    SHA1((unsigned char *)k, strlen(k), sha);
    EVP_EncodeBlock((unsigned char *)b64, sha, 20);
    n = snprintf(h, sizeof h, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", b64);
    put(c, h, n); c->ws = 1; c->close_after = 0;
  } else if (strstr(pth, "/big?")) {
    c->big = atol(strchr(pth, '?') + 1) << 20;
    n = snprintf(h, sizeof h, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %ld\r\n\r\n", c->big);
    put(c, h, n); r = 1;
  } else if (strstr(pth, "/echo")) {
    n = snprintf(h, sizeof h, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", len);
    put(c, h, n); put(c, head, len);
  } else if (c->skip || c->chunked) c->owe = 1;
  else answer(c);
  head[len] = save;
  return r;
}

static int ws_frames(conn *c) { // answers every whole frame; -1: that was the last one
  size_t off = 0, end = c->n;
  int r = 0;
  while (r == 0 && end - off >= 6) {
    unsigned char *b = (unsigned char *)c->buf + off;
    size_t l = b[1] & 127, h = 2;
    if (!(b[1] & 128) || l == 127) return -1;
    if (l == 126) { l = b[2] << 8 | b[3]; h = 4; }
    if (l > 16000) return -1;
    if (end - off < h + 4 + l) break;
    unsigned char *mask = b + h, *body = mask + 4;
    int op = b[0] & 15;
    // The echo overwrites what came: its head right before the payload, the mask is no longer needed.
    if (mask[0] | mask[1] | mask[2] | mask[3]) {
      unsigned char m[4];
      memcpy(m, mask, 4);
      for (size_t i = 0; i < l; i++) body[i] ^= m[i % 4];
    }
    unsigned char first = op == 9 ? 0x8a : b[0], *o = body - h;
    if (h == 4) { o[2] = l >> 8; o[3] = l; }
    o[1] = h == 4 ? 126 : l;
    o[0] = first;
    ssize_t w = c->outn ? 0 : send(c->fd, o, h + l, MSG_NOSIGNAL);
    if (w < 0) w = 0;
    if ((size_t)w < h + l) put(c, (char *)o + w, h + l - w);
    if (op == 8) r = -1;
    off += h + 4 + l;
  }
  memmove(c->buf, c->buf + off, c->n = end - off);
  return r;
}

static int feed(conn *c) {
  if (c->ws) return ws_frames(c);
  size_t off = 0;
  while (off < c->n && !c->big) {
    size_t left = c->n - off;
    if (c->skip) { size_t k = (size_t)c->skip < left ? (size_t)c->skip : left; c->skip -= k; off += k; if (!c->skip && c->owe) { c->owe = 0; answer(c); } continue; }
    if (c->chunked) { // drop until the last chunk
      char *e = memmem(c->buf + off, left, "0\r\n\r\n", 5);
      if (!e) { size_t keep = left < 4 ? left : 4; off = c->n - keep; break; }
      off = e + 5 - c->buf; c->chunked = 0; if (c->owe) { c->owe = 0; answer(c); } continue;
    }
    char *e = memmem(c->buf + off, left, "\r\n\r\n", 4);
    if (!e) { if (left >= IN) return -1; break; }
    size_t len = e + 4 - (c->buf + off);
    request(c, c->buf + off, len);
    off += len;
    if (c->ws) break;
  }
  memmove(c->buf, c->buf + off, c->n - off); c->n -= off;
  return 0;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc < 2) return 2;
  char body[601]; int n = snprintf(body, sizeof body, "{\"visitors\":[");
  for (int i = 0; n < 540; i++) n += snprintf(body + n, sizeof body - n, "%s{\"id\":\"v%06d\",\"name\":\"Visitor %d\"}", i ? "," : "", i, i);
  n += snprintf(body + n, sizeof body - n, "],\"p\":\"");
  while (n < 598) body[n++] = 'x';
  body[598] = '"'; body[599] = '}';
  json_len = snprintf(json_resp, sizeof json_resp, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: 600\r\n\r\n");
  memcpy(json_resp + json_len, body, 600); json_len += 600;
  memset(fill, 'a', sizeof fill);
  int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(l, (void *)&a, sizeof a) || listen(l, 4096)) { perror("bind"); return 1; }
  ep = epoll_create1(0);
  struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL}, evs[256];
  epoll_ctl(ep, EPOLL_CTL_ADD, l, &ev);
  for (;;) {
    int k = epoll_wait(ep, evs, 256, -1);
    for (int i = 0; i < k; i++) {
      conn *c = evs[i].data.ptr;
      if (!c) {
        int fd;
        while ((fd = accept4(l, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          conn *x = calloc(1, sizeof *x); x->fd = fd;
          ev = (struct epoll_event){.events = EPOLLIN, .data.ptr = x};
          epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
        }
        continue;
      }
      int dead = 0;
      if (evs[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && c->n < IN) {
        // A body that is only dropped is not even copied.
        int drops = c->skip > IN && !c->n;
        ssize_t r = drops ? recv(c->fd, NULL, c->skip - IN > 1 << 20 ? 1 << 20 : c->skip - IN, MSG_TRUNC) : recv(c->fd, c->buf + c->n, IN - c->n, 0);
        if (r == 0 || (r < 0 && errno != EAGAIN)) dead = 1;
        else if (r > 0 && drops) c->skip -= r;
        else if (r > 0) { c->n += r; if (feed(c) < 0) dead = 1; }
      }
      if (!dead && (c->outn || c->big || (evs[i].events & EPOLLOUT) || (c->close_after && !c->owe))) {
        int f = flush_out(c);
        if (f < 0) dead = 1;
        else if (f == 1 && c->n && feed(c) < 0) dead = 1;
      }
      if (dead) drop(c);
    }
  }
}

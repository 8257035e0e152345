/*
 * The yardstick of `deno task bench`: an echo server on one core, as plain and
 * as fast as C makes it. It is no tool: it has no limits, no log, no end.
 *
 *     echo tcp|udp ADDRESS    prints the port that it listens on
 *
 * ADDRESS is IPv6; ::ffff:127.0.0.1 is IPv4's. Linux only: epoll.
 */
#define _GNU_SOURCE /* accept4 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST_EVENTS 512
#define LARGEST 65536

/* What of the bytes in its buffer has not gone back has to wait for room.
 * Memory that a buffer does not use costs nothing. */
struct connection {
  int fd;
  size_t length, sent;
  char buffer[LARGEST];
};

static int poller;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static int open_server(int type, const char *address) {
  struct sockaddr_in6 at = {.sin6_family = AF_INET6};
  socklen_t length = sizeof at;
  int server = socket(AF_INET6, type, 0);
  if (server < 0) fail("error: no socket");
  if (inet_pton(AF_INET6, address, &at.sin6_addr) != 1) fail(address);
  if (bind(server, (void *)&at, sizeof at) < 0) fail("error: cannot bind");
  if (type == SOCK_STREAM) listen(server, 4096);
  getsockname(server, (void *)&at, &length);
  printf("%d\n", ntohs(at.sin6_port));
  fflush(stdout);
  return server;
}

static void wait_for(int operation, struct connection *it, unsigned events) {
  struct epoll_event wanted = {.events = events, .data.ptr = it};
  epoll_ctl(poller, operation, it->fd, &wanted);
}

/* Sends back what is there. Returns whether the connection goes on. */
static int send_back(struct connection *it) {
  while (it->sent < it->length) {
    char *rest = it->buffer + it->sent;
    ssize_t n = send(it->fd, rest, it->length - it->sent, MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN;
    it->sent += n;
  }
  return 1;
}

static int serve(struct connection *it) {
  int waited = it->sent < it->length;
  if (!waited) {
    ssize_t n = recv(it->fd, it->buffer, LARGEST, MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return 0;
    it->length = n;
    it->sent = 0;
  }
  if (!send_back(it)) return 0;
  int waits = it->sent < it->length;
  if (waits != waited) wait_for(EPOLL_CTL_MOD, it, waits ? EPOLLOUT : EPOLLIN);
  return 1;
}

static void accept_all(int server) {
  int yes = 1;
  int fd;
  while ((fd = accept4(server, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
    struct connection *it = malloc(sizeof *it);
    it->fd = fd;
    it->length = 0;
    it->sent = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    wait_for(EPOLL_CTL_ADD, it, EPOLLIN);
  }
}

static void echo_tcp(int server) {
  struct epoll_event ready[MOST_EVENTS];
  struct epoll_event wanted = {.events = EPOLLIN};
  epoll_ctl(poller, EPOLL_CTL_ADD, server, &wanted);
  for (;;) {
    int events = epoll_wait(poller, ready, MOST_EVENTS, -1);
    for (int i = 0; i < events; i++) {
      struct connection *it = ready[i].data.ptr;
      if (it == NULL) {
        accept_all(server);
      } else if (!serve(it)) {
        close(it->fd);
        free(it);
      }
    }
  }
}

static void echo_udp(int server) {
  static char buffer[LARGEST];
  for (;;) {
    struct sockaddr_in6 from;
    socklen_t size = sizeof from;
    ssize_t n = recvfrom(server, buffer, LARGEST, 0, (void *)&from, &size);
    if (n >= 0) sendto(server, buffer, n, 0, (void *)&from, size);
  }
}

int main(int argc, char **argv) {
  if (argc != 3) {
    puts("usage: echo tcp|udp ADDRESS");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  int is_udp = !strcmp(argv[1], "udp");
  int server = open_server(is_udp ? SOCK_DGRAM : SOCK_STREAM, argv[2]);
  if (is_udp) echo_udp(server);
  fcntl(server, F_SETFL, O_NONBLOCK);
  poller = epoll_create1(0);
  echo_tcp(server);
}

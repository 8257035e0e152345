/*
 * The load that `deno task bench` puts on an echo server of this machine: messages go out, come back, are compared with
 * what was sent, and are counted. In C, because a generator in JavaScript would cost as much as the servers it measures.
 *
 *     load tcp PORT CONNECTIONS BYTES SECONDS    each connection sends a message when the one before it is back
 *     load udp PORT WINDOW BYTES SECONDS         so many datagrams are under way at a time
 *
 * Prints how many messages came back in that time, how many were lost, the seconds it took, and those of processor time
 * that this program used of them: where the two are alike, it is the generator that was measured. Linux only: epoll.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static size_t bytes;           /* in a message */
static char *message, *answer; /* what goes out, and room for what comes back */
static volatile sig_atomic_t over;
static double began, used; /* seconds: when, and of processor time; once it is over, how many of each it took */

static double seconds_by(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

/* The first alarm ends the measurement, the second one the wait for what does not come. */
static void finish(int signal) {
  (void)signal;
  if (over++) return;
  began = seconds_by(CLOCK_MONOTONIC) - began;
  used = seconds_by(CLOCK_PROCESS_CPUTIME_ID) - used;
}

static void begin(double seconds) {
  struct itimerval timer = {.it_interval = {.tv_sec = 5}};
  timer.it_value.tv_sec = (time_t)seconds;
  timer.it_value.tv_usec = (suseconds_t)((seconds - (time_t)seconds) * 1e6);
  began = seconds_by(CLOCK_MONOTONIC);
  used = seconds_by(CLOCK_PROCESS_CPUTIME_ID);
  setitimer(ITIMER_REAL, &timer, NULL);
}

static void fail(const char *what) {
  if (errno) fprintf(stderr, "%s: %s\n", what, strerror(errno));
  else fprintf(stderr, "%s\n", what);
  exit(1);
}

static int open_socket(int type, int port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, type, 0), yes = 1;
  if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0) fail("cannot connect");
  if (type == SOCK_STREAM) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  return fd;
}

/* A connection: how far its message has gone out, and come back. */
struct connection {
  int fd, waits_for_room;
  size_t sent, received;
};

/* Sends what the kernel takes; epoll tells when it takes more. */
static void push(int poller, struct connection *c) {
  ssize_t n = send(c->fd, message + c->sent, bytes - c->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n < 0 && errno != EAGAIN) fail("cannot send");
  if (n > 0) c->sent += n;
  int waits = c->sent < bytes;
  if (waits == c->waits_for_room) return;
  c->waits_for_room = waits;
  struct epoll_event wanted = {.events = EPOLLIN | (c->waits_for_room ? EPOLLOUT : 0), .data.ptr = c};
  epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &wanted);
}

/* Receives what is there. Whether the message is now back in full. */
static int pull(struct connection *c) {
  ssize_t n = recv(c->fd, answer, bytes - c->received, MSG_DONTWAIT);
  if (n < 0 && errno == EAGAIN) return 0;
  if (n < 0) fail("cannot receive");
  if (n == 0) errno = 0, fail("the server closed the connection");
  if (memcmp(answer, message + c->received, n)) errno = 0, fail("what came back is not what was sent");
  c->received += n;
  return c->received == bytes;
}

/* Returns how many messages came back in time. Those still under way then are waited for: a close would be a reset. */
static long load_tcp(int port, int count, double seconds) {
  struct connection *all = calloc(count, sizeof *all);
  struct epoll_event *ready = calloc(count, sizeof *ready);
  int poller = epoll_create1(0), open = count;
  long back = 0;
  for (struct connection *c = all; c < all + count; c++) {
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
    c->fd = open_socket(SOCK_STREAM, port);
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &wanted);
  }
  begin(seconds);
  for (struct connection *c = all; c < all + count; c++) push(poller, c);
  while (open) {
    if (over > 1) errno = 0, fail("no answer");
    int n = epoll_wait(poller, ready, count, -1);
    for (int i = 0; i < n; i++) {
      struct connection *c = ready[i].data.ptr;
      if (ready[i].events & ~EPOLLOUT && pull(c)) {
        c->sent = c->received = 0;
        if (over) close(c->fd), open--;
        else back++, push(poller, c);
      } else if (c->waits_for_room) {
        push(poller, c);
      }
    }
  }
  free(all), free(ready);
  return back;
}

/* The same over UDP. After 100 ms of silence, what is under way is taken for lost, and new datagrams are sent. */
static long load_udp(int port, int window, double seconds, long *lost) {
  struct timeval silence = {.tv_usec = 100 * 1000};
  int fd = open_socket(SOCK_DGRAM, port);
  long back = 0, under_way = 0;
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);
  begin(seconds);
  while (!over || under_way) {
    while (!over && under_way < window) {
      if (send(fd, message, bytes, 0) < 0) fail("cannot send");
      under_way++;
    }
    ssize_t n = recv(fd, answer, bytes + 1, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) fail("cannot receive");
    if (n < 0) {
      *lost += under_way, under_way = 0;
      continue;
    }
    if ((size_t)n < bytes) errno = 0, fprintf(stderr, "cut to %zd bytes\n", n), exit(1);
    if (memcmp(answer, message, bytes)) errno = 0, fail("what came back is not what was sent");
    if (under_way) under_way--;
    if (!over) back++;
  }
  return back;
}

int main(int argc, char **argv) {
  if (argc != 6) return puts("usage: load tcp|udp PORT COUNT BYTES SECONDS"), argc == 1 ? 0 : 2;
  int udp = !strcmp(argv[1], "udp"), port = atoi(argv[2]), count = atoi(argv[3]);
  double seconds = atof(argv[5]);
  long lost = 0, back;
  bytes = strtoul(argv[4], NULL, 10);
  message = malloc(bytes + 1), answer = malloc(bytes + 1);
  for (size_t i = 0; i < bytes; i++) message[i] = (char)(33 + i % 94);
  struct sigaction action = {.sa_handler = finish}; /* no SA_RESTART: what waits has to wake up */
  sigaction(SIGALRM, &action, NULL);
  alarm(5); /* for connecting */
  back = udp ? load_udp(port, count, seconds, &lost) : load_tcp(port, count, seconds);
  printf("%ld %ld %f %f\n", back, lost, began, used);
  return 0;
}

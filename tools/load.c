/*
 * The load that `deno task bench` puts on an echo server of this machine.
 * Messages go out, come back, and are compared with what was sent. This is C
 * because a load made in JavaScript would cost as much as what it measures.
 *
 *     load tcp PORT CONNECTIONS BYTES SECONDS IDLE
 *         Each connection sends a message when the one before it is back.
 *         IDLE more connections are open, and nothing happens on them.
 *     load connect PORT CONNECTIONS BYTES SECONDS 0
 *         The same, but each message goes over a connection of its own.
 *     load udp PORT PEERS BYTES SECONDS WINDOW
 *         So many datagrams are under way, sent by the peers in turn.
 *
 * Prints a JSON object: how many messages came back, how many datagrams were
 * lost, how many seconds it took, the share of a processor that this program
 * used, and percentiles of the round trips over TCP, in milliseconds.
 * Linux only: epoll.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST_EVENTS 1024
#define PATIENCE 5000 /* milliseconds until a server is given up */
#define SILENCE 100   /* milliseconds until datagrams are taken for lost */

/* One end of the exchange: how far its message has gone, and come back. */
struct peer {
  int fd, waits_for_room;
  size_t sent, received;
  double started;
};

static int type, reconnects, port, count, extra; /* the command line */
static size_t bytes;
static double seconds;

static char *message; /* what goes out */
static char *answer;  /* room for what comes back */
static int poller, over;
static double began, took, busy;
static long lost;
static double *times; /* of the round trips, in milliseconds */
static size_t messages, room;

static double read_clock(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char *what, int error) {
  if (error) fprintf(stderr, "%s: %s\n", what, strerror(error));
  else fprintf(stderr, "%s\n", what);
  exit(1);
}

static void begin(void) {
  began = read_clock(CLOCK_MONOTONIC);
  busy = read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

/* Counts a round trip, and looks at the clock: at least one is counted. */
static void record(double started) {
  if (over) return;
  if (messages == room) {
    room = room ? 2 * room : 65536;
    times = realloc(times, room * sizeof *times);
  }
  double now = read_clock(CLOCK_MONOTONIC);
  times[messages++] = 1000 * (now - started);
  if (now < began + seconds) return;
  over = 1;
  took = now - began;
  busy = (read_clock(CLOCK_PROCESS_CPUTIME_ID) - busy) / took;
}

/* A port is taken for a minute after a connection closed. Thousands of them
 * are needed, so that the connections come from many loopback addresses. */
static void open_socket(struct peer *peer) {
  static unsigned opened;
  struct sockaddr_in from = {.sin_family = AF_INET};
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + ++opened % 250);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int yes = 1;
  int fd = socket(AF_INET, type, 0);
  if (fd < 0) fail("cannot open a socket", errno);
  setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
  if (bind(fd, (void *)&from, sizeof from) < 0) fail("cannot bind", errno);
  if (connect(fd, (void *)&to, sizeof to) < 0) fail("cannot connect", errno);
  if (type == SOCK_STREAM) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  }
  struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = peer};
  epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted);
  *peer = (struct peer){.fd = fd};
}

static struct peer *open_peers(int number) {
  struct peer *peers = calloc(number + 1, sizeof *peers);
  for (int i = 0; i < number; i++) open_socket(&peers[i]);
  return peers;
}

/* Sends what the kernel takes. epoll tells when it takes more. */
static void push(struct peer *peer) {
  size_t left = bytes - peer->sent;
  int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
  ssize_t length = send(peer->fd, message + peer->sent, left, flags);
  if (length < 0 && errno != EAGAIN) fail("cannot send", errno);
  if (length > 0) peer->sent += length;
  int waits = peer->sent < bytes;
  if (waits == peer->waits_for_room) return;
  peer->waits_for_room = waits;
  struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = peer};
  if (waits) wanted.events |= EPOLLOUT;
  epoll_ctl(poller, EPOLL_CTL_MOD, peer->fd, &wanted);
}

/* Receives what is there. Returns whether the message is back in full. */
static int pull(struct peer *peer) {
  size_t left = bytes - peer->received;
  ssize_t length = recv(peer->fd, answer, left, MSG_DONTWAIT);
  if (length < 0 && errno == EAGAIN) return 0;
  if (length < 0) fail("cannot receive", errno);
  if (length == 0) fail("the server closed the connection", 0);
  if (memcmp(answer, message + peer->received, length)) {
    fail("what came back is not what was sent", 0);
  }
  peer->received += length;
  return peer->received == bytes;
}

static void start(struct peer *peer) {
  peer->sent = 0;
  peer->received = 0;
  push(peer);
}

static int wait_for_events(struct epoll_event *ready, int milliseconds) {
  int events = epoll_wait(poller, ready, MOST_EVENTS, milliseconds);
  if (events < 0) fail("cannot wait", errno);
  return events;
}

static void begin_exchange(struct peer *peer) {
  double now = read_clock(CLOCK_MONOTONIC);
  if (reconnects) open_socket(peer);
  peer->started = now;
  start(peer);
}

/* Connections are accepted in turn: when the last one is answered, all are. */
static void wait_until_served(struct peer *last) {
  start(last);
  while (!pull(last)) {
    usleep(1000);
    push(last);
    if (read_clock(CLOCK_MONOTONIC) > began + PATIENCE / 1000) {
      fail("no answer", 0);
    }
  }
}

/* When the time is over, what is under way is waited for: to close then would
 * be a reset. */
static void load_tcp(void) {
  struct epoll_event ready[MOST_EVENTS];
  struct peer *idle = open_peers(extra);
  struct peer *peers = open_peers(reconnects ? 0 : count);
  if (reconnects) peers = calloc(count, sizeof *peers);
  int open = count;
  begin();
  if (!reconnects) wait_until_served(&peers[count - 1]);
  begin();
  for (int i = 0; i < count; i++) begin_exchange(&peers[i]);
  while (open > 0) {
    int events = wait_for_events(ready, PATIENCE);
    if (events == 0) fail("no answer", 0);
    for (int i = 0; i < events; i++) {
      struct peer *peer = ready[i].data.ptr;
      if (peer->waits_for_room) push(peer);
      if (!(ready[i].events & ~EPOLLOUT) || !pull(peer)) continue;
      record(peer->started);
      if (over || reconnects) close(peer->fd);
      if (over) open--;
      else begin_exchange(peer);
    }
  }
  free(peers);
  free(idle);
}

static void receive_datagram(struct peer *peer, int *under_way) {
  ssize_t length = recv(peer->fd, answer, bytes + 1, MSG_DONTWAIT);
  if (length < 0 && errno == EAGAIN) return;
  if (length < 0) fail("cannot receive", errno);
  if ((size_t)length != bytes || memcmp(answer, message, bytes)) {
    fail("what came back is not what was sent", 0);
  }
  if (*under_way > 0) --*under_way; /* else one that was taken for lost */
  record(peer->started);
}

static void load_udp(void) {
  struct epoll_event ready[MOST_EVENTS];
  struct peer *peers = open_peers(count);
  int under_way = 0;
  int next = 0;
  begin();
  while (!over || under_way > 0) {
    for (; !over && under_way < extra; under_way++) {
      struct peer *peer = &peers[next++ % count];
      peer->started = read_clock(CLOCK_MONOTONIC);
      if (send(peer->fd, message, bytes, 0) < 0) fail("cannot send", errno);
    }
    int events = wait_for_events(ready, SILENCE);
    if (events == 0) {
      lost += under_way;
      under_way = 0;
      if (read_clock(CLOCK_MONOTONIC) > began + seconds + 5) {
        fail("no answer", 0);
      }
    }
    for (int i = 0; i < events; i++) {
      receive_datagram(ready[i].data.ptr, &under_way);
    }
  }
  free(peers);
}

static int compare(const void *a, const void *b) {
  double difference = *(const double *)a - *(const double *)b;
  return (difference > 0) - (difference < 0);
}

static double percentile(double share) {
  if (messages == 0) return 0;
  return times[(size_t)(share * (messages - 1))];
}

int main(int argc, char **argv) {
  if (argc != 7) {
    puts("usage: load tcp|connect|udp PORT COUNT BYTES SECONDS IDLE|WINDOW");
    return 2;
  }
  type = strcmp(argv[1], "udp") ? SOCK_STREAM : SOCK_DGRAM;
  reconnects = !strcmp(argv[1], "connect");
  port = atoi(argv[2]);
  count = atoi(argv[3]);
  bytes = strtoul(argv[4], NULL, 10);
  seconds = atof(argv[5]);
  extra = atoi(argv[6]);
  message = malloc(bytes + 1);
  answer = malloc(bytes + 1);
  for (size_t i = 0; i < bytes; i++) message[i] = (char)(33 + i % 94);
  poller = epoll_create1(0);
  if (type == SOCK_DGRAM) load_udp();
  else load_tcp();
  qsort(times, messages, sizeof *times, compare);
  printf("{\"messages\": %zu, \"lost\": %ld, ", messages, lost);
  printf("\"seconds\": %f, \"busy\": %f, ", took, busy);
  printf("\"p50\": %f, \"p99\": %f, ", percentile(0.5), percentile(0.99));
  printf("\"p999\": %f}\n", percentile(0.999));
  return 0;
}

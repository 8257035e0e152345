/*
 * The server that tools/bench_http.ts puts before http_get and curl. In C,
 * because a server in JavaScript would be the slowest part.
 *
 *     http_load FILE           prints its port, and serves until it is killed
 *     GET /BYTES/CHUNK         answers so many bytes, in chunks of so many
 *     GET /BYTES/0             answers so many bytes, and their number
 *     GET /                    answers what is in FILE, a header and a body
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD "HTTP/1.1 200 OK\r\n"
#define CHUNKED HEAD "Transfer-Encoding: chunked\r\n\r\n"
#define COUNTED HEAD "Content-Length: %zu\r\n\r\n"
#define BATCH (256 * 1024) /* bytes of body in a write, at least */

static int send_all(int conn, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t sent = write(conn, bytes, length);
    if (sent <= 0) return -1;
    bytes += sent;
    length -= sent;
  }
  return 0;
}

/*
 * A text of 26 letters a line. Without line ends, it would be slower to write:
 * Deno's stdout looks for the last one in what it is given.
 */
static char letter(size_t place) {
  return place % 27 == 26 ? '\n' : 'a' + place % 27;
}

/* Makes `count` chunks of `size` bytes. Returns how long all of them are. */
static size_t make_chunks(char *to, size_t count, size_t size) {
  char *at = to;
  for (size_t i = 0; i < count; i++) {
    at += sprintf(at, "%zx\r\n", size);
    for (size_t j = 0; j < size; j++) *at++ = letter(i + j);
    *at++ = '\r';
    *at++ = '\n';
  }
  return at - to;
}

static void answer_chunks(int conn, size_t bytes, size_t size) {
  size_t count = BATCH / size + 1;
  char *chunks = malloc(count * (size + 24));
  int failed = send_all(conn, CHUNKED, strlen(CHUNKED));
  size_t length = make_chunks(chunks, count, size);
  for (; !failed && bytes >= count * size; bytes -= count * size)
    failed = send_all(conn, chunks, length);
  length = make_chunks(chunks, bytes / size, size);
  if (!failed) failed = send_all(conn, chunks, length);
  if (!failed) send_all(conn, "0\r\n\r\n", 5);
  free(chunks);
}

static void answer_bytes(int conn, size_t bytes) {
  static char body[BATCH];
  char head[100];
  for (size_t i = 0; i < BATCH; i++) body[i] = letter(i);
  int failed = send_all(conn, head, sprintf(head, COUNTED, bytes));
  for (; !failed && bytes >= BATCH; bytes -= BATCH)
    failed = send_all(conn, body, BATCH);
  if (!failed) send_all(conn, body, bytes);
}

static void answer_file(int conn, const char *name) {
  int file = open(name, O_RDONLY);
  while (sendfile(conn, file, NULL, 1 << 30) > 0);
  close(file);
}

static void serve(int conn, const char *file) {
  char request[4096];
  size_t bytes, size;
  ssize_t length = read(conn, request, sizeof request - 1);
  request[length > 0 ? length : 0] = '\0';
  if (sscanf(request, "GET /%zu/%zu ", &bytes, &size) < 2)
    answer_file(conn, file);
  else if (size > 0)
    answer_chunks(conn, bytes, size);
  else
    answer_bytes(conn, bytes);
  close(conn);
}

int main(int argc, char **argv) {
  if (argc != 2) {
    puts("usage: http_load FILE");
    return 2;
  }
  struct sockaddr_in at = {.sin_family = AF_INET};
  socklen_t length = sizeof at;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  signal(SIGPIPE, SIG_IGN);
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, (struct sockaddr *)&at, length) < 0) return 1;
  if (listen(listener, 8) < 0) return 1;
  getsockname(listener, (struct sockaddr *)&at, &length);
  printf("%d\n", ntohs(at.sin_port));
  fflush(stdout);
  for (;;) {
    int conn = accept(listener, NULL, NULL);
    if (conn >= 0) serve(conn, argv[1]);
  }
}

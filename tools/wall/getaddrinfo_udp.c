/* The pattern of the server in the manual page getaddrinfo(3): datagrams of at
 * most 500 bytes go back to whom they came from. */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char *argv[]) {
  struct addrinfo hints = {0};
  struct addrinfo *found;
  int server = -1;

  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_DGRAM;
  hints.ai_flags = AI_PASSIVE;
  if (argc < 2 || getaddrinfo(NULL, argv[1], &hints, &found) != 0) {
    fprintf(stderr, "usage: getaddrinfo_udp PORT\n");
    return 1;
  }
  for (struct addrinfo *at = found; at != NULL; at = at->ai_next) {
    server = socket(at->ai_family, at->ai_socktype, at->ai_protocol);
    if (server == -1) continue;
    if (bind(server, at->ai_addr, at->ai_addrlen) == 0) break;
    close(server);
    server = -1;
  }
  freeaddrinfo(found);
  if (server == -1) return 1;
  for (;;) {
    char buffer[500];
    struct sockaddr_storage from;
    socklen_t size = sizeof from;
    ssize_t length = recvfrom(server, buffer, sizeof buffer, 0,
                              (struct sockaddr *)&from, &size);
    if (length == -1) continue; /* a failed request is ignored */
    sendto(server, buffer, length, 0, (struct sockaddr *)&from, size);
  }
}

# The lab sheet's echo server over UDP, in other words: an empty datagram ends it.
import socket
import sys

server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("", int(sys.argv[1])))
while True:
    data, address = server.recvfrom(1500)
    if data == b"":
        break
    server.sendto(data, address)
server.close()

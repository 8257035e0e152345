# An echo client. It fails when the answer arrives in several parts.
import socket
import sys

server = socket.create_connection(("localhost", int(sys.argv[1])))
server.sendall(b"hello from Python")
print(server.recv(1500))
server.close()

# An echo client. It fails when the answer does not come all at once.
import socket
import sys

server = socket.create_connection(("localhost", int(sys.argv[1])))
server.sendall(b"hello from Python")
print(server.recv(1500))
server.close()
